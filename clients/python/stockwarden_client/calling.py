"""How a call is made: over which connection, with what metadata, and again while its deadline allows it."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Self, TypeVar

from google.protobuf.message import Message

from stockwarden_client.connection import ClientSettings
from stockwarden_client.connections import Connection, Connections, is_silence
from stockwarden_client.errors import RETRIED, from_rpc_error
from stockwarden_client.options import CallContext, CallOptions, Metadata, metadata_of
from stockwarden_client.patience import Patience
from stockwarden_client.running import RpcFailure, sleep

ResponseT = TypeVar("ResponseT")
Observe = Callable[[str, Metadata], AbstractContextManager[object]]
Method = Callable[[Connection], Callable[..., Awaitable[ResponseT]]]
"""Finds what is called on a connection: every attempt may take another one."""


class Calling:
    """What the calls of both services have in common: the connections, and the way to insist on an answer.

    Args and use: see `WarehouseClient`.
    """

    def __init__(self, settings: ClientSettings | None = None, observe: Observe | None = None) -> None:
        self.settings = settings or ClientSettings()
        self._observe = observe
        self._connections = Connections(self.settings, lambda: metadata_of(self.settings, {}))
        self._was_answered = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls in flight end as cancelled."""
        await self._connections.close()

    async def is_serving(
        self, service: str = "warehouse.v1.WarehouseService", *, timeout_seconds: float | None = None
    ) -> bool:
        """Whether the server is there and says that it serves, over any connection; never raises WarehouseError.

        Args:
            timeout_seconds: None: the setting for signs of life.
        """
        timeout_seconds = timeout_seconds or self.settings.probe_timeout_seconds
        return await self._connections.is_serving(service, timeout_seconds)

    @property
    def connections_replaced(self) -> int:
        """How many connections were replaced because they had gone silent."""
        return self._connections.replaced

    async def _call(self, method: Method[ResponseT], request: Message, call: CallContext) -> ResponseT:
        metadata = metadata_of(self.settings, call)
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
        self, method: Method[ResponseT], request: Message, metadata: Metadata, deadline: float
    ) -> ResponseT:
        patience: Patience | None = None
        while True:
            try:
                return await self._attempt(method, request, metadata, deadline)
            except RETRIED as failure:
                patience = patience or Patience(self.settings, deadline)
                pause = patience.pause_seconds(failure, was_answered=self._was_answered)
                if pause is None:
                    raise
            await sleep(pause)

    async def _attempt(
        self, method: Method[ResponseT], request: Message, metadata: Metadata, deadline: float
    ) -> ResponseT:
        timeout = min(self.settings.attempt_timeout_seconds, deadline - time.monotonic())
        connection = self._connections.next()
        try:
            answer = await method(connection)(request, timeout=max(timeout, 0), metadata=metadata)
        except RpcFailure as error:
            if is_silence(error):
                self._connections.note_silence(connection)
            self._was_answered = self._was_answered or bool(error.trailing_metadata())
            raise from_rpc_error(error) from error
        self._was_answered = True
        return answer
