"""What the warehouse says about the reservations of an order; for the audit."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from order_gateway.gateway import Call, Done, Refusal, StockLine
from order_gateway.gateway.translation import call_options, or_refusal, translating
from warehouse.client import ReservationState, WarehouseClient, warehouse_pb2

PAGE_SIZE = 1000
_PREFIX = "RESERVATION_STATE_"


class HoldingState(StrEnum):
    """As the warehouse calls them."""

    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Holding:
    """A reservation; its lines are what was sold where it is committed."""

    reservation_id: str
    state: HoldingState
    lines: tuple[StockLine, ...]


class Holdings:
    """Asks, and puts right."""

    def __init__(self, client: WarehouseClient) -> None:
        self._client = client

    async def of_order(self, order_id: int) -> Sequence[Holding]:
        """All of an order. Raises: GatewayFault."""
        request = warehouse_pb2.ListReservationsRequest(order_id=str(order_id), page_size=PAGE_SIZE)
        with translating():
            page = await self._client.list_reservations(request)
        # A tombstone, left by a Cancel that came before its Reserve, has no lines and holds nothing.
        return [_holding(reservation) for reservation in page.reservations if reservation.lines]

    async def release(self, reservation_id: str, call: Call) -> Done | Refusal:
        """Give a hold back. Raises: GatewayFault."""
        cancelling = self._client.cancel(reservation_id=reservation_id, reason="audit", **call_options(call))
        answer = await or_refusal(cancelling)
        return answer if isinstance(answer, Refusal) else Done()


def _holding(reservation: warehouse_pb2.Reservation) -> Holding:
    state = HoldingState(ReservationState.Name(reservation.state).removeprefix(_PREFIX))
    sold = state is HoldingState.COMMITTED
    lines = tuple(
        StockLine(line.product_id, line.warehouse_id, line.committed_quantity if sold else line.quantity)
        for line in reservation.lines
    )
    return Holding(reservation.reservation_id, state, lines)
