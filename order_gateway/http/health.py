"""Whether the service lives, and whether it can work."""

import asyncio
import time
from collections.abc import Awaitable

from aiohttp import web

from order_gateway.gateway import WarehouseGateway
from order_gateway.http.errors import success
from service_kit.database import Database, DatabaseAway


class HealthRoutes:
    """The handlers of /health and /ready; no key needed."""

    def __init__(self, database: Database, gateway: WarehouseGateway, prefix: str) -> None:
        self._database = database
        self._gateway = gateway
        self._prefix = prefix

    def routes(self) -> list[web.RouteDef]:
        """Where they are."""
        return [
            web.get("/health", self.health, allow_head=False),
            web.get(f"{self._prefix}/health", self.health, allow_head=False),
            web.get("/ready", self.ready, allow_head=False),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        """GET /health: the process lives."""
        return success({"status": "ok"})

    async def ready(self, _request: web.Request) -> web.Response:
        """GET /ready: what it needs is there; 503 if not."""
        database, warehouse = await asyncio.gather(
            _measured(self._database_is_there()), _measured(self._gateway.is_serving())
        )
        is_ready = database["ok"] and warehouse["ok"]
        checks = {"database": database, "warehouse": warehouse}
        return success(
            {"status": "ready" if is_ready else "not ready", "checks": checks}, status=200 if is_ready else 503
        )

    async def _database_is_there(self) -> bool:
        try:
            await self._database.ping()
        except DatabaseAway:
            return False
        return True


async def _measured(check: Awaitable[bool]) -> dict[str, bool | float]:
    started = time.perf_counter()
    ok = await check
    return {"ok": ok, "latency_seconds": round(time.perf_counter() - started, 6)}
