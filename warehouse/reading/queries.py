"""Reading without locks: reservations, stock levels and the ledger, in pages."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, Select, and_, literal_column, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database.database import Database
from service_kit.fair_semaphore import FairSemaphore, slot_owner
from service_kit.times import microseconds_from_database, microseconds_to_database
from warehouse.reading.paging import Cursor
from warehouse.reading.tables import (
    movements,
    products,
    reservation_lines,
    reservations,
    stock_levels,
    warehouses,
)
from warehouse.stock.records import (
    HeldLine,
    Level,
    LevelKey,
    Movement,
    MovementType,
    Reservation,
    State,
    uuid7,
)

T = TypeVar("T")
LISTS_AT_ONCE_MAX = 4
_NOW: ColumnElement[Any] = literal_column("SYSDATE(6)")


def _as_ascii(value: str) -> str:
    """A caller's text, made fit to be compared with a column of ASCII ids, none of which contains a '?'."""
    return value.encode("ascii", "replace").decode()


class StockQueries:
    """What the warehouse can be asked without changing it. All methods raise DatabaseFault.

    Args:
        lists_at_once_max: lists may be slow: no more of them are read at once, so that connections are left for others.
    """

    def __init__(self, database: Database, lists_at_once_max: int = LISTS_AT_ONCE_MAX) -> None:
        self._database = database
        self._lists = FairSemaphore(lists_at_once_max)

    async def clock(self) -> int:
        """The database's time, in microseconds since 1970."""
        [row] = await self._all(select(_NOW))
        return microseconds_from_database(row[0])

    async def reservation(self, reservation_id: str) -> Reservation | None:
        """One reservation, if it exists."""
        # In a snapshot: its lines are those of its state, whatever is committed meanwhile.
        found = await self._database.read_in_snapshot(lambda connection: _load(connection, [_as_ascii(reservation_id)]))
        return found[0] if found else None

    async def reservations_newest_first(
        self, order_id: str, product_id: int, state: State | None, before: str, size: int, since: int | None = None
    ) -> list[Reservation]:
        """Of an order and/or with a line for a product; those with an id less than `before`, unless it is empty.

        Args:
            since: only those made at or after this instant, to the millisecond.
        """
        # By product the ids are read from the lines' index, where they stand in order: a page is a few rows of it.
        key = reservation_lines.c.reservation_id if product_id else reservations.c.reservation_id
        ids = _reservation_ids(order_id, product_id, state)
        if before:
            ids = ids.where(key < _as_ascii(before))
        if since is not None:
            # An id begins with the instant that it was made at, so that older rows are not even looked at.
            ids = ids.where(key >= uuid7(max(since, 0), 0, 0)[:13])
        ids = ids.order_by(key.desc()).limit(size)
        return await self.listed(lambda connection: _load_page(connection, ids))

    async def reservations_by_expiry(self, state: State, after: Cursor | None, size: int) -> list[Reservation]:
        """All in a state, soonest expiry first; those after the (expires_at, reservation_id) of `after`."""
        table = reservations.c
        ids = select(table.reservation_id).where(table.state == state)
        if after is not None:
            expires_at = microseconds_to_database(int(after[0]))
            later = and_(table.expires_at == expires_at, table.reservation_id > _as_ascii(str(after[1])))
            ids = ids.where(table.expires_at >= expires_at, or_(table.expires_at > expires_at, later))
        ids = ids.order_by(table.expires_at, table.reservation_id).limit(size)
        return await self.listed(lambda connection: _load_page(connection, ids))

    async def levels_of_product(
        self, product_id: int, after: tuple[int, int] | None, size: int
    ) -> list[tuple[int, Level]]:
        """The stock levels of a product, by priority and id of the warehouse, each with that priority.

        Args:
            after: the (priority, warehouse_id) behind which to begin; None: at the beginning.
        """
        table = warehouses.c
        query = (
            select(table.priority, stock_levels)
            .join(warehouses, table.warehouse_id == stock_levels.c.warehouse_id)
            .where(stock_levels.c.product_id == product_id)
        )
        if after is not None:
            same = and_(table.priority == after[0], table.warehouse_id > after[1])
            query = query.where(or_(table.priority > after[0], same))
        query = query.order_by(table.priority, table.warehouse_id).limit(size)
        return [(int(row[0]), _level(row[1:])) for row in await self._list(query)]

    async def warehouses_of_product(self, product_id: int, least: int, size: int) -> list[int]:
        """The next warehouses, from id `least` on, that keep a product, by id."""
        table = stock_levels.c
        query = select(table.warehouse_id).where(table.product_id == product_id, table.warehouse_id >= least)
        return [int(row[0]) for row in await self._list(query.order_by(table.warehouse_id).limit(size))]

    async def existing(self, keys: Sequence[LevelKey]) -> tuple[frozenset[int], frozenset[int]]:
        """Of the products and the warehouses in `keys`, those that exist."""
        found = select(products.c.product_id).where(products.c.product_id.in_({k[0] for k in keys}))
        table = warehouses.c
        others = select(table.warehouse_id).where(table.warehouse_id.in_({k[1] for k in keys}))

        async def read(connection: AsyncConnection) -> tuple[frozenset[int], frozenset[int]]:
            both = [(await connection.execute(query)).scalars().all() for query in (found, others)]
            return frozenset(both[0]), frozenset(both[1])

        return await self._database.read_in_snapshot(read)

    async def movements(
        self, key: LevelKey, kind: MovementType | None, since: int | None, before: int | None, size: int
    ) -> list[Movement]:
        """The ledger of a stock level, newest first: those with a sequence less than `before`.

        Time grows with the sequence, so those before `since` are cut off here, not searched for over there.
        """
        table = movements.c
        query = select(movements).where(table.product_id == key[0], table.warehouse_id == key[1])
        if kind is not None:
            query = query.where(table.type == kind)
        if before is not None:
            query = query.where(table.sequence < before)
        found = [_movement(row) for row in await self._list(query.order_by(table.sequence.desc()).limit(size))]
        return [movement for movement in found if since is None or movement.created_at >= since]

    async def listed(self, read: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """What `read` finds, as of one moment, when it is its turn among the lists."""
        async with self._lists.slot(slot_owner.get()):
            return await self._database.read_in_snapshot(read)

    async def _list(self, query: Select[Any]) -> Sequence[Row[Any]]:
        return await self.listed(lambda connection: _rows(connection, query))

    async def _all(self, query: Select[Any]) -> Sequence[Row[Any]]:
        return await self._database.run_in_transaction(lambda connection: _rows(connection, query))


async def _rows(connection: AsyncConnection, query: Select[Any]) -> list[Row[Any]]:
    return list((await connection.execute(query)).all())


def _reservation_ids(order_id: str, product_id: int, state: State | None) -> Select[Any]:
    table, lines = reservations.c, reservation_lines.c
    if not product_id:
        ids = select(table.reservation_id)
    else:
        ids = select(lines.reservation_id).distinct().where(lines.product_id == product_id)
        if order_id or state is not None:
            ids = ids.join(reservations, lines.reservation_id == table.reservation_id)
    if order_id:
        ids = ids.where(table.order_id == order_id)
    if state is not None:
        ids = ids.where(table.state == state)
    return ids


async def _load_page(connection: AsyncConnection, ids: Select[Any]) -> list[Reservation]:
    return await _load(connection, [row[0] for row in (await connection.execute(ids)).all()])


async def _load(connection: AsyncConnection, ids: Sequence[str]) -> list[Reservation]:
    """The reservations with `ids`, in that order."""
    if not ids:
        return []
    heads = select(reservations).where(reservations.c.reservation_id.in_(ids))
    rows = {row.reservation_id: row for row in (await connection.execute(heads)).all()}
    lines: dict[str, list[HeldLine]] = {}
    query = select(reservation_lines).where(reservation_lines.c.reservation_id.in_(ids))
    keys = reservation_lines.c
    for reservation_id, *line in (await connection.execute(query.order_by(keys.product_id, keys.warehouse_id))).all():
        lines.setdefault(reservation_id, []).append(HeldLine(*line))
    return [_reservation(rows[key], lines.get(key, [])) for key in ids if key in rows]


def _reservation(row: Row[Any], lines: list[HeldLine]) -> Reservation:
    return Reservation(
        row.reservation_id,
        row.order_id,
        row.order_sequence,
        State(row.state),
        microseconds_from_database(row.expires_at),
        microseconds_from_database(row.created_at),
        microseconds_from_database(row.closed_at) if row.closed_at else None,
        row.reason,
        row.correlation_id,
        tuple(lines),
    )


def _level(row: Sequence[Any]) -> Level:
    values: list[Any] = [*row[:-2], microseconds_from_database(row[-2]), microseconds_from_database(row[-1])]
    return Level(*values)


def _movement(row: Row[Any]) -> Movement:
    values: list[Any] = [*row[:-1], microseconds_from_database(row.created_at)]
    return Movement(*values)
