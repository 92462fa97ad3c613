"""Locks what a batch needs, and reads it; what somebody else keeps locked is left to those commands that need it.

The locks are taken in one order everywhere: stock levels by primary key, then reservations by primary key, then, only
for levels that are to be opened, their products and warehouses. What a request id was answered is read after that. A
repeat of a request that is still under way elsewhere therefore waits for the same stock level and then sees its answer.

Only levels are ever waited for. All other rows, and levels that were found stuck, are taken if they are free: who
never waits for a lock takes no part in a deadlock, in whatever order.
"""

from collections.abc import Iterable, Mapping, Sequence
from secrets import randbits
from typing import Any

import msgspec
import structlog

from service_kit.batcher import SetAside
from service_kit.database.database import DatabaseSettings, DriverSession, RaceLost
from service_kit.database.json_table import bounded, sorted_document
from service_kit.stuck_rows import StuckRows
from warehouse.stock.commands import ChangeStock, Command, CountStock, Reserve
from warehouse.stock.deciding import Order, Stock
from warehouse.stock.records import HeldLine, Level, LevelKey, Reservation, StoredAnswer
from warehouse.writing import statements
from warehouse.writing.plan import PRODUCT, WAREHOUSE, Plan, RowKey, names_of

log = structlog.get_logger(__name__)
_read_level = msgspec.json.Decoder(Level).decode
_read_reservation = msgspec.json.Decoder(Reservation).decode
_read_line = msgspec.json.Decoder(tuple[str, int, int, int, int, int]).decode
_read_answer = msgspec.json.Decoder(StoredAnswer).decode
Rows = list[tuple[Any, ...]]
ROWS_LOGGED_MAX = 10
"""Rows named in one log line."""
STOCK_LOCKED_MESSAGE = "another session keeps this stock locked, ask again"
WRITE_HELD_UP_SECONDS = 10.0
"""How long a request whose rows could not be written, because of locks that nothing shows, is told so at once."""


class Locked(msgspec.Struct, frozen=True):
    """What a batch stands on.

    Attributes:
        stock: for `decide`.
        stuck: rows that were wanted and that somebody else has; nothing of them is in `stock`.
    """

    stock: Stock
    stuck: frozenset[RowKey]


class StockLocking:
    """Locks and reads, on the session of a store, and remembers what was stuck."""

    def __init__(self, session: DriverSession, settings: DatabaseSettings) -> None:
        self._session = session
        self.stuck: StuckRows[RowKey] = StuckRows(settings)
        self._lock_levels = bounded(statements.LOCK_LEVELS, settings.lock_patience_seconds)
        self._lock_reservations = bounded(statements.LOCK_RESERVATIONS, settings.lock_patience_seconds)

    async def lock_and_read(self, plan: Plan, torn: frozenset[LevelKey], *, waits: bool = True) -> Locked:
        """Lock what `plan` names, in a transaction that is begun here.

        Args:
            torn: levels that are known to be damaged.
            waits: whether to wait for locked levels, for a moment; otherwise only what is free is locked.

        Raises: RaceLost; or what the server says (`LOCK_WAITS`) when that moment is over.
        """
        if plan.must_locate:
            await self._locate(plan)
        if self.stuck or not waits:
            return await self._lock_what_is_free(plan, torn, waits=waits)
        opening = () if plan.must_locate else (statements.BEGIN,)
        is_in_line = self.stuck.are_in_demand(plan.levels)
        lock_reservations = statements.LOCK_RESERVATIONS if is_in_line else self._lock_reservations
        steps = (
            *opening,
            statements.LOCK_LEVELS if is_in_line else self._lock_levels,
            *((lock_reservations, statements.READ_LINES) if plan.reservations else ()),
            statements.READ_ANSWERS,
            statements.READ_ORDERS,
            statements.CLOCK,
        )
        results = (await self._session.execute(";".join(steps), _values(plan, plan.levels)))[len(opening) :]
        level_rows, *held, answers, orders, [(now,)] = results
        reservations = _reservations(*held) if held else {}
        return await self._locked(plan, torn, level_rows, reservations, answers, orders, now, set())

    async def _lock_what_is_free(self, plan: Plan, torn: frozenset[LevelKey], *, waits: bool) -> Locked:
        """As `lock_and_read`; levels that are known to be stuck, or all of them, are not waited for."""
        now = self.stuck.now()
        levels, reservations = self.stuck.sort(plan.levels, now), self.stuck.sort(plan.reservations, now)
        if not waits:
            levels.looked_at.update(levels.waited_for)
            levels.waited_for.clear()
        opening = () if plan.must_locate else (statements.BEGIN,)
        is_in_line = self.stuck.are_in_demand(levels.waited_for)
        steps = (
            *opening,
            statements.LOCK_LEVELS if is_in_line else self._lock_levels,
            statements.LOCK_FREE_LEVELS,
            statements.READ_VERSIONS,
            statements.LOCK_FREE_RESERVATIONS,
            statements.READ_RESERVATION_IDS,
            statements.READ_LINES,
            statements.READ_ANSWERS,
            statements.READ_ORDERS,
            statements.CLOCK,
        )
        values = _values(plan, plan.levels & levels.waited_for)
        values["looked_at"] = sorted_document(levels.looked_at)
        results = (await self._session.execute(";".join(steps), values))[len(opening) :]
        waited_rows, free_rows, versions, heads, ids, lines, answers, orders, [(clock,)] = results
        for (line,) in lines:
            reservation_id, *key = _read_line(line)[:3]
            plan.lines.setdefault(reservation_id, []).append((key[0], key[1]))
        held = _reservations(heads, lines)
        free = {_read_level(row).key for (row,) in free_rows}
        stuck: dict[RowKey, int | None] = {
            (product_id, warehouse_id): version
            for product_id, warehouse_id, version in versions
            if (product_id, warehouse_id) not in free
        }
        stuck.update((reservation_id, None) for (reservation_id,) in ids if reservation_id not in held)
        self._note(stuck, (levels.looked_at | reservations.looked_at) - stuck.keys(), now)
        left_alone = levels.left_alone | reservations.left_alone
        held = {key: item for key, item in held.items() if key not in left_alone}
        return await self._locked(
            plan, torn, [*waited_rows, *free_rows], held, answers, orders, clock, stuck.keys() | left_alone
        )

    async def _locked(
        self,
        plan: Plan,
        torn: frozenset[LevelKey],
        level_rows: Rows,
        reservations: dict[str, Reservation],
        answer_rows: Rows,
        order_rows: Rows,
        clock: int,
        stuck: set[RowKey],
    ) -> Locked:
        answers = [_read_answer(row) for (row,) in answer_rows]
        if plan.is_overtaken_by(answers):
            raise RaceLost("a Reserve was answered after its Cancel had looked for it")
        levels = {level.key: level for level in (_read_level(row) for (row,) in level_rows)}
        missing = plan.levels - levels.keys() - stuck
        products, warehouses = frozenset[int](), frozenset[int]()
        if missing:
            products, warehouses, held_up = await self._explain_missing(missing, plan.opened & missing)
            stuck = stuck | held_up
        plan.opened &= missing
        stock = Stock(
            now=clock,
            entropy=randbits(48),
            levels=levels,
            reservations=reservations,
            orders={key: _order(latest, plan.holds.get(key, ())) for key, latest in order_rows},
            answers={answer.request_id: answer for answer in answers},
            products=products,
            warehouses=warehouses,
            torn=torn,
        )
        return Locked(stock, frozenset(stuck))

    def divert(self, commands: Sequence[Command]) -> dict[int, SetAside]:
        """Of `commands`, by position, those that are set aside without a look, because it is not time for one."""
        now = self.stuck.now()
        self.stuck.forget_followed(now)
        found: dict[int, SetAside] = {}
        for position, command in enumerate(commands):
            until = self.stuck.follows(names_of(command), now)
            if until is not None:
                found[position] = self.stuck.follow(names_of(command), until, STOCK_LOCKED_MESSAGE)
            elif isinstance(command, Reserve | ChangeStock | CountStock):
                rows = self.stuck.sort(Plan().rows_of(command), now).left_alone
                if rows:
                    found[position] = self.stuck.set_aside(rows, names_of(command), now, STOCK_LOCKED_MESSAGE)
        return found

    def set_aside(self, commands: Sequence[Command], plan: Plan, locked: Locked) -> dict[int, SetAside]:
        """Of `commands`, by position, those that need what is stuck, and those of the same name behind them.

        Not those that were answered before: a replay needs no rows.
        """
        now = self.stuck.now()
        found: dict[int, SetAside] = {}
        for position, command in enumerate(commands):
            if command.request_id in locked.stock.answers:
                continue
            rows = locked.stuck.intersection(plan.rows_of(command))
            if rows:
                found[position] = self.stuck.set_aside(rows, names_of(command), now, STOCK_LOCKED_MESSAGE)
            elif found and (until := self.stuck.follows(names_of(command), now)) is not None:
                found[position] = self.stuck.follow(names_of(command), until, STOCK_LOCKED_MESSAGE)
        return found

    def hold_back(self, command: Command) -> SetAside:
        """What a command is answered whose rows can't be written because of somebody else's locks."""
        until = self.stuck.now() + WRITE_HELD_UP_SECONDS
        return self.stuck.follow(names_of(command), until, STOCK_LOCKED_MESSAGE)

    async def torn_levels(self, plan: Plan) -> frozenset[LevelKey]:
        """Levels of the batch whose next movement can't be written: a collision there is no race, but damage."""
        [rows] = await self._session.execute(statements.READ_TORN_LEVELS, {"levels": sorted_document(plan.levels)})
        return frozenset((row[0], row[1]) for row in rows)

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
        plan.levels.update((row[0], row[1]) for row in lines_of_orders)
        plan.levels.update(_read_line(row)[1:3] for (row,) in lines)
        plan.locate(((row[0], row[1]) for row in holds), [_read_answer(row) for (row,) in answers])

    async def _explain_missing(
        self, missing: set[LevelKey], opened: set[LevelKey]
    ) -> tuple[frozenset[int], frozenset[int], set[RowKey]]:
        """Of the products and warehouses of levels that do not exist, those that do; and those of them that are stuck.

        Only those of levels that are to be opened can be: their rows are locked here, if they are free.
        """
        values = {
            "products": _singles({key[0] for key in missing}),
            "warehouses": _singles({key[1] for key in missing}),
        }
        steps = f"{statements.READ_PRODUCTS};{statements.READ_WAREHOUSES}"
        products, warehouses = await self._session.execute(steps, values)
        found = frozenset(row[0] for row in products), frozenset(row[0] for row in warehouses)
        if not opened:
            return *found, set()
        wanted = {key[0] for key in opened} & found[0], {key[1] for key in opened} & found[1]
        values = {"products": _singles(wanted[0]), "warehouses": _singles(wanted[1])}
        steps = f"{statements.SHARE_PRODUCTS};{statements.SHARE_WAREHOUSES}"
        products, warehouses = await self._session.execute(steps, values)
        free: set[RowKey] = {*((PRODUCT, row[0]) for row in products), *((WAREHOUSE, row[0]) for row in warehouses)}
        parents: set[RowKey] = {*((PRODUCT, key) for key in wanted[0]), *((WAREHOUSE, key) for key in wanted[1])}
        stuck = parents - free
        self._note(dict.fromkeys(stuck), free, self.stuck.now())
        return *found, stuck

    def _note(self, stuck: Mapping[RowKey, int | None], free: Iterable[RowKey], now: float) -> None:
        fresh = [key for key in stuck if key not in self.stuck]
        if fresh:
            log.warning("rows_locked", count=len(fresh), rows=list(map(repr, fresh[:ROWS_LOGGED_MAX])))
        self.stuck.found_locked(stuck, now)
        self.stuck.found_free(free)


def _values(plan: Plan, levels: set[LevelKey]) -> dict[str, str]:
    return {
        "levels": sorted_document(levels),
        "reservations": _singles(plan.reservations),
        "requests": _singles(plan.requests),
        "orders": _singles(plan.orders),
    }


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


def _singles(values: Iterable[str] | Iterable[int]) -> str:
    return sorted_document([value] for value in values)
