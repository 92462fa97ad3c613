"""How this service stands with the warehouse: whether its key is known and enough there, how far its clock is off."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.gateway.port import Call, Caller, GatewayFault, Refusal, WarehouseGateway
from service_kit.database.database import Database, Fault

log = structlog.get_logger(__name__)
ENOUGH = frozenset({"order", "admin"})
"""The roles that orders can live with; admin is only for changes of stock over HTTP."""
LOOK_TIMEOUT_SECONDS = 1.0
CLOCK_TOLERANCE = timedelta(seconds=1)
"""Two clocks that are no further apart count as one: asking takes time, too."""


class Standing:
    """Looks again and again; `run` it in the background.

    Args:
        clock: this service's own database's time.
        on_clock: told how far the warehouse's database's clock is ahead of that one.

    Attributes:
        problem: what is wrong with this service's key, for people; None: nothing is known to be.
        role: what the key allows; None: not known.
        clock_ahead: how far the warehouse's database's clock is ahead of ours; zero, within the tolerance.
    """

    def __init__(
        self,
        gateway: WarehouseGateway,
        clock: Callable[[], Awaitable[datetime]],
        on_clock: Callable[[timedelta], None] = lambda _: None,
        *,
        every_seconds: float,
    ) -> None:
        self._gateway = gateway
        self._clock = clock
        self._on_clock = on_clock
        self._every_seconds = every_seconds
        self.problem: str | None = None
        self.role: str | None = None
        self.clock_ahead = timedelta(0)

    @property
    def connections_replaced(self) -> int:
        """How many connections to the warehouse were replaced because they had gone silent."""
        return self._gateway.connections_replaced

    async def run(self) -> None:
        """Look from time to time; runs until cancelled."""
        while True:
            await self.look_at_both()
            await asyncio.sleep(self._every_seconds)

    async def is_good(self) -> bool:
        """Look at the key; whether nothing is known to be wrong with it. A warehouse that is silent changes nothing."""
        await self._look()
        return self.problem is None

    async def look_at_both(self) -> None:
        """Look at the key, and compare the clocks; what can't be asked now stays as it was."""
        try:
            before = await self._clock()
            caller = await self._look()
            after = await self._clock()
        except Fault as fault:
            log.info("clock_not_compared", error=str(fault))
            return
        if caller is None or caller.now is None:
            return
        ahead = caller.now - (before + (after - before) / 2)
        if abs(ahead) <= CLOCK_TOLERANCE + (after - before) / 2:
            ahead = timedelta(0)
        if ahead and not self.clock_ahead:
            log.warning("clocks_differ", warehouse_ahead_seconds=round(ahead.total_seconds(), 3))
        self.clock_ahead = ahead
        self._on_clock(ahead)

    async def _look(self) -> Caller | None:
        try:
            caller = await self._gateway.caller(Call("", "", deadline_seconds=LOOK_TIMEOUT_SECONDS))
        except GatewayFault as fault:
            # Away, or older than this question.
            log.debug("standing_not_known", reason=str(fault))
            return None
        if isinstance(caller, Refusal):
            self._note(None, caller.message)
            return None
        missing = (
            f"the key {caller.name!r} of this service has the role {caller.role} in the warehouse; orders need order"
        )
        self._note(caller.role, None if caller.role in ENOUGH else missing)
        return caller

    def _note(self, role: str | None, problem: str | None) -> None:
        if (role, problem) == (self.role, self.problem):
            return
        self.role, self.problem = role, problem
        if problem is not None:
            log.error("warehouse_denies", error=problem)
        else:
            admin = (
                "" if role == "admin" else "stock and products can't be changed over HTTP: that needs the role admin"
            )
            log.info("warehouse_key", role=role, **({"note": admin} if admin else {}))


def database_clock(database: Database) -> Callable[[], Awaitable[datetime]]:
    """Reads a database's time. Raises: DatabaseFault."""

    async def work(connection: AsyncConnection) -> datetime:
        now: datetime = (await connection.execute(text("SELECT SYSDATE(6)"))).scalar_one()
        return now.replace(tzinfo=UTC)

    async def read() -> datetime:
        return await database.run_in_transaction(work)

    return read
