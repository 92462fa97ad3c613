"""Whose address a request comes from: what anybody can write into a header is not believed."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.client_addresses import client_address

PROXIES = [ip_network("10.0.0.0/8"), ip_network("192.0.2.7/32"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "headers", "found"),
    [
        # Nobody stands in between: whatever the header says is the client's own invention.
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),
        ("203.0.113.5", ["10.0.0.1"], "203.0.113.5"),
        # One proxy, which appends: what stands to the left of its entry was sent by the client.
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["10.9.9.9, 203.0.113.5"], "203.0.113.5"),
        # The same in several headers, as some proxies append.
        ("10.0.0.1", ["198.51.100.1", "203.0.113.5"], "203.0.113.5"),
        # Several proxies.
        ("10.0.0.1", ["198.51.100.1, 203.0.113.5, 192.0.2.7", "10.0.0.2"], "203.0.113.5"),
        # All of them are ours: the leftmost is the client.
        ("10.0.0.1", ["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        # What is no address ends it.
        ("10.0.0.1", ["203.0.113.5, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5, "], "10.0.0.1"),
        # Ports, brackets, IPv4 in IPv6.
        ("10.0.0.1", ["203.0.113.5:4711"], "203.0.113.5"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.5"], "203.0.113.5"),
        # A customer has a whole network of IPv6 addresses.
        ("fd00::1", ["[2001:db8:1:2:3:4:5:6]:4711"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", ["203.0.113.5"], "2001:db8:1:2::/64"),
        ("", [], ""),
    ],
)
def test_the_client_is_the_rightmost_that_is_no_proxy_of_ours(peer: str, headers: list[str], found: str) -> None:
    assert client_address(peer, headers, PROXIES) == found


@given(st.lists(st.text(max_size=20), max_size=5))
def test_no_header_moves_a_client_that_came_directly(headers: list[str]) -> None:
    assert client_address("203.0.113.5", headers, PROXIES) == "203.0.113.5"


@given(st.lists(st.text(max_size=20), max_size=5))
def test_what_a_client_sends_along_changes_nothing_behind_a_proxy(sent: list[str]) -> None:
    assert client_address("10.0.0.1", [*sent, "203.0.113.5"], PROXIES) == "203.0.113.5"
