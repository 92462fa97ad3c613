"""What clients send: the types that validate it, and how a body becomes one of them."""

import json
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from order_gateway.http.errors import ApiError

INT64_MAX = 2**63 - 1
QUANTITY_MAX = 1_000_000
ITEMS_MAX = 100
PRICE_MAX = Decimal("9999999999.99")

ModelT = TypeVar("ModelT", bound=BaseModel)


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


def _user(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= INT64_MAX:
        return str(value)
    if isinstance(value, str) and len(value.strip()) > 0 and len(value) <= 64 and value.isprintable():
        return value
    raise ValueError("must be a positive integer, or a string of 1 to 64 printable characters")


Id = Annotated[int, Field(ge=1, le=INT64_MAX)]
Money = Annotated[Decimal, BeforeValidator(_money, json_schema_input_type=float | str)]
UserId = Annotated[str, BeforeValidator(_user, json_schema_input_type=int | str)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"\S")]


class Body(BaseModel):
    """Exact types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ItemBody(Body):
    """A line of an order to be placed."""

    product_id: Id
    warehouse_id: Id | None = None
    quantity: Annotated[int, Field(ge=1, le=QUANTITY_MAX)]
    unit_price: Money | None = None


class OrderBody(Body):
    """An order to be placed."""

    user_id: UserId
    shipping_address: Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"\S")]
    payment_method: Word
    items: Annotated[list[ItemBody], Field(min_length=1, max_length=ITEMS_MAX)]


class PaymentBody(Body):
    """A payment; unset fields are those of the order."""

    payment_method: Word | None = None
    payment_reference: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None


class StatusBody(Body):
    """A wish to move an order on."""

    status: Literal["paid", "cancelled", "shipped", "completed"]
    reason: Annotated[str, StringConstraints(max_length=255)] | None = None


class CancelBody(Body):
    """A wish to cancel an order."""

    reason: Annotated[str, StringConstraints(max_length=255)] | None = None


async def read_body(request: web.Request, kind: type[ModelT]) -> ModelT:
    """The request's body as `kind`; an empty one counts as {}. Raises: ApiError, naming each field that is wrong."""
    raw = await request.read()
    try:
        # Floats would lose cents; Python's JSON also takes NaN and Infinity, which are not JSON.
        value = json.loads(raw, parse_float=Decimal, parse_constant=_no_constant) if raw.strip() else {}
    except (ValueError, RecursionError, InvalidOperation) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
        raise ApiError("INVALID_ARGUMENT", "the body is not valid", [{"field": "body", "message": text}]) from error
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ApiError("INVALID_ARGUMENT", "the request is not valid", violations(error)) from error


def violations(error: ValidationError) -> list[dict[str, str]]:
    """Each field that is wrong, by its place in the body, and what is wrong with it."""
    return [
        {"field": ".".join(str(part) for part in item["loc"]) or "body", "message": _text(item)}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def path_id(request: web.Request, name: str = "id") -> int:
    """The id in the request's path. Raises: ApiError."""
    raw = request.match_info[name]
    if raw.isascii() and raw.isdigit() and len(raw) <= 19 and 1 <= int(raw) <= INT64_MAX:
        return int(raw)
    raise ApiError(
        "INVALID_ARGUMENT", "the request is not valid", [{"field": name, "message": "must be a positive integer"}]
    )


def _text(item: Any) -> str:
    return str(item["msg"]).removeprefix("Value error, ")


def _no_constant(name: str) -> Decimal:
    raise ValueError(f"{name} is not JSON")
