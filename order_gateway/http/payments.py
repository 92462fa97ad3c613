"""Payments over HTTP, beside the orders' own: news from the provider, and refunds that somebody else makes."""

import time
from dataclasses import dataclass

from aiohttp import web
from pydantic import Field

from order_gateway.http.bodies import CallbackBody, RefundBody
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import CALLER, Access
from order_gateway.http.wire.errors import ApiError, from_illegal, success, success_page
from order_gateway.http.wire.fields import ById, PageQuery
from order_gateway.lifecycle import Illegal
from order_gateway.payments.callbacks import Callbacks
from order_gateway.payments.settings import HttpProviderSettings
from order_gateway.payments.signing import BadSignature, verify
from order_gateway.saga.steps import Saga
from order_gateway.storage.refunds import Refund, RefundList, RefundStatus
from service_kit.logging import note_call

_HEADERS = tuple(
    {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
    for name, text in (
        ("webhook-id", "of the message; one that came before has no effect again"),
        ("webhook-timestamp", "seconds since 1970; must be about now"),
        (
            "webhook-signature",
            "v1, and the Base64 of HMAC-SHA256 over <id>.<timestamp>.<body>; several parted by spaces",
        ),
    )
)


class RefundQuery(PageQuery):
    """Which refunds."""

    status: RefundStatus | None = Field(None, strict=False)


@dataclass(frozen=True, slots=True)
class CallbackView:
    """The message was taken; `is_new`: for the first time."""

    is_new: bool


class PaymentRoutes:
    """The operations on callbacks and refunds."""

    def __init__(
        self, saga: Saga, refunds: RefundList, callbacks: Callbacks, settings: HttpProviderSettings, prefix: str
    ) -> None:
        self._saga = saga
        self._refunds = refunds
        self._callbacks = callbacks
        self._settings = settings
        self._prefix = prefix

    def operations(self) -> list[Operation]:
        """All of them."""
        refunds, tag = f"{self._prefix}/refunds", "payments"
        return [
            Operation("GET", refunds, self.list, Refund, tag, access=Access.SERVICE, is_list=True),
            Operation(
                "POST",
                f"{refunds}/{{id}}/confirm",
                self.confirm,
                Refund,
                tag,
                codes=("REFUND_NOT_FOUND", "INVALID_ORDER_STATE"),
                access=Access.SERVICE,
            ),
            Operation(
                "POST",
                f"{self._prefix}/payments/callbacks",
                self.hear,
                CallbackView,
                tag,
                codes=("UNAUTHENTICATED",),
                access=Access.OPEN,
                parameters=_HEADERS,
            ),
        ]

    async def list(self, _request: web.Request, query: RefundQuery) -> web.Response:
        """List refunds that whoever took the money has to make, the oldest first."""
        found, total = await self._refunds.page(query.status, query.page, query.limit)
        return success_page(found, query.page, query.limit, total)

    async def confirm(self, request: web.Request, path: ById, body: RefundBody) -> web.Response:
        """Say that the money of a cancelled order was given back; may be repeated."""
        note_call(order_id=path.id)
        if await self._refunds.read(path.id) is None:
            raise ApiError("REFUND_NOT_FOUND", f"no refund of order {path.id} was asked for")
        applied = await self._saga.confirm_refund(path.id, request[CALLER].actor, body.refund_reference)
        if isinstance(applied.result, Illegal):
            raise from_illegal(applied.result)
        return success(await self._refunds.read(path.id))

    async def hear(self, request: web.Request, body: CallbackBody) -> web.Response:
        """Take news of a payment from the provider: it is looked up there at once. Signed instead of an API key."""
        settings = self._settings
        secrets = (settings.callback_secret.get_secret_value(), settings.callback_secret_before.get_secret_value())
        try:
            message_id = verify(
                request.headers, await request.read(), secrets, time.time(), settings.callback_tolerance_seconds
            )
        except BadSignature as error:
            raise ApiError("UNAUTHENTICATED", str(error)) from error
        order_id = int(body.data.order_id)
        note_call(order_id=order_id)
        is_new = await self._callbacks.take(message_id, order_id)
        if is_new:
            self._saga.nudge()
        return success(CallbackView(is_new))
