"""Page tokens: where a listing goes on, tied to the filters it began with. Pure."""

import base64
import binascii
from collections.abc import Sequence

import msgspec

from warehouse.validation import PAGE_SIZE_MAX, Checks, InvalidRequest

TOKEN_LENGTH_MAX = 1024
"""A token holds some ids and an instant: half of this at most."""
Cursor = tuple[int | str, ...]


class _Token(msgspec.Struct, array_like=True):
    filters: list[int | str]
    cursor: list[int | str]


def page_size(wanted: int, default: int) -> int:
    """The page size to use for a request's `page_size`. Raises: InvalidRequest."""
    checks = Checks()
    checks.number("page_size", wanted, 0, PAGE_SIZE_MAX)
    checks.done()
    return wanted or default


def make_token(filters: Sequence[int | str], cursor: Cursor) -> str:
    """A token for the page that begins after `cursor`."""
    return base64.urlsafe_b64encode(msgspec.json.encode(_Token(list(filters), list(cursor)))).decode()


def read_token(token: str, filters: Sequence[int | str], shape: tuple[type, ...]) -> Cursor | None:
    """The cursor in `token`, whose elements have the types of `shape`; None for the first page.

    Raises: InvalidRequest, for a token that is damaged or belongs to other filters.
    """
    if not token:
        return None
    if len(token) > TOKEN_LENGTH_MAX:
        raise InvalidRequest([("page_token", "is not a token of this server")])
    try:
        parsed = msgspec.json.decode(base64.urlsafe_b64decode(token.encode()), type=_Token)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise InvalidRequest([("page_token", "is not a token of this server")]) from error
    if parsed.filters != list(filters):
        raise InvalidRequest([("page_token", "belongs to a listing with other filters")])
    if tuple(type(part) for part in parsed.cursor) != shape:
        raise InvalidRequest([("page_token", "is not a token of this listing")])
    return tuple(parsed.cursor)
