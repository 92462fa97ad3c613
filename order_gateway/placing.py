"""Writes new orders: one round trip and one transaction for all that came meanwhile."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from order_gateway import statements
from order_gateway.orders import NEW, Item, NewOrder, Order
from order_gateway.records import encode, to_instant
from service_kit.database import Database, DatabaseFault, DriverSession

log = structlog.get_logger(__name__)

_read_placed = msgspec.json.Decoder(tuple[str, int, int, int, int]).decode


@dataclass(frozen=True, slots=True)
class Placement:
    """A new order on its way into the database.

    Attributes:
        token: what it is found by if the answer to COMMIT gets lost.
        lease_seconds: how long its RESERVE step is left to the caller.
        key: owner and Idempotency-Key of the request that makes it.
    """

    new: NewOrder
    token: str
    lease_seconds: float
    key: tuple[str, str] | None
    traceparent: str


class Placing:
    """Writes batches of new orders, one at a time, on a connection of its own."""

    def __init__(self, database: Database, payment_window_seconds: float) -> None:
        self._database = database
        self._session = DriverSession(database)
        self._window = round(payment_window_seconds * 1e6)

    async def process(self, placements: Sequence[Placement]) -> list[Order | Exception]:
        """The orders, in pending_reservation, each with its RESERVE step.

        A batch that fails on its data is halved, until the culprit stands alone. Raises: DatabaseFault.
        """
        try:
            return list(await self._together(placements))
        except DatabaseFault:
            raise
        except Exception as error:
            if len(placements) == 1:
                log.exception("order_not_written")
                return [error]
        middle = len(placements) // 2
        return [*await self.process(placements[:middle]), *await self.process(placements[middle:])]

    async def _together(self, placements: Sequence[Placement]) -> list[Order]:
        tries = itertools.count()

        async def attempt() -> list[Order]:
            try:
                return await self._write(placements, is_repeated=next(tries) > 0)
            except BaseException:
                await self._session.rollback()
                raise

        return await self._database.retry(attempt)

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()

    async def _write(self, placements: Sequence[Placement], *, is_repeated: bool) -> list[Order]:
        values = {"placements": encode([[one.token] for one in placements]).decode()}
        made: set[str] = set()
        if is_repeated:
            _, rows = await self._session.execute(f"{statements.BEGIN};{statements.READ_PLACED}", values)
            made = {_read_placed(row)[0] for (row,) in rows}
        fresh = [one for one in placements if one.token not in made]
        steps = [statements.BEGIN, *self._inserts(fresh, values)]
        steps += [statements.READ_PLACED, statements.COMMIT]
        results = await self._session.execute(";".join(steps), values)
        placed: dict[str, tuple[int, int, int]] = {}
        items: defaultdict[str, list[int]] = defaultdict(list)
        for (row,) in results[-2]:
            token, order_id, created_at, deadline, item_id = _read_placed(row)
            placed[token] = (order_id, created_at, deadline)
            items[token].append(item_id)
        return [_order(one.new, placed[one.token], items[one.token]) for one in placements]

    def _inserts(self, fresh: Sequence[Placement], values: dict[str, Any]) -> list[str]:
        """The statements that write `fresh`; their parameters go into `values`."""
        if not fresh:
            return []
        values["new_orders"] = encode([self._row(one) for one in fresh]).decode()
        values["new_items"] = encode([row for one in fresh for row in _item_rows(one)]).decode()
        inserts = [
            statements.INSERT_ORDERS,
            statements.INSERT_ITEMS,
            statements.INSERT_CREATED,
            statements.INSERT_RESERVE_STEPS,
        ]
        keys = [(one.token, *one.key) for one in fresh if one.key is not None]
        if keys:
            values["keys"] = encode(sorted(keys, key=lambda key: key[1:])).decode()
            inserts.append(statements.LINK_KEYS)
        return inserts

    def _row(self, placement: Placement) -> tuple[object, ...]:
        new = placement.new
        return (
            placement.token,
            new.user_id,
            new.way,
            new.total_amount,
            new.shipping_address,
            new.payment_method,
            new.correlation_id,
            self._window,
            round(placement.lease_seconds * 1e6),
            new.actor,
            placement.traceparent or None,
        )


def _item_rows(placement: Placement) -> list[tuple[object, ...]]:
    return [
        (
            placement.token,
            item.product_id,
            item.warehouse_id,
            item.quantity,
            item.unit_price,
            item.total_price,
            int(item.any_warehouse),
        )
        for item in placement.new.items
    ]


def _order(new: NewOrder, placed: tuple[int, int, int], item_ids: Sequence[int]) -> Order:
    order_id, created_at, deadline = placed
    created = to_instant(created_at)
    return Order(
        id=order_id,
        user_id=new.user_id,
        state=NEW,
        way=new.way,
        total_amount=new.total_amount,
        shipping_address=new.shipping_address,
        payment_method=new.payment_method,
        payment_reference=None,
        payment_deadline=to_instant(deadline),
        created_at=created,
        updated_at=created,
        correlation_id=new.correlation_id,
        refusal=None,
        actor=new.actor,
        warehouse_changes=0,
        items=tuple(
            Item(
                item_id,
                item.product_id,
                item.warehouse_id,
                item.quantity,
                item.unit_price,
                item.total_price,
                item.any_warehouse,
            )
            for item_id, item in zip(item_ids, new.items, strict=True)
        ),
        reservations=(),
    )
