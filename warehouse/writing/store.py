"""One batch, one transaction: lock and read (see `locking`), decide, write, commit.

Commands that need what somebody else keeps locked are set aside; the others go on without them.

Two servers that insert the same key (a request id, the first reservation of an order) collide; the loser rolls
back and starts over, with the winner's rows visible.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog

from service_kit.batcher import Batcher, SetAside
from service_kit.database import atomic_packet
from service_kit.database.database import (
    DUPLICATE_KEY,
    Database,
    DatabaseFault,
    LockRetriesSpent,
    RaceLost,
    error_number,
)
from service_kit.database.json_table import sorted_document
from service_kit.stuck_rows import LOCK_WAITS, WRITE_WAITS, WriteBlocked
from warehouse.stock.commands import Answer, Command, Outcome
from warehouse.stock.deciding import Decision, decide
from warehouse.stock.records import Level, LevelKey, State
from warehouse.stock.refusals import Refusal
from warehouse.writing import statements
from warehouse.writing.locking import StockLocking
from warehouse.writing.plan import line_count, plan_of

log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode
_read_level = msgspec.json.Decoder(Level).decode
TRANSACTION_LINES_MAX = 2000
"""Lines of commands in one transaction: more would hold their locks for seconds, and outgrow a packet."""


class CommandFailed(Exception):
    """A command that the database will not take, for a reason of its own data; the cause is chained and logged."""


Result = Outcome | Exception | SetAside
StockBatcher = Batcher[Command, Answer | Refusal]
"""The way to `StockStore`."""
LevelBatcher = Batcher[tuple[LevelKey, ...], dict[LevelKey, Level]]
"""The way to `LevelReader`."""


class StockStore:
    """Carries out batches of commands; one at a time, on a connection of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session = database.session()
        self._locking = StockLocking(self._session, database.settings)

    @property
    def locked_rows(self) -> int:
        """Rows that somebody else keeps locked, as far as is known."""
        return len(self._locking.stuck)

    async def process(self, commands: Sequence[Command]) -> list[Result]:
        """Carry out `commands` in order, in one transaction if that can be done.

        Returns an outcome per command; CommandFailed stands for one that the database refuses to take, SetAside for
        one that needs rows that somebody else keeps locked.

        Raises:
            DatabaseFault: nothing was done, or it is not known; ask again with the same request ids.
        """
        if not self._locking.stuck:
            return await self._carry_out(commands)
        aside = self._locking.divert(commands)
        going = [command for position, command in enumerate(commands) if position not in aside]
        return _in_order(aside, await self._carry_out(going) if going else ())

    async def _carry_out(self, commands: Sequence[Command], *, is_again: bool = False) -> list[Result]:
        if len(commands) > 1 and sum(map(line_count, commands)) > TRANSACTION_LINES_MAX:
            return await self._halve(commands)
        try:
            return list(await self._database.retry(lambda: self._attempt(commands)))
        except WriteBlocked as held_up:
            if len(commands) > 1:
                return await self._halve(commands)
            if not is_again:
                return await self._carry_out(commands, is_again=True)
            log.warning("command_held_up", command=repr(commands[0]), error=repr(held_up.__cause__))
            return [self._locking.hold_back(commands[0])]
        except DatabaseFault as fault:
            if not (isinstance(fault, LockRetriesSpent) and isinstance(fault.__cause__, RaceLost)):
                raise
            error: Exception = fault
        except Exception as data_error:
            error = data_error
        return await self._isolate(commands, error)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _isolate(self, commands: Sequence[Command], error: Exception) -> list[Result]:
        """Halve a batch that failed on its data until the culprit stands alone."""
        if len(commands) == 1:
            log.error("command_failed", command=repr(commands[0]), exc_info=error)
            failed = CommandFailed("the database does not take this change")
            failed.__cause__ = error
            return [failed]
        return await self._halve(commands)

    async def _halve(self, commands: Sequence[Command]) -> list[Result]:
        """Two transactions instead of one."""
        middle = len(commands) // 2
        return [*await self.process(commands[:middle]), *await self.process(commands[middle:])]

    async def _attempt(
        self, commands: Sequence[Command], torn: frozenset[LevelKey] = frozenset(), *, waits: bool = True
    ) -> list[Result]:
        """One try of the whole transaction.

        Args:
            torn: the levels that are known to be damaged.
            waits: whether to wait for locked levels, for a moment; afterwards what is free goes on alone.
        """
        plan, is_writing = plan_of(commands), False
        try:
            locked = await self._locking.lock_and_read(plan, torn, waits=waits)
            aside = self._locking.set_aside(commands, plan, locked) if locked.stuck else {}
            going = (
                [command for position, command in enumerate(commands) if position not in aside] if aside else commands
            )
            decision = decide(locked.stock, going)
            if decision.has_changes:
                is_writing = True
                await self._write(decision)
            else:
                await self._session.rollback()
        except BaseException as error:
            await self._session.rollback()
            number = error_number(error)
            if number in WRITE_WAITS and is_writing:
                raise WriteBlocked from error
            if number in LOCK_WAITS and waits and not is_writing:
                waits, found = False, torn
            elif number == DUPLICATE_KEY:
                found = await self._locking.torn_levels(plan)
                if found <= torn:
                    raise RaceLost from error
            else:
                raise
        else:
            return _in_order(aside, decision.outcomes) if aside else [*decision.outcomes]
        return await self._attempt(commands, torn | found, waits=waits)

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
        self._session = database.session()

    async def process(self, wanted: Sequence[Iterable[LevelKey]]) -> list[dict[LevelKey, Level]]:
        """For each caller the levels found; the same dictionary for all of them, with at least what was wanted.

        Raises: DatabaseFault.
        """
        values = {"levels": sorted_document({key for keys in wanted for key in keys})}

        async def attempt() -> dict[LevelKey, Level]:
            try:
                [rows] = await self._session.execute(statements.READ_LEVELS, values)
            except BaseException:
                await self._session.close()
                raise
            return {level.key: level for level in (_read_level(row) for (row,) in rows)}

        return [await self._database.retry(attempt)] * len(wanted)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def _in_order(aside: Mapping[int, SetAside], others: Sequence[Result]) -> list[Result]:
    """Results in the order of the commands: of those set aside, by position, and of the others, in their order."""
    rest = iter(others)
    return [aside[position] if position in aside else next(rest) for position in range(len(aside) + len(others))]
