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
from grpc_health.v1 import health_pb2

from stockwarden_client.connection import ClientSettings
from stockwarden_client.connections import Connection, Connections, is_silence
from stockwarden_client.errors import RETRIED, WarehouseError, WarehouseUnavailable, from_rpc_error

ResponseT = TypeVar("ResponseT")
Observe = Callable[[str, list[tuple[str, str]]], AbstractContextManager[object]]
Method = Callable[[Connection], Callable[..., Awaitable[ResponseT]]]
"""Finds what is called on a connection: every attempt may take another one."""


class CallContext(TypedDict, total=False):
    """What every call takes besides its own arguments."""

    deadline_seconds: float
    """For the call with all its repetitions, instead of the setting."""
    correlation_id: str
    """Travels into the warehouse's rows, events and logs."""
    traceparent: str
    """W3C trace context, passed on as it is."""
    actor: str
    """On whose behalf, in ASCII; the ledger names them after the key."""


class CallOptions(CallContext, total=False):
    """What a call takes that looks, or has the same effect however often it is made."""

    request_id: str
    """The idempotency key; a random one unless given."""


class EffectOptions(CallContext):
    """What a call takes that would have its effect twice if it were made twice."""

    request_id: str
    """The idempotency key, to be kept with what the call is for: the same key again, by whatever process, has no second
    effect and gets the same answer. A random one must be chosen on purpose, by `new_request_id`."""


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
        self._connections = Connections(self.settings, lambda: self._metadata({}))
        self._was_answered = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up; calls in flight end as cancelled."""
        await self._connections.close()

    async def is_serving(
        self, service: str = "warehouse.v1.WarehouseService", *, timeout_seconds: float | None = None
    ) -> bool:
        """Whether the server is there and says that it serves, over any connection; never raises WarehouseError.

        Args:
            timeout_seconds: None: the setting for signs of life.
        """
        timeout_seconds = timeout_seconds or self.settings.probe_timeout_seconds
        answer = await self._connections.health(service, timeout_seconds)
        return answer is not None and bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    @property
    def connections_replaced(self) -> int:
        """How many connections were replaced because they had gone silent."""
        return self._connections.replaced

    async def _call(self, method: Method[ResponseT], request: Message, call: CallContext) -> ResponseT:
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
        method: Method[ResponseT],
        request: Message,
        metadata: list[tuple[str, str]],
        deadline: float,
    ) -> ResponseT:
        async def attempt() -> ResponseT:
            timeout = min(self.settings.attempt_timeout_seconds, deadline - time.monotonic())
            connection = self._connections.next()
            try:
                answer = await method(connection)(request, timeout=max(timeout, 0), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if is_silence(error):
                    self._connections.note_silence(connection)
                self._was_answered = self._was_answered or bool(error.trailing_metadata())
                raise from_rpc_error(error) from error
            self._was_answered = True
            return answer

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

        lost_hope = time.monotonic() + self.settings.absent_seconds

        def out_of_time(state: tenacity.RetryCallState) -> bool:
            failure = state.outcome.exception() if state.outcome else None
            is_absent = not self._was_answered and isinstance(failure, WarehouseUnavailable) and failure.is_absent
            return time.monotonic() + state.upcoming_sleep >= (min(deadline, lost_hope) if is_absent else deadline)

        pause = self.settings.retry_wait_initial_seconds * random.random() + _asked_wait_seconds(failure)  # noqa: S311
        if time.monotonic() + pause >= deadline:
            raise failure
        await asyncio.sleep(pause)
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(RETRIED), wait=wait, stop=out_of_time, reraise=True
        )
        return await retrying(attempt)

    def _metadata(self, call: CallContext) -> list[tuple[str, str]]:
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


def kept_request_id(call: EffectOptions) -> str:
    """The caller's request id. Raises: TypeError, if there is none."""
    if request_id := call.get("request_id"):
        return request_id
    raise TypeError("this call needs a request_id, to be kept with what it is for: sent again it has no second effect")


def with_request_id(request: Any, call: CallOptions) -> Any:
    """`request` if it has a request id, otherwise a copy that has one."""
    if request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = request_id_of(call)
    return copy
