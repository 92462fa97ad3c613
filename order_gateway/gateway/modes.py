"""Which way new orders go to the warehouse: configured, and switched at run time for all processes at once.

A switch is a row in the database, which every process reads again and again. It holds for as long as the
configuration is the one that it replaced: whoever changes the configuration means the new one.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.gateway.breaker import GuardedGateway, away
from order_gateway.gateway.port import Mode
from order_gateway.lifecycle import Instant, Way
from service_kit.database.database import Database, Fault

log = structlog.get_logger(__name__)
_READ = text("SELECT mode, instead_of, actor, switched_at FROM gateway_mode WHERE id = 1")
_WRITE = text(
    "REPLACE INTO gateway_mode (id, mode, instead_of, actor, switched_at)"
    " VALUES (1, :mode, :instead_of, :actor, SYSDATE(6))"
)


class Choice(msgspec.Struct, frozen=True):
    """How one order begins.

    Attributes:
        may_defer: whether an order whose hold was not answered in time goes on by the queue.
    """

    way: Way
    may_defer: bool = False


@dataclass(frozen=True, slots=True)
class ModeStatus:
    """What is in use, and why.

    Attributes:
        way: how an order that comes now goes.
        breaker: closed, open or half-open.
    """

    mode: Mode
    configured: Mode
    way: Way
    why: str
    breaker: str
    switched_by: str | None = None
    switched_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class _Switch:
    mode: Mode
    actor: str
    at: Instant


class Modes:
    """The mode of this process; `load` it at start, `run` keeps it up to date."""

    def __init__(self, database: Database, gateway: GuardedGateway, configured: Mode, poll_seconds: float) -> None:
        self._database = database
        self._gateway = gateway
        self._configured = configured
        self._poll_seconds = poll_seconds
        self._switch: _Switch | None = None

    @property
    def mode(self) -> Mode:
        """The one in use."""
        return self._switch.mode if self._switch else self._configured

    def choose(self) -> Choice:
        """How an order that comes now begins. Raises: GatewayFault, if it can't."""
        mode = self.mode
        if mode is Mode.QUEUED:
            return Choice(Way.QUEUED)
        if not self._gateway.is_open:
            return Choice(Way.GRPC, may_defer=mode is Mode.AUTO)
        if mode is Mode.AUTO:
            return Choice(Way.QUEUED)
        raise away()

    def status(self) -> ModeStatus:
        """What is in use, and why."""
        mode, switch, is_open = self.mode, self._switch, self._gateway.is_open
        why = f"switched by {switch.actor}" if switch else "configured"
        if mode is Mode.AUTO:
            why += "; the warehouse is away, orders are queued" if is_open else "; the warehouse answers"
        return ModeStatus(
            mode=mode,
            configured=self._configured,
            way=Way.QUEUED if mode is Mode.QUEUED or (mode is Mode.AUTO and is_open) else Way.GRPC,
            why=why,
            breaker=self._gateway.state,
            switched_by=switch.actor if switch else None,
            switched_at=switch.at if switch else None,
        )

    async def switch(self, mode: Mode, actor: str) -> ModeStatus:
        """Use `mode` for new orders, here at once and in the other processes soon. Raises: DatabaseFault."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_WRITE, {"mode": mode, "instead_of": self._configured, "actor": actor})

        await self._database.run_in_transaction(work)
        await self.load()
        log.info("gateway_mode", mode=mode, actor=actor)
        return self.status()

    async def load(self) -> None:
        """Read what was switched. Raises: DatabaseFault."""

        async def work(connection: AsyncConnection) -> _Switch | None:
            row = (await connection.execute(_READ)).one_or_none()
            if row is None or row.instead_of != self._configured or row.mode == self._configured:
                return None
            return _Switch(Mode(row.mode), row.actor, row.switched_at.replace(tzinfo=UTC))

        self._switch = await self._database.run_in_transaction(work)

    async def run(self) -> None:
        """Follow the switches of other processes; runs until cancelled."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.load()
            except Fault as fault:
                log.warning("gateway_mode_not_read", error=str(fault))
