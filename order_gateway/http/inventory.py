"""Stock over HTTP: what there is, what is free, and holds that come without an order of this service."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from aiohttp import web

from order_gateway.gateway.looking import AvailabilityCheck
from order_gateway.gateway.port import Hold, Refusal, StockLine, WarehouseGateway
from order_gateway.gateway.stock import Availability, AvailabilityQuestion, Level, LevelKey
from order_gateway.http.bodies import (
    AvailabilityBody,
    CountBody,
    HoldBody,
    LevelBody,
    LevelsBody,
    LineBody,
    ReserveBody,
)
from order_gateway.http.calls import changing, reading
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import Access
from order_gateway.http.order_holds import OF_ORDER, OrderHolds
from order_gateway.http.views import HoldView, plain_id
from order_gateway.http.wire.errors import ApiError, from_refusal, success
from order_gateway.http.wire.fields import IdText, Query
from order_gateway.lifecycle import Instant, Order

T = TypeVar("T")
LEVEL = ("PRODUCT_NOT_FOUND", "WAREHOUSE_NOT_FOUND", "STOCK_LEVEL_NOT_FOUND")
HELD = (*LEVEL, "INSUFFICIENT_STOCK", "RESERVE_CANCELLED")
CLOSED = ("RESERVATION_NOT_FOUND", "RESERVATION_EXPIRED", "RESERVATION_COMMITTED", "RESERVATION_CANCELLED")
CHANGED = (*CLOSED, *OF_ORDER)


class LevelPath(Query):
    """The path of a stock level."""

    product_id: IdText
    warehouse_id: IdText


@dataclass(frozen=True, slots=True)
class LevelsView:
    """The stock levels that exist, and the keys of those that don't."""

    items: Sequence[Level]
    missing: Sequence[LevelKey]


@dataclass(frozen=True, slots=True)
class AvailabilityView:
    """What is free now: advice only, nothing is held."""

    items: Sequence[Availability]
    sufficient: bool


@dataclass(frozen=True, slots=True)
class ReservedView:
    """A hold just taken."""

    reservation_id: str
    order_id: int | str
    reserved_until: Instant
    items: Sequence[StockLine]
    message: str


class InventoryRoutes:
    """The operations on stock."""

    def __init__(self, gateway: WarehouseGateway, holds: OrderHolds, prefix: str) -> None:
        self._gateway = gateway
        self._availability = AvailabilityCheck(gateway)
        self._holds = holds
        self._prefix = prefix

    def operations(self) -> list[Operation]:
        """All of them."""
        at, tag, service = f"{self._prefix}/inventory", "inventory", Access.SERVICE
        return [
            Operation("POST", f"{at}/get", self.get, Level, tag, codes=LEVEL),
            Operation("POST", f"{at}/batch", self.batch, LevelsView, tag),
            Operation("POST", f"{at}/check-availability", self.check, AvailabilityView, tag),
            Operation("POST", f"{at}/reserve", self.reserve, ReservedView, tag, (201,), HELD, service),
            *(
                Operation("POST", f"{at}/{name}", self.confirm, HoldView, tag, codes=CHANGED, access=service)
                for name in ("confirm", "commit")
            ),
            *(
                Operation("POST", f"{at}/{name}", self.release, HoldView, tag, codes=CHANGED, access=service)
                for name in ("release", "cancel")
            ),
            Operation(
                "POST",
                f"{at}/update",
                self.update,
                Level,
                tag,
                codes=(*LEVEL, "INSUFFICIENT_STOCK", "RESERVED_MISMATCH"),
                access=Access.ADMIN,
            ),
            Operation("GET", f"{at}/{{product_id}}/{{warehouse_id}}", self.show, Level, tag, codes=LEVEL),
        ]

    async def show(self, request: web.Request, path: LevelPath) -> web.Response:
        """Show the stock of a product in a warehouse."""
        key = LevelKey(path.product_id, path.warehouse_id)
        return success(agreed(await self._gateway.level(key, reading(request))))

    async def get(self, request: web.Request, body: LevelBody) -> web.Response:
        """Show the stock of a product in a warehouse, asked for in the body."""
        key = LevelKey(body.product_id, body.warehouse_id)
        return success(agreed(await self._gateway.level(key, reading(request))))

    async def batch(self, request: web.Request, body: LevelsBody) -> web.Response:
        """Show many stock levels; those that don't exist are named."""
        keys = [LevelKey(item.product_id, item.warehouse_id) for item in body.items]
        return success(LevelsView(*await self._gateway.levels(keys, reading(request))))

    async def check(self, request: web.Request, body: AvailabilityBody) -> web.Response:
        """Check what is free now; nothing is held."""
        wanted = [AvailabilityQuestion(item.product_id, item.warehouse_id, item.quantity) for item in body.items]
        found = await self._availability.of(wanted, reading(request))
        return success(AvailabilityView(found, all(item.sufficient for item in found)))

    async def reserve(self, request: web.Request, body: ReserveBody) -> web.Response:
        """Hold stock until an instant."""
        lines = stock_lines(body.lines)
        hold = await take_hold(self._gateway, request, body.order_id, lines, body.reserve_until, "reserve_until")
        view = ReservedView(
            hold.reservation_id, plain_id(hold.order_id), hold.expires_at, hold.held, "the stock is held"
        )
        return success(view, status=201)

    async def confirm(self, request: web.Request, body: HoldBody) -> web.Response:
        """Sell what is held; the hold of an order is sold by paying the order (else HOLD_OF_ORDER)."""
        hold, order = await self._of(request, body)
        return success(await self._holds.confirm(request, hold, order))

    async def release(self, request: web.Request, body: HoldBody) -> web.Response:
        """Give back what is held; the hold of an order that waits for its payment cancels the order.

        Its cancellation_reason is then `admin`. The hold of a paid order is refused (HOLD_OF_ORDER): cancel the order.
        """
        hold, order = await self._of(request, body)
        return success(await self._holds.release(request, hold, order, ""))

    async def update(self, request: web.Request, body: CountBody) -> web.Response:
        """Set the counted quantity of a stock level, through an ADJUSTMENT in its ledger."""
        key = LevelKey(body.product_id, body.warehouse_id)
        answer = await self._gateway.count(
            key, body.quantity, body.reserved_quantity, body.notes or "", changing(request)
        )
        return success(agreed(answer))

    async def _of(self, request: web.Request, body: HoldBody) -> tuple[Hold, Order | None]:
        """A hold, and its order if it is one of this service: it may be named by its number, too."""
        hold, order = await self._holds.find(request, body.reservation_id)
        if body.order_id not in (hold.order_id, None if order is None else str(order.id)):
            details = {"reservation_id": body.reservation_id, "order_id": body.order_id}
            raise ApiError("RESERVATION_NOT_FOUND", "this order has no such reservation", [details])
        return hold, order


def stock_lines(lines: Sequence[LineBody]) -> list[StockLine]:
    """Lines as the warehouse takes them."""
    return [StockLine(line.product_id, line.warehouse_id, line.quantity) for line in lines]


async def take_hold(
    gateway: WarehouseGateway,
    request: web.Request,
    order_id: str,
    lines: Sequence[StockLine],
    until: datetime,
    field: str,
) -> Hold:
    """Hold stock until an instant that the client gave in `field`. Raises: ApiError, GatewayFault."""
    answer = await gateway.reserve_until(order_id, lines, until, changing(request))
    if isinstance(answer, Refusal) and answer.code == "INVALID_ARGUMENT":
        renamed = [{**item, "field": field} if item.get("field") == "expires_at" else item for item in answer.details]
        raise ApiError(answer.code, answer.message, renamed)
    return agreed(answer)


def agreed(answer: T | Refusal) -> T:
    """What the warehouse answered. Raises: ApiError, if it said no."""
    if isinstance(answer, Refusal):
        raise from_refusal(answer)
    return answer
