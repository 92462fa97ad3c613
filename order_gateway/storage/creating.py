"""Writes new orders: one round trip and one transaction for all that came meanwhile."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from order_gateway.lifecycle import NEW, Item, NewOrder, Order
from order_gateway.storage import statements
from order_gateway.storage.rows import encode, line_id, read_created
from service_kit.batcher import SetAside
from service_kit.database import atomic_packet
from service_kit.database.database import Database, DatabaseFault, error_number
from service_kit.stuck_rows import WRITE_WAITS, StuckRows, WriteBlocked
from service_kit.times import from_microseconds

log = structlog.get_logger(__name__)
KeyClaim = tuple[str, str, str]
"""The owner of an Idempotency-Key, the key, and what the request has claimed it with."""


Key = tuple[str, str]
"""The owner of an Idempotency-Key, and the key."""
KEY_LOCKED_MESSAGE = "another session keeps this Idempotency-Key locked, ask again"
WRITE_HELD_UP_SECONDS = 10.0
"""How long an order is told to come again that could not be written because of somebody else's locks."""


class ClaimLost(Exception):
    """Another request has claimed the Idempotency-Key since, so this one may not make an order any more."""


class Creation(msgspec.Struct, frozen=True):
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
    key: KeyClaim | None
    traceparent: str


class Creating:
    """Writes batches of new orders, one at a time, on a connection of its own."""

    def __init__(self, database: Database, payment_window_seconds: float) -> None:
        self._database = database
        self._session = database.session()
        self._window_microseconds = round(payment_window_seconds * 1e6)
        self._stuck: StuckRows[Key] = StuckRows(database.settings)

    async def process(self, creations: Sequence[Creation]) -> list[Order | Exception | SetAside]:
        """The orders, in pending_reservation, each with its RESERVE step; ClaimLost for one not to be made.

        SetAside stands for one whose Idempotency-Key somebody else keeps locked. Raises: DatabaseFault.
        """
        aside = await self._database.retry(lambda: self._look_at_keys(creations)) if self._stuck else {}
        going = [one for position, one in enumerate(creations) if position not in aside]
        made = iter(await self._carry_out(going) if going else ())
        return [aside[position] if position in aside else next(made) for position in range(len(creations))]

    async def _carry_out(
        self, creations: Sequence[Creation], *, is_again: bool = False
    ) -> list[Order | Exception | SetAside]:
        """A batch that fails on its data, or on locks that last, is halved, until the culprit stands alone."""
        try:
            return [*await self._together(creations)]
        except DatabaseFault:
            raise
        except Exception as error:
            if isinstance(error, WriteBlocked):
                if await self._database.retry(lambda: self._look_at_keys(creations)):
                    return await self.process(creations)
                if len(creations) == 1 and not is_again:
                    return await self._carry_out(creations, is_again=True)
                if len(creations) == 1:
                    log.warning("order_held_up", error=repr(error.__cause__))
                    names = [creations[0].token]
                    return [self._stuck.follow(names, self._stuck.now() + WRITE_HELD_UP_SECONDS, KEY_LOCKED_MESSAGE)]
            elif len(creations) == 1:
                log.exception("order_not_written")
                return [error]
        middle = len(creations) // 2
        return [*await self._carry_out(creations[:middle]), *await self._carry_out(creations[middle:])]

    async def _look_at_keys(self, creations: Sequence[Creation]) -> dict[int, SetAside]:
        """What those are answered whose Idempotency-Keys somebody else has locked, by their positions."""
        now = self._stuck.now()
        self._stuck.forget_followed(now)
        keyed = {position: (one.key[0], one.key[1]) for position, one in enumerate(creations) if one.key is not None}
        keys = self._stuck.sort(keyed.values(), now)
        wanted = [(one.token, *one.key) for one in creations if one.key and one.key[:2] not in keys.left_alone]
        document = encode(sorted(wanted, key=lambda key: key[1:])).decode()
        steps = (statements.BEGIN, statements.LOCK_FREE_KEYS, statements.READ_CLAIMED_KEYS)
        try:
            _, free, there = await self._session.execute(";".join(steps), {"keys": document})
        finally:
            await self._session.rollback()
        locked = {(row[0], row[1]) for row in there} - {(row[0], row[1]) for row in free}
        if fresh := [key for key in locked if key not in self._stuck]:
            log.warning("rows_locked", count=len(fresh), table="idempotency_keys")
        self._stuck.found_locked(dict.fromkeys(locked), now)
        self._stuck.found_free((keys.waited_for | keys.looked_at) - locked)
        stuck = locked | keys.left_alone
        aside = {
            position: self._stuck.set_aside([key], [creations[position].token], now, KEY_LOCKED_MESSAGE)
            for position, key in keyed.items()
            if key in stuck
        }
        for position, one in enumerate(creations):
            if position not in aside and (until := self._stuck.follows([one.token], now)) is not None:
                aside[position] = self._stuck.follow([one.token], until, KEY_LOCKED_MESSAGE)
        return aside

    async def _together(self, creations: Sequence[Creation]) -> list[Order | Exception]:
        tries = itertools.count()

        async def attempt() -> list[Order | Exception]:
            try:
                return await self._write(creations, is_repeated=next(tries) > 0)
            except BaseException as error:
                await self._session.rollback()
                if error_number(error) in WRITE_WAITS:
                    raise WriteBlocked from error
                raise

        return await self._database.retry(attempt)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _write(self, creations: Sequence[Creation], *, is_repeated: bool) -> list[Order | Exception]:
        values: dict[str, Any] = {
            "tokens": encode([[one.token] for one in creations]).decode(),
            "window_microseconds": self._window_microseconds,
        }
        made: set[str] = set()
        if is_repeated:
            _, rows = await self._session.execute(f"{statements.BEGIN};{statements.READ_CREATED}", values)
            made = set(_created(rows))
        fresh = [one for one in creations if one.token not in made]
        steps = [*_inserts(fresh, values), statements.READ_CREATED]
        *_, rows = await atomic_packet.transact(self._session, steps, values)
        created = _created(rows)
        return [
            _order(one, *created[one.token], self._window_microseconds)
            if one.token in created
            else ClaimLost("another request with the same Idempotency-Key has taken over")
            for one in creations
        ]


def _created(rows: Sequence[tuple[str | None]]) -> dict[str, tuple[int, int]]:
    """Number and time of each order that is there, by its token."""
    return {
        token: (order_id, created_at) for (row,) in rows if row for token, order_id, created_at in read_created(row)
    }


def _inserts(fresh: Sequence[Creation], values: dict[str, Any]) -> list[str]:
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


def _order_row(creation: Creation) -> tuple[object, ...]:
    new = creation.new
    return (
        creation.token,
        new.user_id,
        new.way,
        new.total_amount,
        new.payment_method,
        new.correlation_id,
        new.actor,
        creation.request_key,
        new.currency,
        *(creation.key or (None, None, None)),
        new.shipping_address,
    )


def _item_rows(creation: Creation) -> list[tuple[object, ...]]:
    return [
        (
            creation.token,
            position,
            item.product_id,
            item.warehouse_id,
            item.quantity,
            item.unit_price,
            item.total_price,
            int(item.any_warehouse),
        )
        for position, item in enumerate(creation.new.items, 1)
    ]


def _beginning(creation: Creation) -> tuple[object, ...]:
    lease = round(creation.lease_seconds * 1e6)
    return (creation.token, lease, creation.traceparent or None)


def _order(creation: Creation, order_id: int, created_at: int, window_microseconds: int) -> Order:
    new = creation.new
    created = from_microseconds(created_at)
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
        payment_deadline=from_microseconds(created_at + window_microseconds),
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
        request_key=creation.request_key,
        currency=new.currency,
    )
