"""Holds that belong to an order of this service: they are shown under its number, and change only together with it."""

from aiohttp import web

from order_gateway.gateway.port import Hold, HoldState, Refusal, WarehouseGateway
from order_gateway.http.calls import changing, reading
from order_gateway.http.guards.auth import CALLER
from order_gateway.http.views import HoldView, hold_view
from order_gateway.http.wire.errors import ApiError, from_illegal, from_refusal
from order_gateway.identity import parse
from order_gateway.lifecycle import Illegal, Order, OrderNotFound, Reason, Status
from order_gateway.saga.steps import Saga
from order_gateway.storage.store import Store

_WAITING = (Status.PENDING_RESERVATION, Status.PENDING)
_ENDED = (Status.CANCELLED, Status.REJECTED)
OF_ORDER = ("HOLD_OF_ORDER", "PAYMENT_IN_PROGRESS")
"""The codes of what is refused because a hold is an order's."""


class OrderHolds:
    """Tells which holds are an order's, and what may be done to them."""

    def __init__(self, gateway: WarehouseGateway, store: Store, saga: Saga, prefix: str) -> None:
        self._gateway = gateway
        self._store = store
        self._saga = saga
        self._prefix = prefix

    async def order_of(self, hold: Hold) -> Order | None:
        """The order of this service that asked for a hold; None: it was made without one, or for somebody else's.

        Raises: DatabaseFault.
        """
        name = parse(hold.order_id)
        if name is None or (name.key and name.installation != await self._store.token()):
            return None
        try:
            order = await self._store.read(name.number)
        except OrderNotFound:
            return None
        ids = {reservation.reservation_id for reservation in order.reservations}
        is_on_its_way = not ids and bool(name.key)
        return order if order.request_key == name.key and (hold.reservation_id in ids or is_on_its_way) else None

    async def view(self, hold: Hold) -> HoldView:
        """A hold as clients see it: under the number of its order, if it has one."""
        return hold_view(hold, await self.order_of(hold))

    async def find(self, request: web.Request, reservation_id: str) -> tuple[Hold, Order | None]:
        """A hold, and its order if it has one. Raises: ApiError, GatewayFault."""
        answer = await self._gateway.hold(reservation_id, reading(request))
        if isinstance(answer, Refusal):
            raise from_refusal(answer)
        return answer, await self.order_of(answer)

    async def confirm(self, request: web.Request, hold: Hold, order: Order | None) -> HoldView:
        """Sell what is held, unless it is an order's: that is sold by paying the order.

        Raises: ApiError, GatewayFault.
        """
        if order is not None and hold.state is not HoldState.COMMITTED:
            pay = f"{self._prefix}/orders/{order.id}/payment"
            raise _of_order(order, f"this is held for order {order.id}; it is sold when the order is paid: POST {pay}")
        answer = await self._gateway.sell(hold.reservation_id, changing(request))
        if isinstance(answer, Refusal):
            raise from_refusal(answer)
        return hold_view(answer, order)

    async def release(self, request: web.Request, hold: Hold, order: Order | None, reason: str) -> HoldView:
        """Give back what is held; if it is an order's, by cancelling the order.

        Raises: ApiError, GatewayFault.
        """
        if order is not None and hold.state is HoldState.RESERVED and order.state.status not in _ENDED:
            await self._cancel(request, order, reason)
            hold, order = await self.find(request, hold.reservation_id)
            return hold_view(hold, order)
        answer = await self._gateway.release(hold.reservation_id, reason, changing(request))
        if isinstance(answer, Refusal):
            raise from_refusal(answer)
        return hold_view(answer, order)

    async def _cancel(self, request: web.Request, order: Order, reason: str) -> None:
        if order.state.status not in _WAITING:
            cancel = f"{self._prefix}/orders/{order.id}/cancel"
            raise _of_order(order, f"this is held for order {order.id}, which is paid; cancel that: POST {cancel}")
        note = reason or "its hold was released"
        applied = await self._saga.cancel(order.id, request[CALLER].actor, Reason.ADMIN, note)
        if isinstance(applied.result, Illegal):
            raise from_illegal(applied.result)


def _of_order(order: Order, message: str) -> ApiError:
    return ApiError("HOLD_OF_ORDER", message, [{"order_id": order.id, "status": order.state.status}])
