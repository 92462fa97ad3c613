"""The server's side of TLS: certificate, key and the CA of its clients, from files that may be renewed as it runs."""

from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import grpc

from service_kit.pem import certificates, is_pair
from service_kit.reloadable_files import ReloadableFiles

LOOK_SECONDS = 1.0
"""A new connection finds out whether the files have changed, but not more often than this."""


def server_credentials(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """What encrypts the connections of clients: each new one with the newest files that belong together.

    Args:
        client_ca: with it only clients with a certificate of this authority may call.

    Raises: OSError, ValueError: the files can't be used.
    """
    paths = [certificate, key, *([client_ca] if client_ca else [])]
    files = ReloadableFiles("TLS certificate and key", paths, _configuration)
    looked_at = monotonic()

    def newest() -> grpc.ServerCertificateConfiguration | None:
        # gRPC asks before each handshake, in a thread of its own; None: go on with what it has.
        nonlocal looked_at
        if monotonic() - looked_at < LOOK_SECONDS:
            return None
        looked_at = monotonic()
        return files.content if files.reload() else None

    # Its documentation allows None; the published types do not know.
    return grpc.dynamic_ssl_server_credentials(files.content, newest, client_ca is not None)  # type: ignore[arg-type]


def _configuration(contents: Sequence[bytes]) -> grpc.ServerCertificateConfiguration:
    certificate, key, *client_ca = contents
    if not is_pair(certificate, key):
        raise ValueError("the key is not that of the certificate")
    for authority in client_ca:
        certificates(authority)
    return grpc.ssl_server_certificate_configuration([(key, certificate)], *client_ca)
