"""From what a client wrote to a number or an instant: one reader per kind, exactly as strict as the API's document.

Each takes what JSON or a query gives, and raises ValueError, with words for the client, for everything else. The
patterns are what the document shows.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from service_kit.currencies import CENT

INT64_MAX = 2**63 - 1
PRICE_MAX = Decimal("9999999999.99")

DECIMAL_PATTERN = r"^[0-9]{1,10}(\.[0-9]{1,2})?$"
DIGITS_PATTERN = r"^(0|[1-9][0-9]{0,18})$"
INSTANT_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-5][0-9])$"
)
DAY_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"

END_OF_TIME = datetime.max.replace(tzinfo=UTC)
"""The last instant there is here; what lies behind the last day."""


def _whole_match(pattern: str) -> Callable[[str], re.Match[str] | None]:
    # `$` alone would let a line end follow.
    return re.compile(pattern.removeprefix("^").removesuffix("$")).fullmatch


_is_decimal, _is_whole = _whole_match(DECIMAL_PATTERN), _whole_match(DIGITS_PATTERN)
_is_instant, _is_day = _whole_match(INSTANT_PATTERN), _whole_match(DAY_PATTERN)


def read_decimal(value: object) -> Decimal:
    """An amount to the cent, from a JSON number or a string of digits."""
    if isinstance(value, str):
        if not _is_decimal(value):
            raise ValueError("must be digits, with at most two decimal places: 19.99")
        return Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number or a decimal string")  # noqa: TRY004 - pydantic turns it into a violation
    amount = Decimal(value)
    if not amount.is_finite():
        raise ValueError("must be a finite number")
    if amount.is_signed() or amount > PRICE_MAX:
        raise ValueError(f"must be from 0 to {PRICE_MAX}, without a sign")
    if amount != (cents := amount.quantize(CENT)):
        raise ValueError("must have at most two decimal places")
    return cents


def read_whole(value: object) -> object:
    """A whole number of JSON as an int, 1.0 too; anything else as it is, for the checks that follow."""
    if isinstance(value, Decimal) and value.is_finite() and abs(value) <= INT64_MAX and value == int(value):
        return int(value)
    return value


def read_digits(value: object) -> int:
    """A whole number, not negative, written as it is in a path or a query."""
    if isinstance(value, str) and _is_whole(value):
        return int(value)
    raise ValueError("must be a whole number, not negative, of digits alone")


def is_digits(text: str) -> bool:
    """Whether `read_digits` takes it, and the database, too."""
    return _is_whole(text) is not None and int(text) <= INT64_MAX


def read_instant(value: object) -> datetime:
    """An instant as RFC 3339 writes it, in UTC."""
    if isinstance(value, str) and _is_instant(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError("is no instant that exists") from None
    raise ValueError("must be an instant as in RFC 3339: 2026-11-20T12:00:00Z")


def read_start(value: object) -> datetime:
    """An instant, or the first one of a day (UTC)."""
    day = _day(value)
    return _instant_or_day(value) if day is None else datetime.combine(day, time(), UTC)


def read_end(value: object) -> datetime:
    """An instant, or the first one after a day (UTC); of the last day there is, its last one."""
    day = _day(value)
    if day is None:
        return _instant_or_day(value)
    if day == date.max:
        return END_OF_TIME
    return datetime.combine(day + timedelta(days=1), time(), UTC)


def _day(value: object) -> date | None:
    if not isinstance(value, str) or not _is_day(value):
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("is no day that exists") from None


def _instant_or_day(value: object) -> datetime:
    try:
        return read_instant(value)
    except ValueError as error:
        raise ValueError(f"{error}, or a day: 2026-11-20") from None
