"""One batch, one transaction: lock and read, decide, write, commit.

The locks are taken in one order everywhere: stock levels by primary key, then reservations by primary key.
What a request id was answered is read after that. A repeat of a request that is still under way elsewhere
therefore waits for the same stock level and then sees its answer.

Two servers that insert the same key (a request id, the first reservation of an order) collide; the loser rolls
back and starts over, with the winner's rows in sight.
"""

from collections.abc import Iterable, Sequence
from secrets import randbits
from typing import Any

import msgspec
import structlog

from service_kit import atomic_packet
from service_kit.database import (
    DUPLICATE_KEY,
    Database,
    DatabaseFault,
    DriverSession,
    LockRetriesSpent,
    RaceLost,
    error_number,
)
from warehouse import statements
from warehouse.commands import Command, Outcome, decode_answer
from warehouse.plan import Plan, line_count, plan_of
from warehouse.records import HeldLine, Level, LevelKey, Reservation, State, StoredAnswer
from warehouse.stock import Decision, Order, Stock, decide

log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode
_read_level = msgspec.json.Decoder(Level).decode
_read_reservation = msgspec.json.Decoder(Reservation).decode
_read_line = msgspec.json.Decoder(tuple[str, int, int, int, int, int]).decode
_read_answer = msgspec.json.Decoder(StoredAnswer).decode
Rows = list[tuple[Any, ...]]
LINES_MAX = 2000
"""Lines of commands in one transaction: more would hold their locks for seconds, and outgrow a packet."""


class CommandFailed(Exception):
    """A command that the database will not take, for a reason of its own data; the cause is chained and logged."""


class StockStore:
    """Carries out batches of commands; one at a time, on a connection of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session = DriverSession(database)

    async def process(self, commands: Sequence[Command]) -> list[Outcome | Exception]:
        """Carry out `commands` in order, in one transaction if that can be done.

        Returns an outcome per command; CommandFailed stands for one that the database refuses to take.

        Raises:
            DatabaseFault: nothing was done, or it is not known; ask again with the same request ids.
        """
        if len(commands) > 1 and sum(map(line_count, commands)) > LINES_MAX:
            return await self._halve(commands)
        try:
            return list(await self._database.retry(lambda: self._attempt(commands)))
        except DatabaseFault as fault:
            if not (isinstance(fault, LockRetriesSpent) and isinstance(fault.__cause__, RaceLost)):
                raise
            error: Exception = fault
        except Exception as data_error:
            error = data_error
        return await self._isolate(commands, error)

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()

    async def _isolate(self, commands: Sequence[Command], error: Exception) -> list[Outcome | Exception]:
        """Halve a batch that failed on its data until the culprit stands alone."""
        if len(commands) == 1:
            log.error("command_failed", command=repr(commands[0]), exc_info=error)
            failed = CommandFailed("the database does not take this change")
            failed.__cause__ = error
            return [failed]
        return await self._halve(commands)

    async def _halve(self, commands: Sequence[Command]) -> list[Outcome | Exception]:
        """Two transactions instead of one."""
        middle = len(commands) // 2
        return [*await self.process(commands[:middle]), *await self.process(commands[middle:])]

    async def _attempt(self, commands: Sequence[Command], torn: frozenset[LevelKey] = frozenset()) -> list[Outcome]:
        """One try of the whole transaction; `torn` are the levels that are known to be damaged."""
        plan = plan_of(commands)
        try:
            stock = await self._lock_and_read(plan, torn)
            decision = decide(stock, commands)
            if decision.has_changes:
                await self._write(decision)
            else:
                await self._session.rollback()
        except BaseException as error:
            await self._session.rollback()
            if error_number(error) != DUPLICATE_KEY:
                raise
            found = await self._torn_levels(plan)
            if found <= torn:
                raise RaceLost from error
        else:
            return decision.outcomes
        return await self._attempt(commands, torn | found)

    async def _torn_levels(self, plan: Plan) -> frozenset[LevelKey]:
        """Levels of the batch whose next movement can't be written: a collision there is no race, but damage."""
        [rows] = await self._session.execute(statements.READ_TORN_LEVELS, {"levels": _document(plan.levels)})
        return frozenset((row[0], row[1]) for row in rows)

    async def _lock_and_read(self, plan: Plan, torn: frozenset[LevelKey]) -> Stock:
        must_locate = bool(plan.reservations or plan.orders_with_holds or plan.reserve_requests)
        if must_locate:
            await self._locate(plan)
        opening = () if must_locate else (statements.BEGIN,)
        steps = (
            *opening,
            statements.LOCK_LEVELS,
            *((statements.LOCK_RESERVATIONS, statements.READ_LINES) if plan.reservations else ()),
            statements.READ_ANSWERS,
            statements.READ_ORDERS,
            statements.CLOCK,
        )
        values = {
            "levels": _document(plan.levels),
            "reservations": _singles(plan.reservations),
            "requests": _singles(plan.requests),
            "orders": _singles(plan.orders),
        }
        results = (await self._session.execute(";".join(steps), values))[len(opening) :]
        level_rows, *held, answer_rows, order_rows, [(now,)] = results
        levels = [_read_level(row) for (row,) in level_rows]
        answers = [_read_answer(row) for (row,) in answer_rows]
        if plan.is_overtaken_by(answers):
            raise RaceLost("a Reserve was answered after its Cancel had looked for it")
        found = {level.key: level for level in levels}
        products, warehouses = await self._explain_missing(plan.levels - found.keys())
        return Stock(
            now=now,
            entropy=randbits(48),
            levels=found,
            reservations=_reservations(*held) if held else {},
            orders={key: _order(latest, plan.holds.get(key, ())) for key, latest in order_rows},
            answers={answer.request_id: answer for answer in answers},
            products=products,
            warehouses=warehouses,
            torn=torn,
        )

    async def _locate(self, plan: Plan) -> None:
        """Find, without locks yet, the reservations that are meant and the stock levels of their lines.

        Neither can change once a reservation exists; one that comes into being meanwhile came later.
        """
        steps = (
            statements.BEGIN,
            statements.READ_HOLDS_OF_ORDERS,
            statements.READ_LINES_OF_ORDERS,
            statements.READ_LINES,
            statements.READ_ANSWERS,
        )
        values = {
            "orders": _singles(plan.orders_with_holds),
            "reservations": _singles(plan.reservations),
            "requests": _singles(plan.reserve_requests),
        }
        _, holds, lines_of_orders, lines, answers = await self._session.execute(";".join(steps), values)
        for order_id, reservation_id in holds:
            plan.holds.setdefault(order_id, []).append(reservation_id)
            plan.reservations.add(reservation_id)
        plan.levels.update((row[0], row[1]) for row in lines_of_orders)
        plan.levels.update(_read_line(row)[1:3] for (row,) in lines)
        for (row,) in answers:
            for reservation in decode_answer(_read_answer(row).answer).reservations:
                plan.reservations.add(reservation.reservation_id)
                plan.levels.update(line.key for line in reservation.lines)

    async def _explain_missing(self, missing: set[LevelKey]) -> tuple[frozenset[int], frozenset[int]]:
        """Of the products and warehouses of levels that do not exist, those that do."""
        if not missing:
            return frozenset(), frozenset()
        values = {
            "products": _singles({key[0] for key in missing}),
            "warehouses": _singles({key[1] for key in missing}),
        }
        steps = f"{statements.READ_PRODUCTS};{statements.READ_WAREHOUSES}"
        products, warehouses = await self._session.execute(steps, values)
        return frozenset(row[0] for row in products), frozenset(row[0] for row in warehouses)

    async def _write(self, decision: Decision) -> None:
        changes: dict[str, Sequence[msgspec.Struct]] = {
            "new_levels": decision.new_levels,
            "changed_levels": decision.changed_levels,
            "new_reservations": decision.new_reservations,
            "changed_reservations": decision.changed_reservations,
            "committed_reservations": [item for item in decision.changed_reservations if item.state is State.COMMITTED],
            "movements": decision.movements,
            "answers": decision.answers,
            "events": decision.events,
        }
        steps: list[str] = []
        values: dict[str, object] = {}
        for kind, rows in changes.items():
            if not rows:
                continue
            inline = statements.insert_inline(kind, rows)
            if inline is not None:
                steps += inline[0]
                values.update(inline[1])
            else:
                steps += statements.WRITES[kind]
                values[kind] = _encode(rows).decode()
        await atomic_packet.finish(self._session, steps, values)


class LevelReader:
    """Reads stock levels for many callers at once, without locks; one read at a time, on its own connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session = DriverSession(database)

    async def process(self, wanted: Sequence[Iterable[LevelKey]]) -> list[dict[LevelKey, Level]]:
        """For each caller the levels found; the same dictionary for all of them, with at least what was wanted.

        Raises: DatabaseFault.
        """
        values = {"levels": _document({key for keys in wanted for key in keys})}

        async def attempt() -> dict[LevelKey, Level]:
            try:
                [rows] = await self._session.execute(statements.READ_LEVELS, values)
            except BaseException:
                await self._session.close()
                raise
            return {level.key: level for level in (_read_level(row) for (row,) in rows)}

        return [await self._database.retry(attempt)] * len(wanted)

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()


def _order(latest: str, reservation_ids: Iterable[str]) -> Order:
    sequence, _, cancelled_at = latest.partition(" ")
    return Order(int(sequence), int(cancelled_at) if cancelled_at else None, tuple(reservation_ids))


def _reservations(rows: Rows, line_rows: Rows) -> dict[str, Reservation]:
    """Put reservations and their lines together."""
    lines: dict[str, list[HeldLine]] = {}
    for (row,) in line_rows:
        reservation_id, *line = _read_line(row)
        lines.setdefault(reservation_id, []).append(HeldLine(*line))
    heads = [_read_reservation(row) for (row,) in rows]
    return {
        head.reservation_id: msgspec.structs.replace(head, lines=tuple(lines.get(head.reservation_id, ())))
        for head in heads
    }


def _document(rows: Iterable[Any]) -> str:
    """Sorted, so that the rows are locked in this order."""
    return _encode(sorted(rows)).decode()


def _singles(values: Iterable[str] | Iterable[int]) -> str:
    return _document([value] for value in values)
