"""Single holds over HTTP."""

from dataclasses import dataclass
from typing import Annotated

from aiohttp import web
from pydantic import StringConstraints

from order_gateway.gateway.port import StockLine, WarehouseGateway
from order_gateway.http.bodies import CancelBody, ReservationBody
from order_gateway.http.calls import changing
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import CALLER, Access
from order_gateway.http.inventory import CLOSED, HELD, take_hold
from order_gateway.http.order_holds import OF_ORDER, OrderHolds
from order_gateway.http.views import HoldView, hold_view
from order_gateway.http.wire.errors import ApiError, success
from order_gateway.http.wire.fields import Query
from order_gateway.http.wire.readers import is_digits
from order_gateway.storage.reading import Listing


class HoldPath(Query):
    """The path of a hold: the warehouse's id, or the number under which an order shows it."""

    id: Annotated[
        str, StringConstraints(pattern=r"^([1-9][0-9]{0,17}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$")
    ]


@dataclass(frozen=True, slots=True)
class CleanupView:
    """How many holds were overdue."""

    expired: int


class ReservationRoutes:
    """The operations on single holds."""

    def __init__(self, gateway: WarehouseGateway, holds: OrderHolds, listing: Listing, prefix: str) -> None:
        self._gateway = gateway
        self._holds = holds
        self._listing = listing
        self._prefix = prefix

    def operations(self) -> list[Operation]:
        """All of them."""
        at, tag = f"{self._prefix}/reservations", "reservations"
        return [
            Operation("POST", at, self.reserve, HoldView, tag, (201,), HELD, Access.SERVICE),
            Operation("POST", f"{at}/cleanup", self.clean_up, CleanupView, tag, access=Access.ADMIN),
            Operation("GET", f"{at}/{{id}}", self.show, HoldView, tag, codes=("RESERVATION_NOT_FOUND",)),
            Operation(
                "POST",
                f"{at}/{{id}}/deactivate",
                self.release,
                HoldView,
                tag,
                codes=(*CLOSED, *OF_ORDER),
                access=Access.SERVICE,
            ),
        ]

    async def reserve(self, request: web.Request, body: ReservationBody) -> web.Response:
        """Hold units of a product until an instant."""
        line = StockLine(body.product_id, body.warehouse_id, body.quantity)
        hold = await take_hold(self._gateway, request, body.order_id, [line], body.expires_at, "expires_at")
        headers = {"Location": f"{self._prefix}/reservations/{hold.reservation_id}"}
        return success(hold_view(hold), status=201, headers=headers)

    async def show(self, request: web.Request, path: HoldPath) -> web.Response:
        """Show a hold; customers see those of their own orders."""
        user = request[CALLER].only_user
        try:
            hold, order = await self._holds.find(request, await self._reservation_id(path))
        except ApiError as error:
            # In the very words in which somebody else's hold is not found.
            if user is not None and error.code == "RESERVATION_NOT_FOUND":
                raise _not_found(path.id) from error
            raise
        if user is not None and (order is None or order.user_id != user):
            raise _not_found(path.id)
        return success(hold_view(hold, order))

    async def release(self, request: web.Request, path: HoldPath, body: CancelBody) -> web.Response:
        """Give back what is held; the hold of an order that waits for its payment cancels the order.

        Its cancellation_reason is then `admin`. The hold of a paid order is refused (HOLD_OF_ORDER): cancel the order.
        """
        hold, order = await self._holds.find(request, await self._reservation_id(path))
        return success(await self._holds.release(request, hold, order, body.reason or ""))

    async def clean_up(self, request: web.Request) -> web.Response:
        """Expire overdue holds now instead of at the warehouse's next sweep."""
        return success(CleanupView(await self._gateway.sweep(changing(request))))

    async def _reservation_id(self, path: HoldPath) -> str:
        if not is_digits(path.id):
            return path.id.lower()
        found = await self._listing.reservation_id(int(path.id))
        if found is None:
            raise _not_found(path.id)
        return found


def _not_found(id_: str) -> ApiError:
    return ApiError("RESERVATION_NOT_FOUND", f"there is no reservation {id_}", [{"reservation_id": id_}])
