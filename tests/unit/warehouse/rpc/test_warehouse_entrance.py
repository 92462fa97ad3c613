"""Who calls the warehouse from where, as gRPC tells it and as proxies say."""

from ipaddress import ip_network
from typing import Any

import pytest

from service_kit.attempt_limit import AttemptLimit
from warehouse.auth import Keyring
from warehouse.rpc.entrance import Entrance
from warehouse.rpc.peers import address_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:203.0.113.5:4711", "203.0.113.5"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:4711", "2001:db8:1:2:3::4"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1%eth0"),
        ("unix:", "unix:"),
        ("unix:/run/stock.sock", "unix:/run/stock.sock"),
        ("", ""),
    ],
)
def test_the_address_in_what_grpc_calls_a_peer(peer: str, address: str) -> None:
    assert address_of(peer) == address


class _Call:
    def __init__(self, peer: str, *forwarded: str) -> None:
        self._peer = peer
        self._forwarded = forwarded

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> Any:
        return [("te", "trailers"), *(("x-forwarded-for", one) for one in self._forwarded)]


@pytest.mark.parametrize(
    ("call", "client"),
    [
        (_Call("ipv4:203.0.113.5:1"), "203.0.113.5"),
        # Not believed, as it came directly.
        (_Call("ipv4:203.0.113.5:1", "198.51.100.1"), "203.0.113.5"),
        (_Call("ipv4:10.0.0.1:1", "198.51.100.1, 203.0.113.5"), "203.0.113.5"),
        (_Call("ipv6:%5B::ffff:203.0.113.5%5D:1"), "203.0.113.5"),
        # One customer has a whole network.
        (_Call("ipv6:%5B2001:db8:1:2:3::4%5D:1"), "2001:db8:1:2::/64"),
        (_Call("unix:"), "unix:"),
    ],
)
def test_the_client_of_a_call(call: Any, client: str) -> None:
    entrance = Entrance(Keyring([]), AttemptLimit(1), [ip_network("10.0.0.0/8")])
    assert entrance.client_of(call) == client
    if call.invocation_metadata()[1:] == []:
        assert Entrance(Keyring([]), AttemptLimit(1)).client_of(call) == client
