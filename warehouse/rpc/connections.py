"""Whose connections are open, and which of them go where room is needed.

gRPC's core counts the connections it has accepted and turns further ones away; whose they are it can't be told, so that
strangers could keep everybody else out by opening as many as there may be. Therefore this process looks at its own
sockets, a few times a second. A connection on which nobody has shown a valid key yet is a stranger's. Some room is
always kept free: strangers' connections go before that is used up, first those of who has the most of them, and of
these the oldest. So a caller who comes with a key is let in, and once the key is shown, stays.
"""

import asyncio
import errno
import os
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import msgspec

from service_kit.client_addresses import client_address
from warehouse.rpc.peers import address_of, port_of

OPEN_FILES = Path("/proc/self/fd")
"""Where Linux lists what this process has open."""
LOOK_SECONDS = 0.2
"""Between two looks."""
CROWDED_LOOK_SECONDS = 0.05
"""Where the last look had to make room: to leave none, strangers would have to open all that is kept free meanwhile."""
USED_SHARE_MAX = 0.75
"""Of all connections; the rest is for those who come next."""
STRANGERS_SHARE_MIN = 0.125
"""Of all connections, even if those with a key use up the rest: who comes next is a stranger at first."""


class Client(msgspec.Struct):
    """A connection that somebody has made to this server.

    Attributes:
        socket_address: address and port, as of the client's socket.
        address: whom it counts for: an IPv4 address, or an IPv6 network of one customer.
        since: when it was first seen (monotonic time).
    """

    socket_address: tuple[str, int]
    address: str
    since: float
    is_known: bool = False
    is_cut: bool = False


class Connections:
    """Those that are open now.

    Attributes:
        most: how many gRPC is to accept.
        shown: what gRPC calls the peers of calls that came with a valid key since the last look; to be added to.

    Args:
        connections_max: how many gRPC is to accept.
        note: is told the name of the bound whenever it ends a connection.
    """

    def __init__(self, connections_max: int, note: Callable[[str], None]) -> None:
        self.shown: set[str] = set()
        self.most = connections_max
        self._note = note
        self._seen: dict[int, Client | None] = {}

    @property
    def open(self) -> dict[tuple[str, ...], float]:
        """How many there were at the last look, of whom."""
        clients = self._clients()
        known = sum(client.is_known for client in clients)
        return {("known",): known, ("strangers",): len(clients) - known}

    async def watch(self, port: int) -> None:
        """Look again and again at what is connected to `port`; never returns."""
        while True:
            is_crowded = self.look(port)
            await asyncio.sleep(CROWDED_LOOK_SECONDS if is_crowded else LOOK_SECONDS)

    def look(self, port: int) -> bool:
        """See who is there, and end those that there is no room for; whether there were any."""
        self._see(port)
        clients = self._clients()
        strangers = [client for client in clients if not client.is_known]
        room = room_for_strangers(self.most, len(clients) - len(strangers))
        if len(strangers) <= room:
            return False
        self._cut(crowded_out(strangers, room))
        return True

    def _see(self, port: int) -> None:
        self._seen = {inode: self._client(number, inode, port) for number, inode in _sockets()}
        shown = {_place_of(peer) for peer in self.shown}
        self.shown.clear()
        for client in self._clients():
            client.is_known = client.is_known or client.socket_address in shown

    def _client(self, number: int, inode: int, port: int) -> Client | None:
        return self._seen[inode] if inode in self._seen else _described(number, inode, port)

    def _clients(self) -> list[Client]:
        return [client for client in self._seen.values() if client is not None and not client.is_cut]

    def _cut(self, clients: Iterable[Client]) -> None:
        for client in clients:
            client.is_cut = True
            self._note("connections")
        for number, inode in _sockets():
            there = self._seen.get(inode)
            if there is not None and there.is_cut:
                _shut_down(number, inode)


def room_for_strangers(connections_max: int, known: int) -> int:
    """How many connections strangers may have beside `known` ones of others."""
    return max(int(connections_max * USED_SHARE_MAX) - known, int(connections_max * STRANGERS_SHARE_MIN), 1)


def crowded_out(strangers: Sequence[Client], room: int) -> list[Client]:
    """Which of them have to go, so that no more than `room` stay.

    Those of who has the most go first, until others have as many; among those of one address the oldest.
    """
    newer: Counter[str] = Counter()
    ranked: list[tuple[int, Client]] = []
    for client in sorted(strangers, key=lambda one: one.since, reverse=True):
        ranked.append((newer[client.address], client))
        newer[client.address] += 1
    ranked.sort(key=lambda one: (one[0], -one[1].since))
    return [client for _, client in ranked[room:]]


def _sockets() -> list[tuple[int, int]]:
    """Of all sockets of this process their descriptors and inodes, of which no two are ever the same."""
    found = []
    for name in os.listdir(OPEN_FILES):  # noqa: PTH208 - paths would take longer than all the rest
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # closed meanwhile
        if stat.S_ISSOCK(status.st_mode):
            found.append((int(name), status.st_ino))
    return found


def _copied(number: int, inode: int) -> socket.socket | None:
    """A socket by a descriptor of its own: gRPC may close its at any time, and another file may get that number."""
    try:
        own = os.dup(number)
    except OSError as error:
        if error.errno == errno.EBADF:
            return None
        raise
    if os.fstat(own).st_ino == inode:
        return socket.socket(fileno=own)
    os.close(own)
    return None


def _described(number: int, inode: int, port: int) -> Client | None:
    copy = _copied(number, inode)
    if copy is None:
        return None
    with copy:
        try:
            if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.getsockname()[1] != port:
                return None
            address, client_port, *_ = copy.getpeername()
        except OSError:
            return None  # it listens, or the client is gone
    return Client((_plain(address), client_port), client_address(address, (), ()), time.monotonic())


def _shut_down(number: int, inode: int) -> None:
    """End a connection; gRPC notices, and closes its side."""
    copy = _copied(number, inode)
    if copy is None:
        return
    with copy:
        try:
            copy.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the client was faster


def _place_of(peer: str) -> tuple[str, int]:
    """Address and port in what gRPC calls a peer."""
    return _plain(address_of(peer)), port_of(peer)


def _plain(address: str) -> str:
    """An address as everybody writes it; IPv4 in IPv6's clothes is IPv4."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else str(parsed)
