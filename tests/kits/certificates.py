"""Certificates for tests: an authority of one's own, and what it signs for 127.0.0.1."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Signs certificates into a folder, which it makes if it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        self.certificate = folder / "ca.pem"
        folder.mkdir(exist_ok=True)
        self._write(self.certificate, self.name, self.key, is_authority=True)

    def issue(self, name: str, *, host: str = "") -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key, in files; those of an earlier one of that name are replaced.

        Args:
            host: the name of another host that it is for instead.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        unencrypted = serialization.NoEncryption()
        key_path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
        )
        self._write(
            certificate, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, host, is_authority=False
        )
        return certificate, key_path

    def _write(
        self, path: Path, name: x509.Name, key: ec.EllipticCurvePrivateKey, host: str = "", *, is_authority: bool
    ) -> None:
        now = datetime.datetime.now(datetime.UTC)
        here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        subject = x509.SubjectAlternativeName([x509.DNSName(host) if host else here])
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(subject, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
