"""Orders over HTTP."""

import structlog
from aiohttp import web

from order_gateway.basket import Basket, Wish
from order_gateway.gateway import Call, Refusal
from order_gateway.http.auth import CALLER
from order_gateway.http.bodies import CancelBody, OrderBody, PaymentBody, StatusBody, path_id, read_body
from order_gateway.http.errors import CORRELATION_ID, ApiError, from_illegal, from_refusal, success
from order_gateway.http.idempotency import BEGUN, KEY
from order_gateway.http.views import order_view
from order_gateway.orders import Event, Illegal, NewItem, NewOrder, Order, Reason, Status
from order_gateway.saga import Saga
from order_gateway.store import Applied, Store


class OrderRoutes:
    """The handlers of /orders."""

    def __init__(self, store: Store, saga: Saga, basket: Basket, prefix: str) -> None:
        self._store = store
        self._saga = saga
        self._basket = basket
        self._prefix = prefix

    def routes(self) -> list[web.RouteDef]:
        """Where they are."""
        orders = f"{self._prefix}/orders"
        return [
            web.post(orders, self.place),
            web.get(f"{orders}/{{id}}", self.show, allow_head=False),
            web.post(f"{orders}/{{id}}/payment", self.pay),
            web.post(f"{orders}/{{id}}/pay", self.pay),
            web.post(f"{orders}/{{id}}/cancel", self.cancel),
            web.get(f"{orders}/{{id}}/reservations", self.reservations, allow_head=False),
            web.patch(f"{orders}/{{id}}/status", self.move),
        ]

    async def place(self, request: web.Request) -> web.Response:
        """POST /orders."""
        body = await read_body(request, OrderBody)
        earlier = await self._earlier(request)
        if earlier is not None:
            return self._placed(earlier)
        wishes = [Wish(item.product_id, item.warehouse_id, item.quantity, item.unit_price) for item in body.items]
        lines = await self._basket.fill(wishes, Call("", request[CORRELATION_ID]))
        if isinstance(lines, Refusal):
            raise from_refusal(lines)
        return self._placed(await self._saga.place(_new_order(request, body, lines), request.get(KEY)))

    async def show(self, request: web.Request) -> web.Response:
        """GET /orders/{id}."""
        return success(order_view(await self._store.read(path_id(request))))

    async def reservations(self, request: web.Request) -> web.Response:
        """GET /orders/{id}/reservations."""
        return success((await self._store.read(path_id(request))).reservations)

    async def pay(self, request: web.Request) -> web.Response:
        """POST /orders/{id}/payment."""
        body = await read_body(request, PaymentBody)
        return await self._pay(request, path_id(request), body.payment_method, body.payment_reference)

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /orders/{id}/cancel."""
        body = await read_body(request, CancelBody)
        return await self._cancel(request, path_id(request), body.reason)

    async def move(self, request: web.Request) -> web.Response:
        """PATCH /orders/{id}/status."""
        body = await read_body(request, StatusBody)
        order_id, actor = path_id(request), request[CALLER].name
        if body.status == "paid":
            return await self._pay(request, order_id, None, None)
        if body.status == "cancelled":
            return await self._cancel(request, order_id, body.reason)
        event = Event.SHIP if body.status == "shipped" else Event.COMPLETE
        return success(order_view(_legal(await self._saga.move(order_id, event, actor, body.reason))))

    async def _pay(
        self, request: web.Request, order_id: int, method: str | None, reference: str | None
    ) -> web.Response:
        _bind(order_id)
        applied = await self._saga.pay(order_id, request[CALLER].name, method, reference)
        begun = request.get(BEGUN)
        if isinstance(applied.result, Illegal) and not (begun and begun.resumed and _payment_ended(applied.order)):
            raise from_illegal(applied.result)
        order = applied.order
        if order.state.reason is Reason.PAYMENT_DECLINED:
            raise ApiError("PAYMENT_DECLINED", "the payment was declined; the order is cancelled")
        if order.state.reason is Reason.RESERVATION_EXPIRED:
            message = "the stock was gone when the payment came; the order is cancelled and the payment refunded"
            raise ApiError("RESERVATION_EXPIRED", message)
        return success(order_view(order))

    async def _cancel(self, request: web.Request, order_id: int, reason: str | None) -> web.Response:
        _bind(order_id)
        why = Reason.ADMIN if reason == Reason.ADMIN else Reason.CUSTOMER
        applied = await self._saga.cancel(order_id, request[CALLER].name, why, reason)
        return success(order_view(_legal(applied)))

    async def _earlier(self, request: web.Request) -> Order | None:
        """The order that an earlier request with this Idempotency-Key made, unless its stock could not be asked for."""
        begun = request.get(BEGUN)
        if begun is None or begun.order_id is None:
            return None
        order = await self._store.read(begun.order_id)
        return None if order.state.reason is Reason.RESERVATION_TIMEOUT else order

    def _placed(self, order: Order) -> web.Response:
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


def _new_order(request: web.Request, body: OrderBody, lines: tuple[NewItem, ...]) -> NewOrder:
    return NewOrder(
        user_id=body.user_id,
        shipping_address=body.shipping_address,
        payment_method=body.payment_method,
        items=lines,
        correlation_id=request[CORRELATION_ID],
        actor=request[CALLER].name,
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
    structlog.contextvars.bind_contextvars(order_id=order_id)
