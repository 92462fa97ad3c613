"""Orders over HTTP."""

import asyncio

from aiohttp import web
from pydantic import Field

from order_gateway.gateway.port import Call, Refusal
from order_gateway.http.bodies import CancelBody, OrderBody, PaymentBody, StatusBody
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import CALLER, Access, must_still_be_valid
from order_gateway.http.guards.idempotency import BEGUN, KEY
from order_gateway.http.guards.slots import SLOT
from order_gateway.http.views import OrderView, order_view
from order_gateway.http.wire.connections import ended_by_hang_up
from order_gateway.http.wire.errors import (
    CORRELATION_ID,
    ApiError,
    from_illegal,
    from_refusal,
    success,
)
from order_gateway.http.wire.fields import ById, Query, WaitSeconds
from order_gateway.http.wire.validating import invalid
from order_gateway.lifecycle import (
    Event,
    Illegal,
    NewItem,
    NewOrder,
    Order,
    OrderNotFound,
    Reason,
    Reservation,
    Status,
)
from order_gateway.pricing.basket import Basket, RequestedLine
from order_gateway.saga.steps import PaymentAwaited, Saga
from order_gateway.storage.applying import Applied
from order_gateway.storage.idempotency import Begun
from order_gateway.storage.store import Store
from order_gateway.storage.watching import Watching
from service_kit.logging import note_call

CREATION = (
    "INSUFFICIENT_STOCK",
    "PRODUCT_NOT_FOUND",
    "WAREHOUSE_NOT_FOUND",
    "STOCK_LEVEL_NOT_FOUND",
    "PRICE_MISMATCH",
    "PRICE_UNKNOWN",
    "CURRENCY_MISMATCH",
)
ORDER = ("ORDER_NOT_FOUND", "PERMISSION_DENIED")
CHANGED = (*ORDER, "INVALID_ORDER_STATE", "PAYMENT_IN_PROGRESS")
PAID = (*CHANGED, "PAYMENT_EXPIRED", "PAYMENT_DECLINED", "RESERVATION_EXPIRED", "PAYMENT_PENDING")

PAYING = (200, 202)


class WaitQuery(Query):
    """How long to wait."""

    wait: WaitSeconds = Field(0, description="seconds to wait until it leaves pending_reservation")


class OrderRoutes:
    """The operations that make, show and change one order."""

    def __init__(self, store: Store, saga: Saga, basket: Basket, watching: Watching, prefix: str) -> None:
        self._store = store
        self._saga = saga
        self._basket = basket
        self._watching = watching
        self._prefix = prefix

    def operations(self) -> list[Operation]:
        """All of them."""
        orders = f"{self._prefix}/orders"
        one = f"{orders}/{{id}}"
        return [
            Operation("POST", orders, self.create, OrderView, "orders", (201, 202), CREATION),
            Operation("GET", one, self.show, OrderView, "orders", codes=ORDER),
            Operation("POST", f"{one}/payment", self.pay, OrderView, "orders", PAYING, PAID),
            Operation("POST", f"{one}/pay", self.pay, OrderView, "orders", PAYING, PAID),
            Operation("POST", f"{one}/cancel", self.cancel, OrderView, "orders", codes=CHANGED),
            Operation("PATCH", f"{one}/status", self.move, OrderView, "orders", PAYING, (*PAID, "ORDER_NOT_SETTLED")),
            Operation("GET", f"{one}/reservations", self.reservations, list[Reservation], "orders", codes=ORDER),
        ]

    async def create(self, request: web.Request, body: OrderBody) -> web.Response:
        """Place an order: its stock is held and it waits for its payment; 202 if the hold is still to come."""
        request[CALLER].must_be(body.user_id)
        key, begun = request[KEY], request[BEGUN]
        if begun and (earlier := await self._earlier(begun)):
            return self._created(earlier)
        # Before prices are asked for: where no order can begin, nobody waits for them.
        choice = self._saga.choose()
        requested = [
            RequestedLine(item.product_id, item.warehouse_id, item.quantity, item.unit_price) for item in body.items
        ]
        is_service = request[CALLER].person is None
        call = Call("", request[CORRELATION_ID])
        lines = await self._basket.fill(requested, call, choice, body.currency, may_name_prices=is_service)
        if isinstance(lines, Refusal):
            raise from_refusal(lines)
        claimed = (*key, begun.claim) if key and begun else None
        return self._created(await self._saga.create_order(_new_order(request, body, lines), claimed))

    async def show(self, request: web.Request, path: ById, query: WaitQuery) -> web.Response:
        """Show an order, at once or when its stock is held or refused."""
        order = await self._visible(request, path.id)
        if query.wait and order.state.status is Status.PENDING_RESERVATION:
            request[SLOT].becomes_wait()
            order = await self._decided(request, order, query.wait)
            must_still_be_valid(request)
        return success(order_view(order))

    async def reservations(self, request: web.Request, path: ById) -> web.Response:
        """Show what the warehouse holds for an order."""
        return success((await self._visible(request, path.id)).reservations)

    async def pay(self, request: web.Request, path: ById, body: PaymentBody) -> web.Response:
        """Pay an order; 202 if the outcome comes later; if the payment is declined the order is cancelled."""
        await self._changeable(request, path.id)
        return await self._pay(request, path.id, body.payment_method, body.payment_reference)

    async def cancel(self, request: web.Request, path: ById, body: CancelBody) -> web.Response:
        """Cancel an order that is not shipped; what was paid is refunded, the stock goes back."""
        await self._changeable(request, path.id)
        return await self._cancel(request, path.id, body.reason)

    async def move(self, request: web.Request, path: ById, body: StatusBody) -> web.Response:
        """Move an order on."""
        await self._changeable(request, path.id)
        if body.status == "paid":
            return await self._pay(request, path.id, None, None)
        if body.status == "cancelled":
            return await self._cancel(request, path.id, body.reason)
        request[CALLER].must_have(Access.SERVICE)
        event = Event.SHIP if body.status == "shipped" else Event.COMPLETE
        _bind(path.id)
        return success(order_view(_legal(await self._saga.move(path.id, event, request[CALLER].actor, body.reason))))

    async def _visible(self, request: web.Request, order_id: int) -> Order:
        return await visible_order(self._store, request, order_id)

    async def _changeable(self, request: web.Request, order_id: int) -> None:
        """Raises: ApiError, if the caller may not change this order; to customers, others' orders and none are one."""
        # Services may change all orders, so theirs need no look at whose it is.
        if request[CALLER].only_user is None:
            return
        try:
            user_id = (await self._store.read(order_id)).user_id
        except OrderNotFound:
            user_id = ""  # nobody's
        request[CALLER].must_be(user_id)

    async def _decided(self, request: web.Request, order: Order, seconds: float) -> Order:
        """The order when it has left pending_reservation, or after `seconds`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while order.state.status is Status.PENDING_RESERVATION and (left := until - loop.time()) > 0:
            after = await self._watching.newest(order.id)
            # What happened before that look must not be waited for.
            order = await self._store.read(order.id)
            if order.state.status is Status.PENDING_RESERVATION:
                with ended_by_hang_up(request):
                    has_more = await self._watching.wait(order.id, after, left)
                if not has_more:
                    break
                order = await self._store.read(order.id)
        return order

    async def _pay(
        self, request: web.Request, order_id: int, method: str | None, reference: str | None
    ) -> web.Response:
        _bind(order_id)
        if self._saga.is_paid_outside:
            # Whoever may say that money was taken is believed.
            request[CALLER].must_have(Access.SERVICE)
            if reference is None:
                raise invalid("payment_reference", "required: the number under which you have taken the money")
        try:
            applied = await self._saga.pay(order_id, request[CALLER].actor, method, reference)
        except PaymentAwaited as awaited:
            # No answer to keep under an Idempotency-Key: a repetition is told how it ended.
            headers = {"Retry-After": str(round(awaited.retry_after_seconds))}
            return success(order_view(await self._store.read(order_id)), status=202, headers=headers)
        begun = request[BEGUN]
        if isinstance(applied.result, Illegal) and not (begun and begun.resumed and _payment_ended(applied.order)):
            raise from_illegal(applied.result)
        order = applied.order
        if order.state.reason is Reason.PAYMENT_DECLINED:
            raise ApiError("PAYMENT_DECLINED", "the payment was declined; the order is cancelled")
        if order.state.reason is Reason.RESERVATION_EXPIRED:
            message = (
                "the stock was gone when the payment came; the order is cancelled, and what was paid is given back"
            )
            raise ApiError("RESERVATION_EXPIRED", message)
        return success(order_view(order))

    async def _cancel(self, request: web.Request, order_id: int, reason: str | None) -> web.Response:
        _bind(order_id)
        caller = request[CALLER]
        why = Reason.ADMIN if caller.is_admin and (caller.person or reason == Reason.ADMIN) else Reason.CUSTOMER
        applied = await self._saga.cancel(order_id, caller.actor, why, reason)
        return success(order_view(_legal(applied)))

    async def _earlier(self, begun: Begun) -> Order | None:
        """The order that an earlier request with this Idempotency-Key made, unless its stock could not be asked for."""
        if begun.order_id is None:
            return None
        order = await self._store.read(begun.order_id)
        return None if order.state.reason is Reason.RESERVATION_TIMEOUT else order

    def _created(self, order: Order) -> web.Response:
        _bind(order.id)
        headers = {"Location": f"{self._prefix}/orders/{order.id}"}
        if order.state.status is Status.PENDING_RESERVATION:
            return success(order_view(order), status=202, headers=headers)
        if order.state.status is Status.REJECTED and order.refusal is not None:
            refusal = order.refusal
            raise ApiError(refusal["code"], refusal["message"], refusal["details"], headers)
        if order.state.status is Status.CANCELLED:
            raise ApiError("ORDER_CANCELLED", "the order was cancelled before its stock was held", (), headers)
        return success(order_view(order), status=201, headers=headers)


async def visible_order(store: Store, request: web.Request, order_id: int) -> Order:
    """An order, if the caller may see it; somebody else's is as if it did not exist. Raises: OrderNotFound."""
    _bind(order_id)
    order = await store.read(order_id)
    if request[CALLER].only_user not in (None, order.user_id):
        raise OrderNotFound(f"there is no order {order_id}")
    return order


def _new_order(request: web.Request, body: OrderBody, lines: tuple[NewItem, ...]) -> NewOrder:
    return NewOrder(
        user_id=body.user_id,
        shipping_address=body.shipping_address,
        payment_method=body.payment_method,
        items=lines,
        correlation_id=request[CORRELATION_ID],
        actor=request[CALLER].actor,
    )


def _payment_ended(order: Order) -> bool:
    return order.state.status is Status.PAID or order.state.reason in (
        Reason.PAYMENT_DECLINED,
        Reason.RESERVATION_EXPIRED,
    )


def _legal(applied: Applied) -> Order:
    if isinstance(applied.result, Illegal):
        raise from_illegal(applied.result)
    return applied.order


def _bind(order_id: int) -> None:
    note_call(order_id=order_id)
