"""The kinds of values that clients send: what validates each, and what the API's document says about it."""

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from order_gateway.access import WAIT_SECONDS_MAX
from order_gateway.http.wire.readers import (
    DAY_PATTERN,
    DECIMAL_PATTERN,
    INSTANT_PATTERN,
    INT64_MAX,
    PRICE_MAX,
    read_decimal,
    read_digits,
    read_end,
    read_instant,
    read_start,
    read_whole,
)

QUANTITY_MAX = 1_000_000
COUNT_MAX = 1_000_000_000
ITEMS_MAX = 100
PAGE_MAX = 10_000
LIMIT_MAX = 100

_CONTROL = r"\x00-\x1f\x7f-\x9f"
_CONTROL_BUT_LINES = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"


class Body(BaseModel):
    """Exact types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Query(Body):
    """Parameters of the query; all come as text."""


def _user(value: object) -> str:
    value = read_whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= INT64_MAX:
        return str(value)
    if isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable() and value == value.strip():
        return value
    raise ValueError("must be a positive integer, or 1 to 64 printable characters without spaces around them")


def _order_reference(value: object) -> str:
    value = read_whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= INT64_MAX:
        return str(value)
    if isinstance(value, str) and re.fullmatch(r"[!-~]([ -~]{0,62}[!-~])?", value):
        return value
    raise ValueError("must be a positive integer, or 1 to 64 ASCII characters without spaces around them")


def _text(most: int, least: int = 0, *, lines: bool = False) -> Any:
    control = _CONTROL_BUT_LINES if lines else _CONTROL
    pattern = rf"^[^{control}]*[^\s{control}][^{control}]*$" if least else rf"^[^{control}]*$"
    return StringConstraints(min_length=least, max_length=most, pattern=pattern)


_POSITIVE = {"type": "integer", "format": "int64", "minimum": 1, "maximum": INT64_MAX}
_INSTANT = {"type": "string", "format": "date-time", "pattern": INSTANT_PATTERN}
DAY = {
    "type": "string",
    "anyOf": [{"format": "date", "pattern": DAY_PATTERN}, {"format": "date-time", "pattern": INSTANT_PATTERN}],
    "examples": ["2026-11-20"],
}

Id = Annotated[int, Field(ge=1, le=INT64_MAX, json_schema_extra={"format": "int64"}), BeforeValidator(read_whole)]
Quantity = Annotated[int, Field(ge=1, le=QUANTITY_MAX), BeforeValidator(read_whole)]
Count = Annotated[int, Field(ge=0, le=COUNT_MAX), BeforeValidator(read_whole)]
Money = Annotated[
    Decimal,
    BeforeValidator(read_decimal),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": float(PRICE_MAX)},
                {"type": "string", "pattern": DECIMAL_PATTERN},
            ],
            "description": "to the cent, without a sign",
        },
        mode="validation",
    ),
]
USER_ID = {"anyOf": [_POSITIVE, {"type": "string", "minLength": 1, "maxLength": 64}]}
UserId = Annotated[str, BeforeValidator(_user), WithJsonSchema(USER_ID, mode="validation")]
OrderReference = Annotated[
    str,
    BeforeValidator(_order_reference),
    WithJsonSchema(
        {"anyOf": [_POSITIVE, {"type": "string", "pattern": r"^[!-~]([ -~]{0,62}[!-~])?$"}]}, mode="validation"
    ),
]
Instant = Annotated[datetime, BeforeValidator(read_instant), WithJsonSchema(_INSTANT, mode="validation")]
Word = Annotated[str, _text(64, 1)]
Address = Annotated[str, _text(1000, 1, lines=True)]
Note = Annotated[str, _text(255)]
Reference = Annotated[str, _text(128, 1)]
Currency = Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")]
Uuid = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]

# In the path and the query numbers come as text.
IdText = Annotated[int, Field(ge=1, le=INT64_MAX, json_schema_extra={"format": "int64"}), BeforeValidator(read_digits)]
Page = Annotated[int, Field(ge=1, le=PAGE_MAX), BeforeValidator(read_digits)]
Limit = Annotated[int, Field(ge=1, le=LIMIT_MAX), BeforeValidator(read_digits)]
WaitSeconds = Annotated[int, Field(ge=0, le=WAIT_SECONDS_MAX), BeforeValidator(read_digits)]
From = Annotated[datetime, BeforeValidator(read_start), WithJsonSchema(DAY, mode="validation")]
Until = Annotated[datetime, BeforeValidator(read_end), WithJsonSchema(DAY, mode="validation")]


def unset_if_empty(schema: dict[str, Any]) -> tuple[BeforeValidator, WithJsonSchema]:
    """For a parameter of a query that may be given empty (`?status=`), which is the same as not at all.

    Args:
        schema: of the values that it has otherwise.
    """
    kinds = {"anyOf": [schema, {"type": "string", "maxLength": 0}]}
    return BeforeValidator(lambda value: None if value == "" else value), WithJsonSchema(kinds, mode="validation")


class ById(Query):
    """The path of one order."""

    id: IdText


class PageQuery(Query):
    """Which part of a list."""

    page: Page = 1
    limit: Limit = 10
