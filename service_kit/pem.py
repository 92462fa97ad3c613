"""Whether files of certificates and keys can be used, in words that name the setting and the file."""

from collections.abc import Callable, Sequence
from pathlib import Path


def check_certificates(setting: str, path: Path) -> str:
    """What is wrong with a file of certificates; "" if nothing is."""
    return _problem(setting, path, certificates)


def check_pair(certificate_setting: str, certificate: Path, key_setting: str, key: Path) -> list[str]:
    """What is wrong with a certificate and its key, which are in two files."""
    problems = [
        check_certificates(certificate_setting, certificate),
        _problem(key_setting, key, _public_of_key),
    ]
    found = [problem for problem in problems if problem]
    if not found and not is_pair(certificate.read_bytes(), key.read_bytes()):
        found = [f"{key_setting}: {key} is not the key of the certificate {certificate} ({certificate_setting})"]
    return found


def certificates(content: bytes) -> Sequence[object]:
    """The certificates in a PEM file. Raises: ValueError, if there is none."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ValueError("it holds no PEM certificate") from error


def is_pair(certificate: bytes, key: bytes) -> bool:
    """Whether a private key belongs to the first certificate of a chain. Raises: ValueError, if one can't be read."""
    from cryptography import x509

    leaf = certificates(certificate)[0]
    assert isinstance(leaf, x509.Certificate)
    return leaf.public_key() == _public_of_key(key)


def _public_of_key(content: bytes) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(content, None).public_key()
    except TypeError as error:
        raise ValueError("it is encrypted; give one without a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it holds no PEM private key") from error


def _problem(setting: str, path: Path, read: Callable[[bytes], object]) -> str:
    try:
        read(path.read_bytes())
    except OSError as error:
        return f"{setting}: {path} can't be read: {error.strerror}"
    except ValueError as error:
        return f"{setting}: {path} can't be used: {error}"
    return ""
