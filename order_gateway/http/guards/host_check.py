"""Refuses names that this service does not go by.

A page from anywhere can have its own name lead to this machine (DNS rebinding); the browser of somebody who works here
then sends what the page asks for to us, as to the page's own server. Such a request names the page's host. Everybody
knows the keys of the development profile, so there, only who asks for this machine by address or by a name that is
known, or that has no dot and so is no public name, is answered.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address

from aiohttp import web

from order_gateway.http.guards.guard import Guard
from order_gateway.http.wire.errors import ApiError

LOCAL = "localhost"
HOSTS_CACHED_MAX = 256
"""Different Host headers; nearly all requests have the same few."""
_DOTLESS = re.compile(r"[a-z0-9_-]+")


def host_guard(known: Collection[str]) -> Guard:
    """Let only requests through that name an address, a name without a dot, or one of the `known` names."""
    names = frozenset(name.lower() for name in known)

    @lru_cache(maxsize=HOSTS_CACHED_MAX)
    def is_known(host: str) -> bool:
        return is_ours(host, names)

    def check(request: web.Request) -> None:
        given = request.headers.getall("Host", [])
        if not all(map(is_known, given)):
            raise ApiError(
                "PERMISSION_DENIED",
                "the development profile answers to addresses, to names without a dot and to those in "
                "ORDERS_HOST_NAMES; the header Host names something else",
            )

    return check


def is_ours(host: str, names: Collection[str]) -> bool:
    """Whether a Host header is an address, a name without a dot, or one of `names`; with a port or without."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name = host
    elif not (port.isascii() and port.isdigit()):
        return False
    name = name.lower()
    if name in names or name.endswith(f".{LOCAL}") or _DOTLESS.fullmatch(name):
        return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
