"""What the audit reads of orders: many at once, and only what it compares."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.identity import OrderName
from order_gateway.lifecycle import Payment, Reason, State, Status, Step, Stock
from order_gateway.storage.rows import encode
from service_kit.database.database import Database
from service_kit.database.json_table import NUMBER, Columns, join, microseconds, unpack
from service_kit.times import EPOCH, to_database

_IDS: Columns = (("id", NUMBER),)
# A row of one statement: state and steps are those of one moment.
_ROW = f"""
    JSON_ARRAY(t.id, t.version, t.status, t.stock, t.payment, t.reason, t.request_key, {microseconds("t.created_at")},
      (SELECT {microseconds("MIN(p.created_at)")} FROM payments AS p WHERE p.order_id = t.id),
      IF(t.stock = 'returned', (SELECT COUNT(*) FROM items AS i WHERE i.order_id = t.id), 0)),
    (SELECT JSON_ARRAYAGG(r.reservation_id) FROM reservations AS r WHERE r.order_id = t.id),
    (SELECT JSON_ARRAYAGG(JSON_ARRAY(s.step, s.attempts, {microseconds("s.due_at")}, s.last_error,
       {microseconds("s.created_at")}, {microseconds("s.parked_at")}))
     FROM intents AS s WHERE s.order_id = t.id)"""
_BY_ID = f"SELECT {_ROW} FROM {unpack('ids', _IDS)} {join('orders')} ON t.id = j.id"
_PAGE = (
    f"SELECT {_ROW} FROM orders AS t FORCE INDEX (PRIMARY) "
    "WHERE t.id > %(after)s AND t.id <= %(last)s AND t.created_at >= %(since)s ORDER BY t.id LIMIT %(limit)s"
)
_RANGE = "SELECT MIN(id), MAX(id) FROM orders"
_RANGE_SINCE = f"{_RANGE} WHERE created_at >= %(since)s"


class OpenStep(msgspec.Struct, array_like=True, frozen=True):
    """A step that remains to be done; instants are microseconds since 1970.

    Attributes:
        due_at: when it is tried next.
        begun_at: when it was written down.
        parked_at: since when it is tried only now and then, because it keeps failing.
    """

    step: Step
    attempts: int
    due_at: int
    last_error: str | None
    begun_at: int
    parked_at: int | None


class _Record(msgspec.Struct, array_like=True, frozen=True):
    id: int
    version: int
    status: Status
    stock: Stock
    payment: Payment
    reason: Reason | None
    request_key: str
    created_at: int
    payment_began_at: int | None
    lines: int


class Row(msgspec.Struct, frozen=True):
    """An order as the audit sees it; instants are microseconds since 1970.

    Attributes:
        lines: how many, of an order whose stock was returned.
        reservation_ids: what it believes to hold.
    """

    id: int
    version: int
    state: State
    request_key: str
    created_at: int
    payment_began_at: int | None
    lines: int
    reservation_ids: frozenset[str]
    steps: tuple[OpenStep, ...]

    def name(self, installation: str) -> OrderName:
        """What it is called outside."""
        return OrderName(installation, self.id, self.request_key)

    @property
    def open_steps(self) -> frozenset[Step]:
        """The steps written down for it."""
        return frozenset(step.step for step in self.steps)


_read_record = msgspec.json.Decoder(_Record).decode
_read_texts = msgspec.json.Decoder(list[str]).decode
_read_steps = msgspec.json.Decoder(tuple[OpenStep, ...]).decode


class AuditRows:
    """Reads. All methods raise DatabaseFault."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def bounds(self, since: datetime | None) -> tuple[int, int] | None:
        """The least and the greatest id of the orders made at `since` or later; None if there are none."""
        values = {"since": to_database(since or EPOCH)}
        [(least, greatest)] = await self._all(_RANGE_SINCE if since else _RANGE, values)
        return None if least is None else (int(least), int(greatest))

    async def page(self, after: int, last: int, since: datetime | None, limit: int) -> list[Row]:
        """The next orders behind `after`, up to `last`, in the order of their ids."""
        values = {"after": after, "last": last, "since": to_database(since or EPOCH), "limit": limit}
        return [_row(*row) for row in await self._all(_PAGE, values)]

    async def some(self, ids: Iterable[int]) -> list[Row]:
        """The orders with these ids, as far as there are any."""
        document = encode([[one] for one in sorted(ids)]).decode()
        return [_row(*row) for row in await self._all(_BY_ID, {"ids": document})]

    async def _all(self, statement: str, values: dict[str, Any]) -> Sequence[Any]:
        async def read(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.exec_driver_sql(statement, values)).all()

        return await self._database.run_in_transaction(read)


def _row(order: str, reservation_ids: str | None, steps: str | None) -> Row:
    record = _read_record(order)
    return Row(
        record.id,
        record.version,
        State(record.status, record.stock, record.payment, record.reason),
        record.request_key,
        record.created_at,
        record.payment_began_at,
        record.lines,
        frozenset(_read_texts(reservation_ids)) if reservation_ids else frozenset(),
        _read_steps(steps) if steps else (),
    )
