"""Whose address a call comes from, where proxies stand in between. PURE.

`X-Forwarded-For` can be written by anybody. Only what a trusted proxy has added counts: from the right, as far as
the addresses are those of trusted proxies, and the first one that is not.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import chain

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
IPV6_CUSTOMER_BITS = 64
"""A customer has a network of this length, and all addresses in it."""


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[Network]) -> str:
    """Who is behind a call, as far as can be told: an IPv4 address, or an IPv6 network of one customer.

    Args:
        peer: the address of the connection; what is none is given back as it is.
        forwarded_for: the headers X-Forwarded-For, in the order in which they came.
        trusted: networks of proxies that are believed.
    """
    last = _address(peer)
    if last is None:
        return peer
    hops = [hop.strip() for hop in chain.from_iterable(header.split(",") for header in forwarded_for)]
    while hops and any(last in network for network in trusted):
        before = _address(hops.pop())
        if before is None:
            # Nothing to the left of what is no address can be believed.
            break
        last = before
    if isinstance(last, IPv6Address):
        return str(IPv6Network((last, IPV6_CUSTOMER_BITS), strict=False))
    return str(last)


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Whether a connection's address is that of a trusted proxy."""
    address = _address(peer)
    return address is not None and any(address in network for network in trusted)


def _address(text: str) -> Address | None:
    """An address, perhaps with a port; IPv4 in IPv6's clothes is IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
