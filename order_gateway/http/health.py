"""Whether the service lives, and whether it can work."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from aiohttp import web

from order_gateway.gateway.port import WarehouseGateway
from order_gateway.gateway.standing import Standing
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import Access
from order_gateway.http.wire.errors import ApiError, success
from service_kit.background import Background
from service_kit.cached_answer import CachedAnswer
from service_kit.database.database import Database, DatabaseAway


@dataclass(frozen=True, slots=True)
class Alive:
    """The process lives."""

    status: str


@dataclass(frozen=True, slots=True)
class Check:
    """Whether something is there, how long its answer took, and whether the service can't work without it.

    Attributes:
        problem: what is wrong, where more can be said than that it is away.
    """

    ok: bool
    latency_seconds: float
    needed: bool
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """The service can work; degraded: without something that it can do without."""

    status: Literal["ready", "degraded"]
    checks: dict[str, Check]


class HealthRoutes:
    """The operations /health and /ready; no key needed.

    Args:
        needs_warehouse: whether orders can't be taken now while the warehouse is away.
        standing: whether the warehouse takes this service's key; needed in every mode, as waiting does not help.
        background: what has to go on for the service to work.
        ready_seconds: how old an answer of /ready may be.
    """

    def __init__(
        self,
        database: Database,
        gateway: WarehouseGateway,
        prefix: str,
        needs_warehouse: Callable[[], bool] = lambda: True,
        standing: Standing | None = None,
        background: Background | None = None,
        ready_seconds: float = 0,
    ) -> None:
        self._checks = CachedAnswer(self._look, ready_seconds)
        self._standing = standing
        self._background = background or Background()
        self._database = database
        self._gateway = gateway
        self._prefix = prefix
        self._needs_warehouse = needs_warehouse

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            Operation("GET", path, handler, answer, "operations", codes=codes, access=Access.OPEN)
            for path, handler, answer, codes in (
                ("/health", self.health, Alive, ()),
                (f"{self._prefix}/health", self.health, Alive, ()),
                ("/ready", self.ready, Readiness, ("NOT_READY",)),
                (f"{self._prefix}/ready", self.ready, Readiness, ("NOT_READY",)),
            )
        ]

    async def health(self, _request: web.Request) -> web.Response:
        """Tell that the process lives."""
        return success(Alive("ok"))

    async def ready(self, _request: web.Request) -> web.Response:
        """Tell whether what the service needs is there; 503 if not."""
        checks = await self._checks.get()
        away = [name for name, check in checks.items() if check.needed and not check.ok]
        if away:
            details = [{"check": name, **asdict(check)} for name, check in checks.items()]
            problems = [checks[name].problem or f"{name} is needed and away" for name in away]
            raise ApiError("NOT_READY", "; ".join(problems), details, {"Retry-After": "1"})
        all_there = all(check.ok for check in checks.values())
        return success(Readiness("ready" if all_there else "degraded", checks))

    async def _look(self) -> dict[str, Check]:
        database, warehouse, key = await asyncio.gather(
            _measured(self._database_is_there(), needed=True),
            _measured(self._gateway.is_serving(), needed=self._needs_warehouse()),
            self._key(),
        )
        unhealthy = self._background.unhealthy
        problem = f"not at work: {', '.join(unhealthy)}" if unhealthy else None
        at_work = Check(not unhealthy, 0.0, needed=True, problem=problem)
        return {"database": database, "warehouse": warehouse, "background": at_work, **key}

    async def _key(self) -> dict[str, Check]:
        if self._standing is None:
            return {}
        check = await _measured(self._standing.is_good(), needed=True)
        return {"warehouse_key": replace(check, problem=self._standing.problem)}

    async def _database_is_there(self) -> bool:
        try:
            await self._database.ping()
        except DatabaseAway:
            return False
        return True


async def _measured(check: Awaitable[bool], *, needed: bool) -> Check:
    started = time.perf_counter()
    ok = await check
    return Check(ok, round(time.perf_counter() - started, 6), needed)
