"""Writes new orders: one round trip and one transaction for all that came meanwhile."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from order_gateway import statements
from order_gateway.orders import NEW, Item, NewOrder, Order
from order_gateway.records import encode, line_id, read_placed, to_instant
from service_kit import atomic_packet
from service_kit.database import Database, DatabaseFault, DriverSession

log = structlog.get_logger(__name__)
Claimed = tuple[str, str, str]
"""The owner of an Idempotency-Key, the key, and what the request has claimed it with."""


class ClaimLost(Exception):
    """Another request has claimed the Idempotency-Key since, so this one may not make an order any more."""


class Placement(msgspec.Struct, frozen=True):
    """A new order on its way into the database.

    Attributes:
        token: what it is found by if the answer to COMMIT gets lost.
        request_key: drawn for this order; see `identity`.
        lease_seconds: how long its RESERVE step is left to the caller.
        key: of the request that makes it.
    """

    new: NewOrder
    token: str
    request_key: str
    lease_seconds: float
    key: Claimed | None
    traceparent: str


class Placing:
    """Writes batches of new orders, one at a time, on a connection of its own."""

    def __init__(self, database: Database, payment_window_seconds: float) -> None:
        self._database = database
        self._session = DriverSession(database)
        self._window_microseconds = round(payment_window_seconds * 1e6)

    async def process(self, placements: Sequence[Placement]) -> list[Order | Exception]:
        """The orders, in pending_reservation, each with its RESERVE step; ClaimLost in the place of one not to be made.

        A batch that fails on its data is halved, until the culprit stands alone. Raises: DatabaseFault.
        """
        try:
            return await self._together(placements)
        except DatabaseFault:
            raise
        except Exception as error:
            if len(placements) == 1:
                log.exception("order_not_written")
                return [error]
        middle = len(placements) // 2
        return [*await self.process(placements[:middle]), *await self.process(placements[middle:])]

    async def _together(self, placements: Sequence[Placement]) -> list[Order | Exception]:
        tries = itertools.count()

        async def attempt() -> list[Order | Exception]:
            try:
                return await self._write(placements, is_repeated=next(tries) > 0)
            except BaseException:
                await self._session.rollback()
                raise

        return await self._database.retry(attempt)

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()

    async def _write(self, placements: Sequence[Placement], *, is_repeated: bool) -> list[Order | Exception]:
        values: dict[str, Any] = {
            "placements": encode([[one.token] for one in placements]).decode(),
            "window_microseconds": self._window_microseconds,
        }
        made: set[str] = set()
        if is_repeated:
            _, rows = await self._session.execute(f"{statements.BEGIN};{statements.READ_PLACED}", values)
            made = set(_placed(rows))
        fresh = [one for one in placements if one.token not in made]
        steps = [*_inserts(fresh, values), statements.READ_PLACED]
        *_, rows = await atomic_packet.transact(self._session, steps, values)
        placed = _placed(rows)
        return [
            _order(one, *placed[one.token], self._window_microseconds)
            if one.token in placed
            else ClaimLost("another request with the same Idempotency-Key has taken over")
            for one in placements
        ]


def _placed(rows: Sequence[tuple[str | None]]) -> dict[str, tuple[int, int]]:
    """Number and time of each order that is there, by its token."""
    return {token: (order_id, created_at) for (row,) in rows if row for token, order_id, created_at in read_placed(row)}


def _inserts(fresh: Sequence[Placement], values: dict[str, Any]) -> list[str]:
    """The statements that write `fresh`; their parameters go into `values`."""
    if not fresh:
        return []
    values["new_orders"] = encode([_order_row(one) for one in fresh]).decode()
    values["new_items"] = encode([row for one in fresh for row in _item_rows(one)]).decode()
    values["beginnings"] = encode([_beginning(one) for one in fresh]).decode()
    inserts = [
        statements.INSERT_ORDERS,
        statements.INSERT_ITEMS,
        statements.INSERT_CREATED,
        statements.INSERT_RESERVE_STEPS,
    ]
    keys = [(one.token, *one.key) for one in fresh if one.key is not None]
    if keys:
        values["keys"] = encode(sorted(keys, key=lambda key: key[1:])).decode()
        return [statements.LOCK_KEYS, *inserts, statements.LINK_KEYS]
    return inserts


def _order_row(placement: Placement) -> tuple[object, ...]:
    new = placement.new
    return (
        placement.token,
        new.user_id,
        new.way,
        new.total_amount,
        new.shipping_address,
        new.payment_method,
        new.correlation_id,
        new.actor,
        placement.request_key,
        new.currency,
        *(placement.key or (None, None, None)),
    )


def _item_rows(placement: Placement) -> list[tuple[object, ...]]:
    return [
        (
            placement.token,
            position,
            item.product_id,
            item.warehouse_id,
            item.quantity,
            item.unit_price,
            item.total_price,
            int(item.any_warehouse),
        )
        for position, item in enumerate(placement.new.items, 1)
    ]


def _beginning(placement: Placement) -> tuple[object, ...]:
    lease = round(placement.lease_seconds * 1e6)
    return (placement.token, lease, placement.traceparent or None)


def _order(placement: Placement, order_id: int, created_at: int, window_microseconds: int) -> Order:
    new = placement.new
    created = to_instant(created_at)
    return Order(
        id=order_id,
        version=1,
        user_id=new.user_id,
        state=NEW,
        way=new.way,
        total_amount=new.total_amount,
        shipping_address=new.shipping_address,
        payment_method=new.payment_method,
        payment_reference=None,
        payment_deadline=to_instant(created_at + window_microseconds),
        created_at=created,
        updated_at=created,
        correlation_id=new.correlation_id,
        refusal=None,
        actor=new.actor,
        warehouse_changes=0,
        items=tuple(
            Item(
                line_id(order_id, position),
                item.product_id,
                item.warehouse_id,
                item.quantity,
                item.unit_price,
                item.total_price,
                item.any_warehouse,
                item.currency,
            )
            for position, item in enumerate(new.items, 1)
        ),
        reservations=(),
        request_key=placement.request_key,
        currency=new.currency,
    )
