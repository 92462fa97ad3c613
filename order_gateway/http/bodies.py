"""What clients send: the types that validate it, and describe it in the API's document."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from order_gateway.http.wire.fields import (
    ITEMS_MAX,
    Address,
    Body,
    Count,
    Currency,
    Id,
    Instant,
    Money,
    Note,
    OrderReference,
    Quantity,
    Reference,
    UserId,
    Uuid,
    Word,
)


class ItemBody(Body):
    """A line of an order to be placed."""

    product_id: Id
    warehouse_id: Id | None = Field(None, description="unset: a warehouse that has enough, chosen for you")
    quantity: Quantity
    unit_price: Money | None = Field(
        None, description="must be the list price, where the product has one; where not, required, and a service's"
    )


class OrderBody(Body):
    """An order to be placed."""

    user_id: UserId
    shipping_address: Address
    payment_method: Word
    items: Annotated[list[ItemBody], Field(min_length=1, max_length=ITEMS_MAX)]
    currency: Currency | None = Field(
        None, description="ISO 4217; of each unit_price that the catalogue does not have; must be that of all others"
    )


class PaymentBody(Body):
    """A payment; unset fields are those of the order."""

    payment_method: Word | None = None
    payment_reference: Reference | None = Field(
        None, description="required where the caller takes the money: the number under which it was taken"
    )


class RefundBody(Body):
    """The money was given back."""

    refund_reference: Reference | None = Field(None, description="the number under which it was given back")


class CallbackPayment(BaseModel):
    """The payment that there is news of."""

    model_config = ConfigDict(frozen=True)

    order_id: Annotated[str, StringConstraints(pattern="^[0-9]{1,18}$")]


class CallbackBody(BaseModel):
    """A provider's message: the outcome of a payment, which is then looked up; further fields are not looked at."""

    model_config = ConfigDict(frozen=True)

    type: Annotated[str, StringConstraints(max_length=128)] = "payment.updated"
    data: CallbackPayment


class StatusBody(Body):
    """A request to move an order on."""

    status: Literal["paid", "cancelled", "shipped", "completed"]
    reason: Note | None = None


class CancelBody(Body):
    """A request to cancel an order."""

    reason: Note | None = None


class ReservationBody(Body):
    """A hold to be taken."""

    order_id: OrderReference
    product_id: Id
    warehouse_id: Id
    quantity: Quantity
    expires_at: Instant


class LevelBody(Body):
    """Names a stock level."""

    product_id: Id
    warehouse_id: Id


class LevelsBody(Body):
    """Names stock levels."""

    items: Annotated[list[LevelBody], Field(min_length=1, max_length=ITEMS_MAX)]


class WantedBody(Body):
    """Units that somebody would like to have."""

    product_id: Id
    warehouse_id: Id | None = Field(None, description="unset: in any one warehouse")
    quantity: Quantity


class AvailabilityBody(Body):
    """A question for what is free."""

    items: Annotated[list[WantedBody], Field(min_length=1, max_length=ITEMS_MAX)]


class LineBody(Body):
    """Units of a product in a warehouse."""

    product_id: Id
    warehouse_id: Id
    quantity: Quantity


class ReserveLineBody(LineBody):
    """Units to be held."""

    unit_price: Money | None = Field(None, description="taken as older clients send it, and not used")


Lines = Annotated[list[ReserveLineBody], Field(min_length=1, max_length=ITEMS_MAX)]


def _one_of_items(schema: dict[str, Any]) -> None:
    schema["oneOf"] = [{"required": ["items"]}, {"required": ["order_items"]}]
    for name in ("items", "order_items"):
        field = schema["properties"][name]
        array = next(kind for kind in field.pop("anyOf") if kind.get("type") == "array")
        field.pop("default", None)
        field.update(array)


class ReserveBody(Body):
    """A hold of several lines to be taken."""

    model_config = ConfigDict(json_schema_extra=_one_of_items)

    order_id: OrderReference
    items: Lines | None = None
    order_items: Lines | None = Field(None, description="another name for items")
    reserve_until: Instant

    @model_validator(mode="after")
    def _has_items(self) -> Self:
        if (self.items is None) == (self.order_items is None):
            raise ValueError("give items, or order_items, and not both")
        return self

    @property
    def lines(self) -> list[ReserveLineBody]:
        """The lines, whatever they were called."""
        return self.items if self.items is not None else self.order_items or []


class HoldBody(Body):
    """Names a hold of an order."""

    order_id: OrderReference
    reservation_id: Uuid


class CountBody(Body):
    """The result of a count."""

    product_id: Id
    warehouse_id: Id
    quantity: Count
    reserved_quantity: Count | None = Field(None, description="if given, it must be what is held")
    notes: Note | None = None


class ModeBody(Body):
    """The way that orders shall take to the warehouse."""

    mode: Literal["grpc", "queued", "auto"]


class LoginBody(Body):
    """A person's name and password."""

    username: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    password: Annotated[str, StringConstraints(min_length=1, max_length=256)]
