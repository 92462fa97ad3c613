"""Where calls come in: who calls, how much time there is, and how a no is told.

Plain wrapping instead of a gRPC interceptor: grpc.aio's interceptors cost as much per call as all the rest here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

import grpc
import msgspec
import structlog

from warehouse.auth import API_KEY_HEADER, Keyring, Role
from warehouse.refusals import Refusal
from warehouse.status import status_of_error, trailing, trailing_refusal
from warehouse.validation import OPAQUE_ID_LENGTH_MAX, Checks

log = structlog.get_logger(__name__)
CORRELATION_HEADER = "x-correlation-id"
ACTOR_HEADER = "x-actor"
ACTOR_LENGTH_MAX = 64
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
Context = grpc.aio.ServicerContext[Any, Any]
_INTERNAL = grpc.StatusCode.INTERNAL


class Caller(msgspec.Struct, frozen=True):
    """Who calls, in which conversation, and until when the answer is of use (the event loop's time)."""

    actor: str
    correlation_id: str
    deadline: float


class Edge:
    """What the wrapped methods of a servicer need to know of the configuration."""

    def __init__(self, keyring: Keyring, call_seconds_max: float) -> None:
        self._keyring = keyring
        self._call_seconds_max = call_seconds_max

    def admit(self, context: Context, role: Role) -> Caller:
        """Find out who calls. Raises: Unauthenticated, PermissionDenied, InvalidRequest."""
        key, correlation_id, behalf = None, "", ""
        for name, value in context.invocation_metadata() or ():
            if name == API_KEY_HEADER:
                key = str(value)
            elif name == CORRELATION_HEADER:
                correlation_id = str(value)
            elif name == ACTOR_HEADER:
                behalf = str(value)
        actor = self._keyring.identify(key, role)
        if correlation_id:
            checks = Checks()
            checks.text(CORRELATION_HEADER, correlation_id, OPAQUE_ID_LENGTH_MAX)
            checks.done()
        if behalf:
            # Behind the name of the key, so that nobody can pass as somebody else.
            actor = f"{actor}/{behalf}"[:ACTOR_LENGTH_MAX]
        remaining = context.time_remaining()
        seconds = self._call_seconds_max if remaining is None else min(remaining, self._call_seconds_max)
        return Caller(actor, correlation_id.strip(), asyncio.get_running_loop().time() + seconds)


class HasEdge(Protocol):
    """A servicer whose methods can be wrapped by `rpc`."""

    edge: Edge


ServicerT = TypeVar("ServicerT", bound=HasEdge)
Method = Callable[[ServicerT, RequestT, Caller], Awaitable[ResponseT | Refusal]]
Handler = Callable[[ServicerT, RequestT, Context], Awaitable[ResponseT]]


def rpc(role: Role) -> Callable[[Method[ServicerT, RequestT, ResponseT]], Handler[ServicerT, RequestT, ResponseT]]:
    """Make a method that takes a Caller and returns a response or a Refusal into a gRPC handler.

    Exceptions become the status that the table of faults gives them; what is not in the table is logged and
    becomes INTERNAL.
    """

    def wrap(method: Method[ServicerT, RequestT, ResponseT]) -> Handler[ServicerT, RequestT, ResponseT]:
        @wraps(method)
        async def handle(self: ServicerT, request: RequestT, context: Context) -> ResponseT:
            try:
                answer = await method(self, request, self.edge.admit(context, role))
            except Exception as error:
                ending = trailing(status_of_error(error))
                if ending[0] is _INTERNAL:
                    log.exception("call_failed", method=method.__name__)
            else:
                if not isinstance(answer, Refusal):
                    return answer
                ending = trailing_refusal(answer)
            return await context.abort(*ending)

        return handle

    return wrap
