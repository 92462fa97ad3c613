"""Whose address a request comes from, where proxies stand in between."""

from collections.abc import Sequence
from functools import lru_cache

from aiohttp import web

from service_kit.client_addresses import Network, client_address


def client_of(request: web.Request, trusted: Sequence[Network]) -> str:
    """Who is behind a request, as far as can be told: an IPv4 address, or an IPv6 network of one customer."""
    peer = request.remote or ""
    if not trusted:
        return _directly(peer)
    return client_address(peer, request.headers.getall("X-Forwarded-For", ()), trusted)


@lru_cache(maxsize=10_000)
def _directly(peer: str) -> str:
    return client_address(peer, (), ())
