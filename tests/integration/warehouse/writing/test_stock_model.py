"""Random sequences of commands, cut into random batches, on the real store; the pure core says what must come of them.

Each batch is one call of the store, with the database's clock set for its session. The model is `decide` on a world in
memory, one command after the other at the same times. Outcome for outcome and row for row they must be the same; only
ids differ, of which the batch is a part, so reservations are named by their order and their number in it.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from service_kit.database.database import Database
from service_kit.database.json_table import Columns, row
from tests.conftest import MakeDatabase
from tests.kits.stock_world import (
    PRODUCTS,
    START,
    WAREHOUSES,
    ByReservation,
    Step,
    World,
    batches,
    stumbling_batches,
)
from tests.kits.warehouse_kit import connection
from warehouse.stock.commands import ChangeStock, Command, Outcome
from warehouse.stock.records import (
    Event,
    HeldLine,
    Level,
    Movement,
    MovementType,
    Reservation,
    StoredAnswer,
)
from warehouse.writing import statements
from warehouse.writing.store import StockStore

pytestmark = pytest.mark.sql
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_WRITTEN = ("stock_levels", "reservation_lines", "reservations", "movements", "request_ids", "outbox")
STOCKED = [
    ChangeStock(f"stock-{product_id}-{warehouse_id}", product_id, warehouse_id, MovementType.STOCK_IN, 10)
    for product_id in PRODUCTS
    for warehouse_id in WAREHOUSES
]
Cut = list[tuple[int, list[Step]]]


class RealStock:
    """The store under test, on a database of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._runner = asyncio.Runner()
        self._database, self._store = self._runner.run(self._open())
        now = "UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)"
        for product_id in PRODUCTS:
            self._sql(f"INSERT INTO products VALUES ({product_id}, 'S{product_id}', 'x', '', NULL, NULL, {now})")
        for warehouse_id in WAREHOUSES:
            self._sql(f"INSERT INTO warehouses VALUES ({warehouse_id}, 'W{warehouse_id}', 'x', 0, {now})")

    async def _open(self) -> tuple[Database, StockStore]:
        database = Database(self._url)
        return database, StockStore(database)

    def close(self) -> None:
        self._runner.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        await self._store.close()
        await self._database.close()

    def empty(self) -> None:
        """Forget all that was written."""
        for table in _WRITTEN:
            self._sql(f"DELETE FROM {table}")

    def run(self, commands: Sequence[Command], now: int) -> list[Any]:
        """Carry out a batch while the database's clock says `now`."""
        return self._runner.run(self._run(commands, now))

    async def _run(self, commands: Sequence[Command], now: int) -> list[Any]:
        await self._store._session.execute(f"SET timestamp = {now // 10**6}.{now % 10**6:06}", {})
        return await self._store.process(commands)

    def world(self) -> World:
        """All rows."""
        lines: dict[str, list[HeldLine]] = {}
        line = (("reservation_id", statements.UUID), *statements.LINE)
        for reservation_id, *values in self._rows("reservation_lines", line, list[Any]):
            lines.setdefault(reservation_id, []).append(HeldLine(*values))
        heads = self._rows("reservations", statements.RESERVATION, Reservation, ", JSON_ARRAY()")
        return World(
            levels={level.key: level for level in self._rows("stock_levels", statements._LEVEL, Level)},
            reservations={
                head.reservation_id: msgspec.structs.replace(
                    head, lines=tuple(sorted(lines.get(head.reservation_id, ()), key=lambda line: line.key))
                )
                for head in heads
            },
            answers={one.request_id: one for one in self._rows("request_ids", statements._STORED_ANSWER, StoredAnswer)},
            movements=self._rows("movements", statements._MOVEMENT, Movement),
            events=self._rows("outbox", statements._EVENT, Event),
        )

    def _rows(self, table: str, columns: Columns, kind: Any, more: str = "") -> list[Any]:
        decode = msgspec.json.Decoder(kind).decode
        return [decode(text) for (text,) in self._sql(f"SELECT {row(columns, more=more)} FROM {table} AS t")]

    def _sql(self, statement: str) -> Sequence[tuple[Any, ...]]:
        with connection(self._url) as made, made.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
            cursor.execute(statement)
            return list(cursor.fetchall())


@pytest.fixture(scope="module")
def real(make_database: MakeDatabase) -> Iterator[RealStock]:
    made = RealStock(make_database("warehouse"))
    yield made
    made.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(batches | stumbling_batches)
def test_the_real_store_does_what_the_model_does_however_the_commands_are_cut(real: RealStock, cut: Cut) -> None:
    real.empty()
    model, now = World(), START
    real_outcomes: list[Outcome] = real.run(STOCKED, now)
    model_outcomes: list[Outcome] = [model.one(command, now) for command in STOCKED]
    for passed, batch in cut:
        now += passed
        known = list(model.reservations)
        ids = {_name(item): item.reservation_id for item in real.world().reservations.values()}
        known_there = [ids[_name(model.reservations[key])] for key in known]
        real_outcomes += real.run(_resolved(batch, known_there), now)
        model_outcomes += [model.one(command, now) for command in _resolved(batch, known)]
    there = real.world()
    there.check()
    assert _shown(there, real_outcomes) == _shown(model, model_outcomes)


def _resolved(batch: list[Step], known: Sequence[str]) -> list[Command]:
    return [step.resolve(known) if isinstance(step, ByReservation) else step for step in batch]


def _name(reservation: Reservation) -> str:
    return f"{reservation.order_id}#{reservation.order_sequence}"


def _shown(world: World, outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """Everything there is, with reservations by their names."""
    names = {key: _name(item) for key, item in world.reservations.items()}

    def text(value: Any) -> str:
        return _UUID.sub(lambda match: names.get(match[0], "an event"), msgspec.json.encode(value).decode())

    return {
        "outcomes": [text(repr(outcome)) for outcome in outcomes],
        "levels": sorted(map(text, world.levels.values())),
        "reservations": sorted(map(text, world.reservations.values())),
        "movements": sorted(map(text, world.movements)),
        "events": sorted(map(text, world.events)),
        # without request hashes: they are made of the ids
        "answers": sorted(text((one.request_id, one.answer, one.created_at)) for one in world.answers.values()),
    }
