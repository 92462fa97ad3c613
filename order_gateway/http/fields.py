"""The kinds of values that clients send: what validates each, and what the API's document says about it."""

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from order_gateway.access import WAIT_SECONDS_MAX

INT64_MAX = 2**63 - 1
QUANTITY_MAX = 1_000_000
COUNT_MAX = 1_000_000_000
ITEMS_MAX = 100
PRICE_MAX = Decimal("9999999999.99")
PAGE_MAX = 10_000
LIMIT_MAX = 100

_DIGITS = re.compile(r"[0-9]{1,19}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CONTROL = r"\x00-\x1f\x7f-\x9f"
_CONTROL_BUT_LINES = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"


class Body(BaseModel):
    """Exact types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Query(Body):
    """Parameters of the query; all come as text."""


def _money(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError("must be a number or a decimal string")  # noqa: TRY004 - pydantic turns it into a violation
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise ValueError("must be a decimal number") from None
    if not amount.is_finite():
        raise ValueError("must be a finite number")
    if not 0 <= amount <= PRICE_MAX:
        raise ValueError(f"must be from 0 to {PRICE_MAX}")
    if amount != round(amount, 2):
        raise ValueError("must have at most two decimal places")
    return amount


def _whole(value: object) -> object:
    """1.0 is a whole number in JSON; other things are left to the checks that follow."""
    if isinstance(value, Decimal) and abs(value) <= INT64_MAX and value == value.to_integral_value():
        return int(value)
    return value


def _user(value: object) -> str:
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= INT64_MAX:
        return str(value)
    if isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable() and value == value.strip():
        return value
    raise ValueError("must be a positive integer, or 1 to 64 printable characters without spaces around them")


def _order_reference(value: object) -> str:
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= INT64_MAX:
        return str(value)
    if isinstance(value, str) and re.fullmatch(r"[!-~]([ -~]{0,62}[!-~])?", value):
        return value
    raise ValueError("must be a positive integer, or 1 to 64 ASCII characters without spaces around them")


def _digits(value: object) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    raise ValueError("must be a whole number, not negative")


def _instant(value: object) -> datetime:
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError("is no instant that exists") from None
    raise ValueError("must be an instant as in RFC 3339: 2026-11-20T12:00:00Z")


def _day_or_instant(value: object, end_of_day: bool) -> datetime:
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            day = date.fromisoformat(value)
            return datetime.combine(day + timedelta(days=1 if end_of_day else 0), time(), UTC)
        except (ValueError, OverflowError):
            raise ValueError("is no day that exists") from None
    try:
        return _instant(value)
    except ValueError as error:
        raise ValueError(f"{error}, or a day: 2026-11-20") from None


def _text(most: int, least: int = 0, *, lines: bool = False) -> Any:
    control = _CONTROL_BUT_LINES if lines else _CONTROL
    pattern = rf"^[^{control}]*[^\s{control}][^{control}]*$" if least else rf"^[^{control}]*$"
    return StringConstraints(min_length=least, max_length=most, pattern=pattern)


_POSITIVE = {"type": "integer", "format": "int64", "minimum": 1, "maximum": INT64_MAX}
_DAY = {"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}], "examples": ["2026-11-20"]}

Id = Annotated[int, Field(ge=1, le=INT64_MAX, json_schema_extra={"format": "int64"}), BeforeValidator(_whole)]
Quantity = Annotated[int, Field(ge=1, le=QUANTITY_MAX), BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=0, le=COUNT_MAX), BeforeValidator(_whole)]
Money = Annotated[
    Decimal,
    BeforeValidator(_money),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": float(PRICE_MAX)},
                {"type": "string", "pattern": r"^[0-9]{1,10}(\.[0-9]{1,2})?$"},
            ],
            "description": "to the cent",
        },
        mode="validation",
    ),
]
UserId = Annotated[
    str,
    BeforeValidator(_user),
    WithJsonSchema({"anyOf": [_POSITIVE, {"type": "string", "minLength": 1, "maxLength": 64}]}, mode="validation"),
]
OrderReference = Annotated[
    str,
    BeforeValidator(_order_reference),
    WithJsonSchema(
        {"anyOf": [_POSITIVE, {"type": "string", "pattern": r"^[!-~]([ -~]{0,62}[!-~])?$"}]}, mode="validation"
    ),
]
Instant = Annotated[
    datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"}, mode="validation")
]
Word = Annotated[str, _text(64, 1)]
Address = Annotated[str, _text(1000, 1, lines=True)]
Note = Annotated[str, _text(255)]
Reference = Annotated[str, _text(128, 1)]
Currency = Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")]
Uuid = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]

# In the path and the query numbers come as text.
IdText = Annotated[int, Field(ge=1, le=INT64_MAX, json_schema_extra={"format": "int64"}), BeforeValidator(_digits)]
Page = Annotated[int, Field(ge=1, le=PAGE_MAX), BeforeValidator(_digits)]
Limit = Annotated[int, Field(ge=1, le=LIMIT_MAX), BeforeValidator(_digits)]
WaitSeconds = Annotated[int, Field(ge=0, le=WAIT_SECONDS_MAX), BeforeValidator(_digits)]
From = Annotated[
    datetime, BeforeValidator(lambda value: _day_or_instant(value, False)), WithJsonSchema(_DAY, mode="validation")
]
Until = Annotated[
    datetime, BeforeValidator(lambda value: _day_or_instant(value, True)), WithJsonSchema(_DAY, mode="validation")
]


class ById(Query):
    """The path of one order."""

    id: IdText


class PageQuery(Query):
    """Which part of a list."""

    page: Page = 1
    limit: Limit = 10
