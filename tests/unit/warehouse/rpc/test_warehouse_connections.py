"""Who has to go where connections are many, and that a peer's connection is found whatever gRPC calls the peer."""

import socket
from collections.abc import Sequence

import pytest

from warehouse.rpc.connections import Client, Connections, crowded_out, room_for_strangers


def test_a_quarter_is_kept_free_by_strangers_but_some_may_always_come() -> None:
    assert [room_for_strangers(1000, known) for known in (0, 500, 625, 700, 1000)] == [750, 250, 125, 125, 125]
    assert room_for_strangers(1, 1) == 1


def clients(*addresses: str) -> list[Client]:
    """One connection after the other."""
    return [Client((address, number), address, float(number)) for number, address in enumerate(addresses)]


@pytest.mark.parametrize(
    ("addresses", "room", "gone"),
    [
        ("aaaa", 3, [0]),
        ("aaaa", 2, [0, 1]),
        # Who has the most goes first, though another one's is the oldest.
        ("baaa", 2, [1, 2]),
        ("abababb", 4, [0, 1, 3]),
        # As many each: the oldest.
        ("abc", 2, [0]),
        ("aa", 2, []),
    ],
)
def test_who_has_to_go(addresses: Sequence[str], room: int, gone: list[int]) -> None:
    assert sorted(client.socket_address[1] for client in crowded_out(clients(*addresses), room)) == gone


@pytest.mark.parametrize(
    ("family", "listen", "connect", "peer"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1", "ipv4:127.0.0.1:{}"),
        (socket.AF_INET6, "::1", "::1", "ipv6:%5B::1%5D:{}"),
        (socket.AF_INET6, "::", "127.0.0.1", "ipv4:127.0.0.1:{}"),
        (socket.AF_INET6, "::", "127.0.0.1", "ipv6:%5B::ffff:127.0.0.1%5D:{}"),
    ],
)
def test_who_has_shown_a_key_is_known(family: socket.AddressFamily, listen: str, connect: str, peer: str) -> None:
    ended: list[str] = []
    connections = Connections(2, ended.append)
    with socket.create_server((listen, 0), family=family, dualstack_ipv6=listen == "::") as server:
        port = server.getsockname()[1]
        with socket.create_connection((connect, port)) as client, server.accept()[0] as accepted:
            assert not connections.look(port)
            assert connections.open == {("known",): 0, ("strangers",): 1}
            connections.shown.add(peer.format(client.getsockname()[1]))
            with socket.create_connection((connect, port)) as other, server.accept()[0]:
                assert not connections.look(port)
                assert connections.open == {("known",): 1, ("strangers",): 1}
                with socket.create_connection((connect, port)) as newest, server.accept()[0]:
                    assert connections.look(port)
                    assert ended == ["connections"]
                    assert other.recv(1) == b""
                    client.sendall(b"x")
                    newest.sendall(b"x")
                    assert accepted.recv(1) == b"x"
        connections.look(port)
        assert connections.open == {("known",): 0, ("strangers",): 0}
