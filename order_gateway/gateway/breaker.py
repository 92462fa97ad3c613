"""The guard around the port: a circuit breaker, and a time limit for calls that come without one.

While the warehouse is away, calls fail at once instead of waiting for it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

import pybreaker
import structlog
from msgspec.structs import replace
from pydantic import BaseModel, Field

from order_gateway.gateway.port import (
    Call,
    Caller,
    CataloguePage,
    Done,
    GatewayFault,
    Hold,
    HoldState,
    Outcome,
    Product,
    Refusal,
    StockLine,
    WarehouseGateway,
)
from order_gateway.gateway.stock import Availability, CatalogueProduct, Level, LevelKey, ProductPage

log = structlog.get_logger(__name__)
T = TypeVar("T")
SILENCE, UNAVAILABLE = "WAREHOUSE_TIMEOUT", "WAREHOUSE_UNAVAILABLE"
AWAY = frozenset({SILENCE, UNAVAILABLE})
"""Faults that count. Whatever the warehouse says besides is an answer: a no, too much to do, not for this key."""


class BreakerSettings(BaseModel, extra="forbid"):
    """When the breaker opens, and how it heals."""

    silence_seconds: float = Field(
        1, gt=0, le=60, description="how long a call must have waited in vain to count; one with less time does not"
    )
    failures_max: int = Field(5, ge=1, le=1000, description="calls in a row without an answer that open it")
    probe_seconds: float = Field(0.5, gt=0, le=60, description="how often an open one asks for the warehouse's health")
    open_seconds_max: float = Field(30, gt=0, le=3600, description="then a call is tried, whatever the health says")


class GuardedGateway:
    """WarehouseGateway around another one: all of its calls count, but for those that say otherwise.

    Customers are not sent to find out whether the warehouse is back: `watch` asks for its health. A look (at prices,
    at what is free) that comes too late may be slow where the calls that matter are not: it only counts if the
    warehouse does not answer for its health either.

    Args:
        deadline_seconds: for a direct call or a look of the audit that names none; None: as the gateway within has it.
    """

    def __init__(
        self, gateway: WarehouseGateway, settings: BreakerSettings, deadline_seconds: float | None = None
    ) -> None:
        self._gateway = gateway
        self._deadline_seconds = deadline_seconds
        self._settings = settings
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=settings.failures_max,
            reset_timeout=settings.open_seconds_max,
            exclude=[_is_an_answer],
            listeners=[_Log()],
            name="warehouse",
            throw_new_error_on_trip=False,
        )
        self._doubting: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        return str(self._breaker.current_state)

    @property
    def is_open(self) -> bool:
        """Whether calls fail without being tried."""
        return bool(self._breaker.current_state == pybreaker.STATE_OPEN)

    async def watch(self) -> None:
        """Let calls through again once the warehouse says that it serves; runs until cancelled."""
        while True:
            await asyncio.sleep(self._settings.probe_seconds)
            if self.is_open and await self._gateway.is_serving() and self.is_open:
                self._breaker.half_open()

    async def reserve(
        self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call
    ) -> Hold | Refusal:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.reserve(order_id, lines, ttl_seconds, call))

    async def state_of(self, reservation_id: str, call: Call) -> HoldState | None:
        """As the gateway within. Raises: GatewayFault."""
        return await self._look(lambda: self._gateway.state_of(reservation_id, call))

    async def commit(self, reservation_id: str, call: Call) -> Done | Refusal:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.commit(reservation_id, call))

    async def cancel(self, reserve_request_id: str, reason: str, call: Call) -> Done | Refusal:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.cancel(reserve_request_id, reason, call))

    async def give_back(self, line: StockLine, reference: str, call: Call) -> Done:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.give_back(line, reference, call))

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        """As the gateway within. Raises: GatewayFault."""
        return await self._look(lambda: self._gateway.products(product_ids, call))

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        """As the gateway within. Raises: GatewayFault."""
        return await self._look(lambda: self._gateway.available(product_id, call))

    async def level(self, key: LevelKey, call: Call) -> Level | Refusal:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.level(key, self._limited(call)))

    async def levels(self, keys: Sequence[LevelKey], call: Call) -> tuple[list[Level], list[LevelKey]]:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.levels(keys, self._limited(call)))

    async def check(self, lines: Sequence[StockLine], call: Call) -> list[Availability]:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.check(lines, self._limited(call)))

    async def count(
        self, key: LevelKey, quantity: int, reserved: int | None, notes: str, call: Call
    ) -> Level | Refusal:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.count(key, quantity, reserved, notes, self._limited(call)))

    async def reserve_until(
        self, order_id: str, lines: Sequence[StockLine], until: datetime, call: Call
    ) -> Hold | Refusal:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.reserve_until(order_id, lines, until, self._limited(call)))

    async def hold(self, reservation_id: str, call: Call) -> Hold | Refusal:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.hold(reservation_id, self._limited(call)))

    async def sell(self, reservation_id: str, call: Call) -> Hold | Refusal:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.sell(reservation_id, self._limited(call)))

    async def release(self, reservation_id: str, reason: str, call: Call) -> Hold | Refusal:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.release(reservation_id, reason, self._limited(call)))

    async def sweep(self, call: Call) -> int:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.sweep(self._limited(call)))

    async def product(self, product_id: int, call: Call) -> CatalogueProduct | Refusal:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.product(product_id, self._limited(call)))

    async def product_page(self, skip: int, size: int, token: str, call: Call) -> ProductPage:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.product_page(skip, size, token, self._limited(call)))

    async def outcomes(self, request_ids: Sequence[str], call: Call) -> list[Outcome]:
        """As the gateway within. Raises: GatewayFault."""
        return await self._counted(lambda: self._gateway.outcomes(request_ids, self._limited(call)))

    def holds_made_since(self, since: datetime | None) -> AsyncIterator[list[Hold]]:
        """As the gateway within; tried whatever the breaker's state, and not counted. Raises: GatewayFault."""
        return self._gateway.holds_made_since(since)

    def catalogue(self, changed_since: datetime | None = None) -> AsyncIterator[CataloguePage]:
        """As the gateway within; tried whatever the breaker's state, and not counted. Raises: GatewayFault."""
        return self._gateway.catalogue(changed_since)

    async def caller(self, call: Call) -> Caller | Refusal:
        """As the gateway within; asked whatever the breaker's state, and not counted. Raises: GatewayFault."""
        return await self._gateway.caller(call)

    async def is_serving(self) -> bool:
        """Whether the warehouse answers that it serves; asked whatever the breaker's state."""
        return await self._gateway.is_serving()

    @property
    def connections_replaced(self) -> int:
        """As the gateway within."""
        return self._gateway.connections_replaced

    def _limited(self, call: Call) -> Call:
        return call if call.deadline_seconds is not None else replace(call, deadline_seconds=self._deadline_seconds)

    async def _counted(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call whose end counts, and which fails at once while the breaker is open. Raises: GatewayFault."""
        started = time.monotonic()
        if self._breaker.current_state == pybreaker.STATE_CLOSED:
            # What a closed breaker lets through anyway is only told to it where that changes something.
            try:
                answer = await call()
            except GatewayFault as fault:
                if fault.code in AWAY and (fault.code != SILENCE or self._is_long(started)):
                    self._count(fault)
                raise
            if self._breaker.fail_counter:
                self._count(None)
            return answer
        try:
            with self._breaker.calling():
                return await call()
        except pybreaker.CircuitBreakerError as error:
            raise away() from error

    async def _look(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call that orders can do without, or whose lateness says little. Raises: GatewayFault."""
        if self.is_open:
            raise away()
        started = time.monotonic()
        try:
            return await call()
        except GatewayFault as fault:
            if fault.code == UNAVAILABLE:
                self._count(fault)
            elif fault.code == SILENCE and self._is_long(started) and self._doubting is None:
                self._doubting = asyncio.get_running_loop().create_task(self._doubt(fault))
            raise

    async def _doubt(self, fault: GatewayFault) -> None:
        """Count the silence of a look, if there is silence wherever one asks."""
        try:
            if not await self._gateway.is_serving():
                self._count(fault)
        finally:
            self._doubting = None

    def _is_long(self, started: float) -> bool:
        return time.monotonic() - started >= self._settings.silence_seconds

    def _count(self, fault: GatewayFault | None) -> None:
        """Tell the breaker how a call ended."""
        with suppress(GatewayFault, pybreaker.CircuitBreakerError), self._breaker.calling():
            if fault is not None:
                raise fault


def away() -> GatewayFault:
    """What a call meets while the breaker is open."""
    return GatewayFault("WAREHOUSE_UNAVAILABLE", "the warehouse is away; try again shortly")


def _is_an_answer(error: BaseException) -> bool:
    return not (isinstance(error, GatewayFault) and error.code in AWAY)


class _Log(pybreaker.CircuitBreakerListener):
    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        log.warning("circuit_breaker", before=old_state.name if old_state else "", after=new_state.name)
