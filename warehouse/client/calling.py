"""How a call is made: over which connection, with what metadata, and again while its deadline allows it."""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Self, TypedDict, TypeVar

import grpc
import tenacity
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from generated.warehouse.v1 import stock_pb2_grpc, warehouse_pb2_grpc
from warehouse.client.connection import ClientSettings, open_channel
from warehouse.client.errors import RETRIED, WarehouseError, from_rpc_error

ResponseT = TypeVar("ResponseT")
Observe = Callable[[str, list[tuple[str, str]]], AbstractContextManager[object]]


class CallOptions(TypedDict, total=False):
    """What every call takes besides its own arguments."""

    request_id: str
    """The idempotency key of a mutating call; a random one unless given."""
    deadline_seconds: float
    """For the call with all its repetitions, instead of the setting."""
    correlation_id: str
    """Travels into the warehouse's rows, events and logs."""
    traceparent: str
    """W3C trace context, passed on as it is."""
    actor: str
    """On whose behalf, in ASCII; the ledger names them after the key."""


def new_request_id() -> str:
    """A fresh idempotency key. Keep it if the call must survive this process."""
    return str(uuid.uuid4())


class Calling:
    """What the calls of both services have in common: the connections, and the way to insist on an answer.

    Args and use: see `WarehouseClient`.
    """

    def __init__(self, settings: ClientSettings | None = None, observe: Observe | None = None) -> None:
        self.settings = settings or ClientSettings()
        self._observe = observe
        self._channels = [open_channel(self.settings) for _ in range(self.settings.connections)]
        self._stubs = [
            (warehouse_pb2_grpc.WarehouseServiceStub(channel), stock_pb2_grpc.StockServiceStub(channel))
            for channel in self._channels
        ]
        self._turn = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up; calls in flight end as cancelled."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def is_serving(self, service: str = "warehouse.v1.WarehouseService", *, timeout_seconds: float = 1) -> bool:
        """Whether the server is there and says that it serves; one try, never raises WarehouseError."""
        stub = health_pb2_grpc.HealthStub(self._channels[0])
        try:
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds, metadata=self._metadata({})
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    @property
    def _warehouse(self) -> "warehouse_pb2_grpc.WarehouseServiceAsyncStub":
        self._turn += 1
        return self._stubs[self._turn % len(self._stubs)][0]

    @property
    def _stock(self) -> "stock_pb2_grpc.StockServiceAsyncStub":
        self._turn += 1
        return self._stubs[self._turn % len(self._stubs)][1]

    async def _call(
        self, method: Callable[..., Awaitable[ResponseT]], request: Message, call: CallOptions
    ) -> ResponseT:
        metadata = self._metadata(call)
        deadline = time.monotonic() + call.get("deadline_seconds", self.settings.deadline_seconds)
        if self._observe is None:
            return await self._insist(method, request, metadata, deadline)
        with self._observe(type(request).__name__.removesuffix("Request"), metadata):
            return await self._insist(method, request, metadata, deadline)

    def _until(self, call: CallOptions) -> float:
        """When the time of a call is over, by time.monotonic()."""
        return time.monotonic() + call.get("deadline_seconds", self.settings.deadline_seconds)

    @staticmethod
    def _rest(call: CallOptions, until: float) -> CallOptions:
        """The options for one of the calls that together have time until then."""
        return {**call, "deadline_seconds": max(until - time.monotonic(), 0)}

    async def _insist(
        self,
        method: Callable[..., Awaitable[ResponseT]],
        request: Message,
        metadata: list[tuple[str, str]],
        deadline: float,
    ) -> ResponseT:
        async def attempt() -> ResponseT:
            timeout = min(self.settings.attempt_timeout_seconds, deadline - time.monotonic())
            try:
                return await method(request, timeout=max(timeout, 0), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error

        try:
            return await attempt()
        except RETRIED as error:
            return await self._retry(attempt, error, deadline)

    async def _retry(
        self, attempt: Callable[[], Awaitable[ResponseT]], failure: WarehouseError, deadline: float
    ) -> ResponseT:
        growing = tenacity.wait_random_exponential(
            multiplier=self.settings.retry_wait_initial_seconds, max=self.settings.retry_wait_max_seconds
        )

        def wait(state: tenacity.RetryCallState) -> float:
            failure = state.outcome.exception() if state.outcome else None
            return float(growing(state)) + _asked_wait_seconds(failure)

        def out_of_time(state: tenacity.RetryCallState) -> bool:
            return time.monotonic() + state.upcoming_sleep >= deadline

        pause = self.settings.retry_wait_initial_seconds * random.random() + _asked_wait_seconds(failure)  # noqa: S311
        if time.monotonic() + pause >= deadline:
            raise failure
        await asyncio.sleep(pause)
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(RETRIED), wait=wait, stop=out_of_time, reraise=True
        )
        return await retrying(attempt)

    def _metadata(self, call: CallOptions) -> list[tuple[str, str]]:
        known = (
            ("x-api-key", self.settings.api_key),
            ("x-correlation-id", call.get("correlation_id", "")),
            ("traceparent", call.get("traceparent", "")),
            ("x-actor", call.get("actor", "")),
        )
        return [(name, value) for name, value in known if value]


def _asked_wait_seconds(failure: BaseException | None) -> float:
    asked = getattr(failure, "retry_after_seconds", None) or 0.0
    return float(asked * random.uniform(1, 1.2))  # noqa: S311 - jitter, not a secret


def request_id_of(call: CallOptions) -> str:
    """The caller's request id, or a fresh one."""
    return call.get("request_id") or new_request_id()


def with_request_id(request: Any, call: CallOptions) -> Any:
    """`request` if it has a request id, otherwise a copy that has one."""
    if request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = request_id_of(call)
    return copy
