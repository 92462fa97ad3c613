"""Orders in numbers, and what happened to one of them."""

from typing import Annotated

from aiohttp import web
from pydantic import Field

from order_gateway.http.events import EventView, Streams
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import CALLER
from order_gateway.http.orders import ORDER, visible_order
from order_gateway.http.views import OrderView, order_view
from order_gateway.http.wire.errors import success_page
from order_gateway.http.wire.fields import (
    DAY,
    USER_ID,
    ById,
    From,
    PageQuery,
    Until,
    UserId,
    unset_if_empty,
)
from order_gateway.lifecycle import Status
from order_gateway.storage.reading import Filter, Listing
from order_gateway.storage.store import Store

_STATUS = {"type": "string", "enum": list(Status)}


class OrdersQuery(PageQuery):
    """Which orders."""

    user_id: Annotated[UserId | None, *unset_if_empty(USER_ID)] = None
    status: Annotated[Status | None, Field(strict=False), *unset_if_empty(_STATUS)] = None
    start_date: Annotated[From | None, *unset_if_empty(DAY)] = Field(
        None, description="placed at or after this instant or day (UTC)"
    )
    end_date: Annotated[Until | None, *unset_if_empty(DAY)] = Field(
        None, description="placed before this instant, or on this day (UTC) or before"
    )


class OrderListRoutes:
    """The operations that list orders and stream their events."""

    def __init__(self, store: Store, listing: Listing, streams: Streams, prefix: str) -> None:
        self._store = store
        self._listing = listing
        self._streams = streams
        self._prefix = prefix

    def operations(self) -> list[Operation]:
        """All of them."""
        orders = f"{self._prefix}/orders"
        return [
            Operation("GET", orders, self.list, OrderView, "orders", codes=("PERMISSION_DENIED",), is_list=True),
            Operation(
                "GET",
                f"{orders}/{{id}}/events",
                self.events,
                EventView,
                "orders",
                (200, 204),
                (*ORDER, "TOO_MANY_REQUESTS"),
                media_type="text/event-stream",
            ),
        ]

    async def list(self, request: web.Request, query: OrdersQuery) -> web.Response:
        """List orders, newest first."""
        caller = request[CALLER]
        if query.user_id is not None:
            caller.must_be(query.user_id)
        wanted = Filter(query.user_id or caller.only_user, query.status, query.start_date, query.end_date)
        found, total = await self._listing.page(wanted, query.page, query.limit, caller.actor)
        return success_page([order_view(order) for order in found], query.page, query.limit, total)

    async def events(self, request: web.Request, path: ById) -> web.StreamResponse:
        """Follow an order: server-sent events of all that happened and happens to it."""
        order = await visible_order(self._store, request, path.id)
        return await self._streams.serve(request, order.id, request[CALLER])
