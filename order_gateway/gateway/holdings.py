"""What the warehouse says that orders own: what was asked for under their own request ids, and nothing else.

A reservation that merely carries an order's number is no part of this.
"""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from order_gateway.gateway.inventory import Guard
from order_gateway.gateway.port import Call, Done, HoldState, Refusal, StockLine
from order_gateway.gateway.translation import call_options, holding_state, or_refusal, translating
from stockwarden_client import CallOptions, WarehouseClient, warehouse_pb2

T = TypeVar("T")
PAGE_SIZE = 1000


class Holding:
    """A reservation."""

    __slots__ = ("_reservation",)

    def __init__(self, reservation: warehouse_pb2.Reservation) -> None:
        self._reservation = reservation

    def __repr__(self) -> str:
        return f"<Holding {self.reservation_id} {self.state}>"

    @property
    def reservation_id(self) -> str:
        """The warehouse's id of it."""
        return self._reservation.reservation_id

    @property
    def order_id(self) -> str:
        """The warehouse's id of the order that it was made for."""
        return self._reservation.order_id

    @property
    def state(self) -> HoldState:
        """Where it stands."""
        return holding_state(self._reservation)

    @property
    def created_at(self) -> datetime:
        """When the stock was held."""
        return self._reservation.created_at.ToDatetime(UTC)

    @property
    def created_seconds(self) -> int:
        """The same, in whole seconds since 1970."""
        return self._reservation.created_at.seconds

    @property
    def expires_at(self) -> datetime:
        """When it ends, or would have ended, by itself."""
        return self._reservation.expires_at.ToDatetime(UTC)

    @property
    def lines(self) -> tuple[StockLine, ...]:
        """What it holds or held; what was sold where it is committed."""
        sold = self.state is HoldState.COMMITTED
        return tuple(
            StockLine(line.product_id, line.warehouse_id, line.committed_quantity if sold else line.quantity)
            for line in self._reservation.lines
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call.

    Attributes:
        is_known: whether the warehouse has answered it; a refusal does not count, it has no effect.
        holdings: what it was answered, as it is now.
    """

    is_known: bool
    holdings: tuple[Holding, ...]


class Holdings:
    """Asks, and puts right. All methods raise GatewayFault.

    Args:
        guarded: makes each look-up, or refuses to, while the warehouse is known to be away.
        deadline_seconds: for each look-up; 0: the client's.
    """

    def __init__(self, client: WarehouseClient, guarded: Guard | None = None, deadline_seconds: float = 0) -> None:
        self._client = client
        self._guarded = guarded or _unguarded
        self._options: CallOptions = {"deadline_seconds": deadline_seconds} if deadline_seconds else {}

    async def outcomes(self, request_ids: Sequence[str]) -> list[Outcome]:
        """What became of the calls with these request ids, which differ, in their order."""
        found = await self._guarded(lambda: self._look_up(request_ids))
        return [
            Outcome(
                outcome.HasField("answered_at"),
                tuple(Holding(reservation) for reservation in outcome.reservations if reservation.lines),
            )
            for outcome in found
        ]

    async def _look_up(self, request_ids: Sequence[str]) -> list[warehouse_pb2.RequestOutcome]:
        with translating():
            return await self._client.get_requests(request_ids, **self._options)

    async def made_since(self, since: datetime | None) -> AsyncIterator[list[Holding]]:
        """All reservations with lines, of whomever, page by page, newest first.

        Args:
            since: only those that were made then or later.
        """
        request = warehouse_pb2.ListReservationsRequest(page_size=PAGE_SIZE)
        request.created_since.FromDatetime(since or datetime(1970, 1, 1, tzinfo=UTC))
        while True:
            with translating():
                page = await self._client.list_reservations(request)
            yield [Holding(reservation) for reservation in page.reservations if reservation.lines]
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def release(self, reservation_id: str, call: Call) -> Done | Refusal:
        """Give a hold back."""
        cancelling = self._client.cancel(reservation_id=reservation_id, reason="audit", **call_options(call))
        answer = await or_refusal(cancelling)
        return answer if isinstance(answer, Refusal) else Done()

    async def is_serving(self) -> bool:
        """Whether the warehouse answers that it serves; one try."""
        return await self._client.is_serving()


async def _unguarded(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


def audit_call(correlation_id: str) -> Call:
    """What goes along with a call of the repair. What it asks for is the same however often it is asked."""
    return Call(f"audit-{uuid.uuid4().hex}", correlation_id, actor="audit")
