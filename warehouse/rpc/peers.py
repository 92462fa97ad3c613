"""What gRPC calls a peer, read. PURE."""

from urllib.parse import unquote


def address_of(peer: str) -> str:
    """The address in what gRPC calls a peer: ipv4:127.0.0.1:4242, ipv6:%5B::1%5D:4242; what is none as it is."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    return unquote(rest).rpartition(":")[0].strip("[]")


def port_of(peer: str) -> int:
    """The port; 0, if there is none."""
    port = peer.rpartition(":")[2]
    return int(port) if port.isdecimal() else 0
