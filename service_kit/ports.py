"""The port that a service listens on: its own alone, whoever else would share it.

gRPC and Linux let any number of processes of one user listen on one port, if all of them ask for it (SO_REUSEPORT),
and spread the callers over them. Between the workers of one supervisor that is what is wanted; between two servers with
different databases half of the calls go astray. So only the first who takes a port alone may then share it.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from service_kit.starting import NotStarted

PORT_MAX = 65_535
_ADVICE = {
    errno.EADDRINUSE: "the port is taken by another process; stop that one, or set another port",
    errno.EADDRNOTAVAIL: "this machine has no such address; set one that it has",
    errno.EACCES: "this user must not take that port; set one of 1024 or more",
}

_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class _NotHere(NotStarted):
    """One of the addresses of a name, as ::1 of localhost, is none of this machine."""


def split_address(listen: str) -> tuple[str, int]:
    """Host, without brackets, and port of host:port."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def address_problem(setting: str, listen: str, error: OSError) -> NotStarted:
    """Why an address can't be had, in a line."""
    number = error.errno if error.errno is not None else errno.EADDRINUSE
    why = f"{error.strerror or error}; set an address of this machine" if isinstance(error, socket.gaierror) else None
    return NotStarted(f"{setting}: can't listen on {listen}: {why or _ADVICE.get(number) or error.strerror or error}")


def require_free(setting: str, listen: str) -> None:
    """Raises: NotStarted, if any of the addresses that `listen` stands for is taken, or can't be had."""
    with hold_alone(setting, listen):
        pass


@contextmanager
def hold_alone(setting: str, listen: str) -> Iterator[str]:
    """Take an address alone, then let it be shared by who asks for that, for the time of a `with`.

    Gives the address with its port: port 0 is the same free port for all who share it.

    Raises: NotStarted, if the address is taken, shared or not, or can't be had.
    """
    host, port = split_address(listen)
    held: list[socket.socket] = []
    try:
        missing: list[NotStarted] = []
        for family, address in _socket_addresses(setting, listen, host, port):
            try:
                held.append(_take(setting, listen, family, address))
            except _NotHere as problem:
                missing.append(problem)
        if not held:
            raise missing[0]
        number = held[0].getsockname()[1]
        yield f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
    finally:
        for taken in held:
            taken.close()


def _socket_addresses(setting: str, listen: str, host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    if port > PORT_MAX:
        raise NotStarted(f"{setting}: can't listen on {listen}: there is no port {port}; set one up to {PORT_MAX}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise address_problem(setting, listen, error) from error
    addresses = [
        (int(family), (str(address[0]), int(address[1]))) for family, _kind, _protocol, _name, address in found
    ]
    # With port 0 each would get another one.
    return addresses if port else addresses[:1]


def _take(setting: str, listen: str, family: int, address: tuple[str, int]) -> socket.socket:
    try:
        try:
            return _bound(family, address, reuse=False)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            # It may only be that connections of an earlier server are still dying (TIME_WAIT).
            return _bound(family, address, reuse=True)
    except OSError as error:
        problem = address_problem(setting, listen, error)
        raise (_NotHere(str(problem)) if error.errno in _ABSENT else problem) from error


def _bound(family: int, address: tuple[str, int], *, reuse: bool) -> socket.socket:
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        taken.bind(address)
        # Alone so far; from here on others may join, but only those who ask for it, and nobody who wants it alone.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        taken.close()
        raise
    return taken
