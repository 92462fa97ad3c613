"""Stock, holds and the catalogue of the warehouse, for callers that work with them directly."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from order_gateway.gateway.grpc import price_of
from order_gateway.gateway.port import Call, GatewayFault, Refusal, StockLine
from order_gateway.gateway.translation import call_options, or_refusal
from order_gateway.lifecycle import Instant
from stockwarden_client import (
    CallOptions,
    EffectOptions,
    ReservationState,
    WarehouseClient,
    line,
    stock_pb2,
    warehouse_pb2,
)

T = TypeVar("T")
_NUMBERS = frozenset({"product_id", "warehouse_id", "requested", "available", "reserved", "on_hand"})
LOOKS_AT_ONCE_MAX = 8


@dataclass(frozen=True, slots=True)
class Level:
    """The stock of a product in a warehouse."""

    product_id: int
    warehouse_id: int
    quantity: int
    reserved_quantity: int
    available_quantity: int
    created_at: Instant
    updated_at: Instant


@dataclass(frozen=True, slots=True)
class LevelKey:
    """Names a stock level."""

    product_id: int
    warehouse_id: int


@dataclass(frozen=True, slots=True)
class AvailabilityQuestion:
    """Units whose availability is asked; `warehouse_id` None: in any one warehouse."""

    product_id: int
    warehouse_id: int | None
    quantity: int


@dataclass(frozen=True, slots=True)
class Availability:
    """What is free now: in the warehouse asked for, or in the one that has most of it."""

    product_id: int
    warehouse_id: int | None
    quantity: int
    available: int
    sufficient: bool


@dataclass(frozen=True, slots=True)
class DirectHold:
    """A reservation as the warehouse has it."""

    reservation_id: str
    order_id: str
    status: str
    items: tuple[StockLine, ...]
    expires_at: Instant
    created_at: Instant
    closed_at: Instant | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class CatalogueProduct:
    """A product; `price` is None where it has no list price."""

    id: int
    product_id: int
    sku: str
    name: str
    description: str
    price: Decimal | None
    currency: str | None
    created_at: Instant
    updated_at: Instant


class Guard(Protocol):
    """Makes a call, or refuses to. Raises: GatewayFault."""

    async def __call__(self, call: Callable[[], Awaitable[T]], /) -> T:
        """What the call answers."""
        ...


class Inventory:
    """The warehouse's stock. All methods raise GatewayFault when the outcome is not known.

    Args:
        guarded: makes each call: it notes how the call ended, and refuses at once while the warehouse is known to be
            away.
    """

    def __init__(
        self,
        client: WarehouseClient,
        deadline_seconds: float,
        guarded: Guard,
    ) -> None:
        self._client = client
        self._guarded = guarded
        self._deadline_seconds = deadline_seconds
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE_MAX)

    async def level(self, key: LevelKey, call: Call) -> Level | Refusal:
        """One stock level."""
        answer = await self._ask(self._client.get_inventory(key.product_id, key.warehouse_id, **self._options(call)))
        return answer if isinstance(answer, Refusal) else _level(answer)

    async def levels(self, keys: Sequence[LevelKey], call: Call) -> tuple[list[Level], list[LevelKey]]:
        """The stock levels that exist, and the keys of those that don't."""
        pairs = [(key.product_id, key.warehouse_id) for key in keys]
        answer = _sure(await self._ask(self._client.batch_get_inventory(pairs, **self._options(call))))
        missing = [LevelKey(key.product_id, key.warehouse_id) for key in answer.missing]
        return [_level(level) for level in answer.stock_levels], missing

    async def availability(self, wanted: Sequence[AvailabilityQuestion], call: Call) -> list[Availability]:
        """What is free now, for each of `wanted`; several for the same stock level are judged by their sum."""
        fixed = [item for item in wanted if item.warehouse_id is not None]
        lines = [line(item.product_id, item.warehouse_id or 0, item.quantity) for item in fixed]
        checked = await self._ask(self._client.check_stock(lines, **self._options(call))) if lines else None
        found = iter(_sure(checked).items if checked is not None else ())
        anywhere = iter(
            await asyncio.gather(*(self._anywhere(item, call) for item in wanted if item.warehouse_id is None))
        )
        return [
            next(anywhere)
            if item.warehouse_id is None
            else _availability(item, item.warehouse_id, (answer := next(found)).available, answer.sufficient)
            for item in wanted
        ]

    async def reserve(
        self, order_id: str, lines: Sequence[StockLine], until: datetime, call: Call
    ) -> DirectHold | Refusal:
        """Hold stock until an instant, which the warehouse compares with its own clock."""
        wishes = [line(wish.product_id, wish.warehouse_id, wish.quantity) for wish in lines]
        answer = await self._ask(self._client.reserve(order_id, wishes, expires_at=until, **self._effect(call)))
        return answer if isinstance(answer, Refusal) else _hold(answer)

    async def reservation(self, reservation_id: str, call: Call) -> DirectHold | Refusal:
        """One hold."""
        answer = await self._ask(self._client.get_reservation(reservation_id, **self._options(call)))
        return answer if isinstance(answer, Refusal) else _hold(answer)

    async def confirm(self, reservation_id: str, call: Call) -> DirectHold | Refusal:
        """Sell what is held."""
        answer = await self._ask(self._client.commit(reservation_id=reservation_id, **self._options(call)))
        return answer if isinstance(answer, Refusal) else _hold(answer[0])

    async def release(self, reservation_id: str, reason: str, call: Call) -> DirectHold | Refusal:
        """Give back what is held."""
        asked = self._client.cancel(reservation_id=reservation_id, reason=reason, **self._options(call))
        answer = await self._ask(asked)
        return answer if isinstance(answer, Refusal) else _hold(answer[0])

    async def count(
        self, key: LevelKey, quantity: int, reserved: int | None, notes: str, call: Call
    ) -> Level | Refusal:
        """Set the counted quantity; refused if `reserved` is given and is not what is held."""
        request = stock_pb2.UpdateInventoryRequest(
            product_id=key.product_id, warehouse_id=key.warehouse_id, on_hand=quantity, reserved=reserved, notes=notes
        )
        answer = await self._ask(self._client.update_inventory(request, **self._options(call)))
        return answer if isinstance(answer, Refusal) else _level(answer.stock_level)

    async def sweep(self, call: Call) -> int:
        """Expire overdue holds now; how many there were."""
        return _sure(await self._ask(self._client.sweep_expired(**self._options(call))))

    async def products(self, skip: int, size: int, call: Call) -> tuple[list[CatalogueProduct], int]:
        """A page of the catalogue, and how many products there are."""
        found: list[CatalogueProduct] = []
        token = ""
        while True:
            asked = self._client.list_products(
                page_size=size - len(found), page_token=token, skip=0 if token else skip, **self._options(call)
            )
            answer = _sure(await self._ask(asked))
            found += map(_product, answer.products)
            token = answer.next_page_token
            # A page of the warehouse may be shorter than was asked for, where products have long descriptions.
            if not token or len(found) >= size:
                return found, answer.total_size

    async def product(self, product_id: int, call: Call) -> CatalogueProduct | Refusal:
        """One product."""
        found, _missing = _sure(await self._ask(self._client.get_products([product_id], **self._options(call))))
        if product_id not in found:
            return Refusal("PRODUCT_NOT_FOUND", f"there is no product {product_id}", ({"product_id": product_id},))
        return _product(found[product_id])

    async def _anywhere(self, item: AvailabilityQuestion, call: Call) -> Availability:
        async with self._looks:
            levels = await self._ask(self._client.list_inventory(item.product_id, **self._options(call)))
        if isinstance(levels, Refusal) or not levels:
            return _availability(item, None, 0, False)
        # An order's line comes from one warehouse, so a sum over several would promise too much.
        best = max(levels, key=lambda level: level.available)
        return _availability(item, best.warehouse_id, best.available, best.available >= item.quantity)

    async def _ask(self, call: Coroutine[Any, Any, T]) -> T | Refusal:
        try:
            answer = await self._guarded(lambda: or_refusal(call))
        finally:
            # The guard may not have let it begin.
            call.close()
        if isinstance(answer, Refusal):
            return Refusal(answer.code, answer.message, tuple(_typed(item) for item in answer.details))
        return answer

    def _options(self, call: Call) -> CallOptions:
        options = call_options(call)
        options.setdefault("deadline_seconds", self._deadline_seconds)
        return options

    def _effect(self, call: Call) -> EffectOptions:
        options: EffectOptions = {**self._options(call), "request_id": call.request_id}
        return options


def _sure(answer: T | Refusal) -> T:
    """The answer of a call that the warehouse has no reason to refuse."""
    if isinstance(answer, Refusal):
        raise GatewayFault("WAREHOUSE_ERROR", f"the warehouse did not accept this service's call: {answer.code}")
    return answer


def _typed(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as numbers: the metadata of a refusal are strings."""
    return {
        name: int(value)
        if isinstance(value, str) and name in _NUMBERS and value.isascii() and value.isdigit()
        else value
        for name, value in detail.items()
    }


def _level(level: stock_pb2.StockLevel) -> Level:
    return Level(
        level.product_id,
        level.warehouse_id,
        level.on_hand,
        level.reserved,
        level.available,
        level.created_at.ToDatetime(UTC),
        level.updated_at.ToDatetime(UTC),
    )


def _availability(
    item: AvailabilityQuestion, warehouse_id: int | None, available: int, sufficient: bool
) -> Availability:
    return Availability(item.product_id, warehouse_id, item.quantity, available, sufficient)


def _hold(hold: warehouse_pb2.Reservation) -> DirectHold:
    return DirectHold(
        hold.reservation_id,
        hold.order_id,
        ReservationState.Name(hold.state).removeprefix("RESERVATION_STATE_").lower(),
        tuple(StockLine(held.product_id, held.warehouse_id, held.quantity) for held in hold.lines),
        hold.expires_at.ToDatetime(UTC),
        hold.created_at.ToDatetime(UTC),
        hold.closed_at.ToDatetime(UTC) if hold.HasField("closed_at") else None,
        hold.reason or None,
    )


def _product(product: stock_pb2.Product) -> CatalogueProduct:
    has_price = product.HasField("list_price")
    return CatalogueProduct(
        product.product_id,
        product.product_id,
        product.sku,
        product.name,
        product.description,
        price_of(product.list_price.units, product.list_price.nanos) if has_price else None,
        product.list_price.currency_code if has_price else None,
        product.created_at.ToDatetime(UTC),
        product.updated_at.ToDatetime(UTC),
    )
