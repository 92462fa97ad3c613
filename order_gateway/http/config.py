"""Which way orders take to the warehouse, and how the warehouse is, as this service sees it."""

import time
from dataclasses import dataclass

from aiohttp import web

from order_gateway.gateway.modes import Modes, ModeStatus
from order_gateway.gateway.port import Mode, WarehouseGateway
from order_gateway.http.bodies import ModeBody
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import CALLER, Access
from order_gateway.http.wire.errors import success


@dataclass(frozen=True, slots=True)
class WarehouseHealth:
    """Whether the warehouse says that it serves, how long the answer took, and whether calls are let through."""

    status: str
    ok: bool
    latency_seconds: float
    breaker: str
    mode: Mode


class ConfigRoutes:
    """The operations on the way to the warehouse."""

    def __init__(self, modes: Modes, gateway: WarehouseGateway, prefix: str) -> None:
        self._modes = modes
        self._gateway = gateway
        self._prefix = prefix

    def operations(self) -> list[Operation]:
        """All of them."""
        mode, tag = f"{self._prefix}/config/warehouse", "config"
        return [
            Operation("GET", mode, self.show, ModeStatus, tag, access=Access.ADMIN),
            Operation("PUT", mode, self.switch, ModeStatus, tag, access=Access.ADMIN),
            Operation("GET", f"{self._prefix}/warehouse/health", self.health, WarehouseHealth, tag),
        ]

    async def show(self, _request: web.Request) -> web.Response:
        """Show which way new orders take to the warehouse, and why."""
        return success(self._modes.status())

    async def switch(self, request: web.Request, body: ModeBody) -> web.Response:
        """Switch the way of new orders in all processes; what is under way ends as it began."""
        return success(await self._modes.switch(Mode(body.mode), request[CALLER].actor))

    async def health(self, _request: web.Request) -> web.Response:
        """Show how the warehouse is, as this service sees it."""
        started = time.perf_counter()
        ok = await self._gateway.is_serving()
        elapsed = round(time.perf_counter() - started, 6)
        status = self._modes.status()
        return success(WarehouseHealth("serving" if ok else "not serving", ok, elapsed, status.breaker, status.mode))
