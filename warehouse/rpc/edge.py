"""Where calls come in: who calls, how much time there is, and how a no is told.

Plain wrapping instead of a gRPC interceptor: grpc.aio's interceptors cost as much per call as all the rest here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial, wraps
from time import monotonic, perf_counter
from typing import Any, Protocol, TypeVar

import grpc
import msgspec
import structlog

from service_kit.actors import actor_of
from service_kit.fair_semaphore import slot_owner
from service_kit.logging import call_details
from service_kit.shares import Budget, NoSlot
from service_kit.tracing import Tracing, current_traceparent, trace_id, valid_traceparent
from warehouse.auth import API_KEY_HEADER, Role, Unauthenticated
from warehouse.metrics import CallMetrics
from warehouse.rpc.ending import Context, end_call
from warehouse.rpc.entrance import Entrance
from warehouse.rpc.incoming import Unread
from warehouse.rpc.status import Metadata, TooManyCalls, trailing_error, trailing_refusal
from warehouse.stock.commands import Answer
from warehouse.stock.refusals import Refusal
from warehouse.validation import OPAQUE_ID_LENGTH_MAX, Checks

log = structlog.get_logger(__name__)
CORRELATION_HEADER = "x-correlation-id"
TRACEPARENT_HEADER = "traceparent"
ACTOR_HEADER = "x-actor"
DETAIL_LENGTH_MAX = 128
"""Characters of what a caller sent that a log line repeats."""
RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")
ResponseT = TypeVar("ResponseT")
Ending = tuple[grpc.StatusCode, str, Metadata]
_INTERNAL = grpc.StatusCode.INTERNAL
_FAULTS = frozenset({grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class Caller(msgspec.Struct, frozen=True):
    """Who calls, in which conversation, and until when the answer is of use (the event loop's time)."""

    actor: str
    correlation_id: str
    deadline: float
    traceparent: str = ""
    key_name: str = ""
    role: Role = Role.READER

    def acting_for(self, behalf: str) -> str:
        """The actor of one request of this caller, on somebody's behalf; this caller's own unless that is given."""
        return actor_of(self.key_name, behalf) if behalf else self.actor


class HasIds(Protocol):
    """One request of a batch."""

    request_id: str
    correlation_id: str
    traceparent: str


class Edge:
    """What the wrapped methods of a servicer need to know of the configuration.

    Attributes:
        in_flight: calls under way now; more than `calls_max` are turned away.
        shares: of these, by key; None where there are not several keys.
    """

    def __init__(
        self,
        entrance: Entrance,
        call_seconds_max: float,
        calls: CallMetrics | None = None,
        tracing: Tracing | None = None,
        *,
        calls_max: int,
        key_share_max: float = 1,
        refusal_lines_per_second_max: int = 100,
        logs_answers: bool = False,
    ) -> None:
        self._entrance = entrance
        self._call_seconds_max = call_seconds_max
        self.calls = calls or CallMetrics()
        self.calls_max = calls_max
        # Where there is one caller only, nobody else needs what it leaves.
        self.shares = Budget(calls_max, (key_share_max,)) if entrance.is_shared else None
        self.in_flight = 0
        self.tracing = tracing if tracing is not None and tracing.exports else None
        self.logs_answers = logs_answers
        self._lines = CallLines(refusal_lines_per_second_max)

    def admit(self, context: Context, role: Role) -> Caller:
        """Find out who calls. Raises: Unauthenticated, PermissionDenied, TooOften, InvalidRequest."""
        key, correlation_id, behalf, traceparent = None, "", "", ""
        for name, value in context.invocation_metadata() or ():
            if name == API_KEY_HEADER:
                if key is not None:
                    raise Unauthenticated(f"send the metadata {API_KEY_HEADER} once")
                key = str(value)
            elif name == CORRELATION_HEADER:
                correlation_id = str(value)
            elif name == ACTOR_HEADER:
                behalf = str(value)
            elif name == TRACEPARENT_HEADER:
                # Where spans are made here, what follows from the call belongs under the call's own.
                traceparent = current_traceparent() or valid_traceparent(str(value))
        key_name, allowed = self._entrance.admit(context, key, role)
        if correlation_id:
            checks = Checks()
            checks.text(CORRELATION_HEADER, correlation_id, OPAQUE_ID_LENGTH_MAX)
            checks.done()
        actor = actor_of(key_name, behalf)
        remaining = context.time_remaining()
        seconds = self._call_seconds_max if remaining is None else min(remaining, self._call_seconds_max)
        deadline = asyncio.get_running_loop().time() + seconds
        return Caller(actor, correlation_id.strip(), deadline, traceparent, key_name, allowed)

    async def shared(self, caller: Caller, work: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Do what a caller asks for, if that is not more than its share. Raises: TooManyCalls."""
        assert self.shares is not None
        try:
            self.shares.take(caller.key_name)
        except NoSlot as full:
            self.calls.limited.add("calls_of_key")
            raise TooManyCalls from full
        try:
            return await work()
        finally:
            self.shares.give_back(caller.key_name)

    def opened(self, request: Any, context: Context) -> Any:
        """The message of a call, if there is room for it; a long one is parsed for known callers only.

        Raises: TooManyCalls, TooOften, Unauthenticated, InvalidRequest.
        """
        if self.in_flight > self.calls_max:
            self.calls.limited.add("calls")
            raise TooManyCalls
        if isinstance(request, Unread):
            self.admit(context, Role.READER)
            return request.read()
        return request

    def answered(self, method: str, seconds: float) -> None:
        """A call that got its answer: counted."""
        self.calls.answered[method].observe(seconds)
        if self.logs_answers:
            log.debug("call_answered", ms=round(seconds * 1000, 3))

    def refused(self, method: str, refusal: Refusal) -> Ending:
        """A business refusal: how the call ends; counted and logged."""
        ending = trailing_refusal(refusal)
        self.calls.ended.add(method, ending[0].name)
        self.calls.refusals.add(refusal.reason)
        if self._lines.has_room():
            log.info("call_refused", code=ending[0].name, reason=refusal.reason, message=refusal.message)
        return ending

    def note_refusals(self, requests: Sequence[HasIds], outcomes: Sequence[Answer | Refusal | Exception]) -> None:
        """Count and log what was refused inside a batch."""
        for position, refusal in enumerate(outcomes):
            if not isinstance(refusal, Refusal):
                continue
            self.calls.refusals.add(refusal.reason)
            if self._lines.has_room():
                request = requests[position]
                ids = {
                    "request_id": request.request_id,
                    "correlation_id": request.correlation_id,
                    "trace_id": trace_id(valid_traceparent(request.traceparent)),
                }
                known = {name: value for name, value in ids.items() if value}
                log.info("reserve_refused", **known, reason=refusal.reason, message=refusal.message)

    def failed(self, method: str, error: Exception) -> Ending:
        """A fault, or a caller's mistake: how the call ends; counted and logged."""
        ending = trailing_error(error)
        code = ending[0].name
        self.calls.ended.add(method, code)
        if ending[0] is _INTERNAL:
            log.error("call_failed", code=code, exc_info=error)
        elif not self._lines.has_room():
            pass
        elif ending[0] in _FAULTS:
            log.error("call_failed", code=code, error=repr(error), cause=repr(error.__cause__))
        else:
            log.info("call_refused", code=code, message=ending[1])
        return ending

    def stream_ended(self, method: str, code: str, **facts: object) -> None:
        """A stream is over, and neither a refusal nor a fault has ended it: counted and logged."""
        self.calls.ended.add(method, code)
        if self._lines.has_room():
            log.info("stream_ended", code=code, **facts)


class CallLines:
    """A log line per refused call, but no flood of them: a sold-out product is refused thousands of times a second.

    Args:
        per_second_max: lines written; the first one after more than these tells how many were left out.
    """

    def __init__(self, per_second_max: int) -> None:
        self._per_second_max = per_second_max
        self._second = 0.0
        self._written = 0
        self._left_out = 0

    def has_room(self) -> bool:
        """Whether one more line may be written; it is counted either way."""
        now = monotonic()
        if now - self._second >= 1:
            self._second, self._written = now, 0
        if self._written >= self._per_second_max:
            self._left_out += 1
            return False
        self._written += 1
        if self._left_out:
            log.info("lines_left_out", count=self._left_out, why="too many calls were refused")
            self._left_out = 0
        return True


class HasEdge(Protocol):
    """A servicer whose methods can be wrapped by `rpc`."""

    edge: Edge


ServicerT = TypeVar("ServicerT", bound=HasEdge)
Method = Callable[[ServicerT, RequestT, Caller], Awaitable[ResponseT | Refusal]]
Handler = Callable[[ServicerT, RequestT | Unread, Context], Awaitable[ResponseT]]


def rpc(
    role: Role | Callable[[Any], Role],
) -> Callable[[Method[ServicerT, RequestT, ResponseT]], Handler[ServicerT, RequestT, ResponseT]]:
    """Make a method that takes a Caller and returns a response or a Refusal into a gRPC handler.

    Exceptions become the status that the table of faults gives them; what is not in the table is logged and
    becomes INTERNAL.

    Args:
        role: what the caller's key must allow; a function, where that depends on what is asked for.
    """

    def wrap(method: Method[ServicerT, RequestT, ResponseT]) -> Handler[ServicerT, RequestT, ResponseT]:
        name = method.__name__

        async def outcome(self: ServicerT, request: RequestT | Unread, context: Context) -> ResponseT | Ending:
            edge = self.edge
            # The task ends with the call, and the variable with the task.
            call_details.set(partial(describe, name, request, context))
            started = perf_counter()
            edge.in_flight += 1
            try:
                message: RequestT = edge.opened(request, context)
                caller = edge.admit(context, role if isinstance(role, Role) else role(message))
                slot_owner.set(caller.actor)
                if edge.shares is None:
                    answer = await method(self, message, caller)
                else:
                    answer = await edge.shared(caller, partial(method, self, message, caller))
            except Exception as error:
                return edge.failed(name, error)
            except asyncio.CancelledError:
                edge.calls.ended.add(name, "CANCELLED")
                raise
            finally:
                edge.in_flight -= 1
            if isinstance(answer, Refusal):
                return edge.refused(name, answer)
            edge.answered(name, perf_counter() - started)
            return answer

        @wraps(method)
        async def handle(self: ServicerT, request: RequestT | Unread, context: Context) -> ResponseT:
            tracing, answering = self.edge.tracing, outcome(self, request, context)
            answer = await (answering if tracing is None else traced(tracing, name, context, answering))
            if isinstance(answer, tuple):
                return await end_call(context, *answer)
            return answer

        return handle

    return wrap


async def traced(
    tracing: Tracing, name: str, context: Context, outcome: Awaitable[ResponseT | Ending]
) -> ResponseT | Ending:
    """What comes of a call, in a span of its own."""
    parent = _metadata(context).get(TRACEPARENT_HEADER, "")
    with tracing.span(f"warehouse.v1/{name}", "server", parent, {"rpc.system": "grpc", "rpc.method": name}) as span:
        answer = await outcome
        if isinstance(answer, tuple):
            span.set_attribute("rpc.grpc.status_code", answer[0].value[0])
            if answer[0] in _FAULTS or answer[0] is _INTERNAL:
                span.set_failed(answer[1])
        return answer


def _metadata(context: Context) -> dict[str, str]:
    return {name: str(value) for name, value in context.invocation_metadata() or ()}


def describe(method: str, request: object, context: Context) -> dict[str, str]:
    """What log lines say about the call that they belong to."""
    metadata = _metadata(context)
    known = {
        "method": method,
        "request_id": str(getattr(request, "request_id", "")),
        "correlation_id": metadata.get(CORRELATION_HEADER) or str(getattr(request, "correlation_id", "")),
        "trace_id": trace_id(valid_traceparent(metadata.get(TRACEPARENT_HEADER))),
        "peer": context.peer(),
    }
    return {name: value[:DETAIL_LENGTH_MAX] for name, value in known.items() if value}
