"""Calls of our own services that are answered by a stream: everything that `edge.rpc` gives a call of one answer.

Streams last long and cost little, so they have slots of their own, shared by key. What ends one from outside says why
to its `over`: its caller's deadline, its own longest time, a key or a role that is gone, a stop of the server. That a
caller hangs up is found out by gRPC, which cancels the call.

A slow listener is waited for, and nothing is kept for it but the one message that is being sent. One that takes nothing
at all can't be told why its stream has ended (HTTP/2 sends the end after what came before it): it gets nothing more,
and keeps its slot until it reads on or hangs up.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Mapping
from contextlib import ExitStack, aclosing
from functools import partial, wraps
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from service_kit.fair_semaphore import slot_owner
from service_kit.logging import call_details
from service_kit.shares import ALL, Budget, NoSlot
from warehouse.auth import PermissionDenied, Role, Unauthenticated
from warehouse.metrics import StreamMetrics
from warehouse.rpc.edge import Caller, Edge, Ending, describe, traced
from warehouse.rpc.ending import Context, end_call, first_of
from warehouse.rpc.entrance import Entrance, key_in
from warehouse.rpc.incoming import Unread
from warehouse.rpc.status import ServerStopping, StreamOver, TooManyCalls, trailing_error
from warehouse.rpc.steady_server import NotSent
from warehouse.settings import StreamSettings
from warehouse.stock.refusals import Refusal
from warehouse.validation import InvalidRequest

log = structlog.get_logger(__name__)
ServicerT = TypeVar("ServicerT", bound="HasStreams")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
Answers = AsyncGenerator[ResponseT | Refusal, None]
Method = Callable[[ServicerT, RequestT, Caller], Answers[ResponseT]]
Handler = Callable[[ServicerT, AsyncIterable[RequestT | Unread], Context], Coroutine[Any, Any, None]]


class HasStreams(Protocol):
    """A servicer whose methods can be wrapped by `stream`."""

    streams: "Streams"


def stream(
    role: Role,
) -> Callable[[Method[ServicerT, RequestT, ResponseT]], Handler[ServicerT, RequestT]]:
    """Make a method that takes a Caller and yields responses into a gRPC handler, for a registry of `begun_at_once`.

    A Refusal, as the last thing that it yields, ends the call as it does a call of one answer; so does an exception.
    When its stream ends, the method is cancelled where it waits, and must not take long to clean up. `Caller.deadline`
    is when that will be at the latest.

    Args:
        role: what the caller's key must allow, as long as the stream lasts.
    """

    def wrap(method: Method[ServicerT, RequestT, ResponseT]) -> Handler[ServicerT, RequestT]:
        @wraps(method)
        async def handle(self: ServicerT, questions: AsyncIterable[RequestT | Unread], context: Context) -> None:
            call = StreamCall(method.__name__, role, questions, context)
            await self.streams.serve(call, partial(method, self))

        return handle

    return wrap


def begun_at_once(handlers: Mapping[str, Any]) -> dict[str, Any]:
    """The handlers of a service; those made by `stream` are called before their request has come.

    gRPC would wait for that where nobody counts, and without an end.
    """
    return {
        name: handler._replace(request_streaming=True, stream_stream=handler.unary_stream, unary_stream=None)
        if handler.response_streaming and not handler.request_streaming
        else handler
        for name, handler in handlers.items()
    }


def how_long(remaining_seconds: float | None, seconds_max: float) -> tuple[float, Exception]:
    """After how many seconds a stream ends by itself, and why. PURE.

    Args:
        remaining_seconds: until the caller's deadline; None if it has set none.
    """
    if remaining_seconds is not None and remaining_seconds <= seconds_max:
        return remaining_seconds, TimeoutError()
    return seconds_max, StreamOver()


def code_of_cancelled(remaining_seconds: float | None) -> str:
    """What it is called that gRPC has cancelled a call: a hang-up, unless the caller's deadline has passed. PURE."""
    return "CANCELLED" if remaining_seconds is None or remaining_seconds > 0 else "DEADLINE_EXCEEDED"


class StreamCall:
    """One call.

    Attributes:
        key: what the caller has shown.
        over: why it is to end, once it is.
        sent: messages.
    """

    def __init__(self, method: str, role: Role, questions: AsyncIterable[Any], context: Context) -> None:
        self.method = method
        self.role = role
        self.questions = questions
        self.context = context
        self.key: str | None = None
        self.sent = 0
        self.over: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._begun_at = self._loop_time()
        self._request: object = None

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return self._loop_time() - self._begun_at

    def end(self, why: Exception) -> None:
        """It is to end; the first reason counts."""
        if not self.over.done():
            self.over.set_result(why)

    def describe(self) -> dict[str, str]:
        """What log lines say about it."""
        return describe(self.method, self._request, self.context)

    async def question(self, seconds_max: float) -> Any:
        """Its request. Raises: TimeoutError, InvalidRequest."""
        async with asyncio.timeout(seconds_max):
            self._request = request = await first_of(self.questions)
        if request is None:
            raise InvalidRequest([("request", "did not come")])
        return request.read() if isinstance(request, Unread) else request

    @staticmethod
    def _loop_time() -> float:
        return asyncio.get_running_loop().time()


class Streams:
    """All streams of a process.

    Args:
        edge: of the calls of one answer; knows who calls, and how a no is told.
        entrance: which keys there are.
        settings: how many, and how long.
        metrics: counts them.
    """

    def __init__(
        self, edge: Edge, entrance: Entrance, settings: StreamSettings, metrics: StreamMetrics | None = None
    ) -> None:
        self.edge = edge
        self._entrance = entrance
        self._settings = settings
        self._metrics = metrics or StreamMetrics()
        # Where there is one caller only, nobody else needs what it leaves.
        self._slots = Budget(settings.streams_max, (settings.key_share_max if entrance.is_shared else 1,))
        self._open: set[StreamCall] = set()
        self._is_stopping = False

    @property
    def taken(self) -> int:
        """How many there are now."""
        return self._slots.taken

    @property
    def under_way(self) -> dict[tuple[str, ...], float]:
        """How many there are now, of which method."""
        return {(method,): count for method, count in Counter(call.method for call in self._open).items()}

    def stop(self) -> None:
        """End them all; further ones end at once."""
        self._is_stopping = True
        for call in self._open:
            call.end(ServerStopping())

    async def watch(self) -> None:
        """End, again and again, the streams of keys that are gone or allow less than they did; never returns."""
        while True:
            await asyncio.sleep(self._settings.key_check_seconds)
            self.look()

    def look(self) -> None:
        """Do that once."""
        verdicts = {shown: self._verdict(*shown) for shown in {(call.key, call.role) for call in self._open}}
        for call in self._open:
            why = verdicts[call.key, call.role]
            if why is not None:
                call.end(why)

    def _verdict(self, key: str | None, role: Role) -> Exception | None:
        try:
            self._entrance.recheck(key, role)
        except (Unauthenticated, PermissionDenied) as why:
            return why
        return None

    async def serve(self, call: StreamCall, make: Callable[[Any, Caller], Answers[Any]]) -> None:
        """Answer a call from its begin to its end.

        Args:
            make: gives the answers.
        """
        tracing = self.edge.tracing
        with ExitStack() as places:
            outcome = self._outcome(call, make, places)
            ending = await (outcome if tracing is None else traced(tracing, call.method, call.context, outcome))
            if ending is not None:
                # The slot is kept meanwhile: a listener that takes nothing is waited for here.
                await end_call(call.context, *ending)

    async def _outcome(
        self, call: StreamCall, make: Callable[[Any, Caller], Answers[Any]], places: ExitStack
    ) -> Ending | None:
        """How it ends; None: well."""
        call_details.set(call.describe)
        try:
            caller = self._enter(call, places)
            # Here, where nothing but gRPC itself interrupts it: half sent it could not be followed by an end.
            await call.context.send_initial_metadata(())
            why = await self._until_over(call, self._answer(call, make, caller))
        except NotSent:
            self._note_end(call, code_of_cancelled(call.context.time_remaining()))
            raise
        except Exception as error:
            return self.edge.failed(call.method, error)
        except asyncio.CancelledError:
            self._note_end(call, code_of_cancelled(call.context.time_remaining()))
            raise
        return self._told(call, why)

    def _told(self, call: StreamCall, why: Refusal | Exception | None) -> Ending | None:
        """How a call ends for a reason; counted and logged."""
        if isinstance(why, Refusal):
            return self.edge.refused(call.method, why)
        if why is None:
            self._note_end(call, "OK")
            return None
        if isinstance(why, StreamOver):
            self.edge.calls.limited.add("stream_seconds")
        ending = trailing_error(why)
        self._note_end(call, ending[0].name, ending[1])
        return ending

    def _enter(self, call: StreamCall, places: ExitStack) -> Caller:
        """Let a call in, and give it a slot until `places` is closed.

        Raises: TooManyCalls, Unauthenticated, PermissionDenied, TooOften, InvalidRequest.
        """
        caller = self.edge.admit(call.context, call.role)
        call.key = key_in(call.context.invocation_metadata() or ())
        self._take(caller.key_name)
        loop = asyncio.get_running_loop()
        seconds, why = how_long(call.context.time_remaining(), self._settings.seconds_max)
        timer = loop.call_later(seconds, call.end, why)
        self._open.add(call)
        places.callback(self._leave, call, caller.key_name, timer)
        if self._is_stopping:
            call.end(ServerStopping())
        slot_owner.set(caller.actor)
        return msgspec.structs.replace(caller, deadline=loop.time() + seconds)

    def _take(self, key_name: str) -> None:
        try:
            self._slots.take(key_name)
        except NoSlot as full:
            self.edge.calls.limited.add("streams" if full.share == ALL else "streams_of_key")
            raise TooManyCalls from full

    def _leave(self, call: StreamCall, key_name: str, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._open.discard(call)
        self._slots.give_back(key_name)
        self._metrics.seconds.observe(call.seconds, call.method)

    async def _answer(
        self, call: StreamCall, make: Callable[[Any, Caller], Answers[Any]], caller: Caller
    ) -> Refusal | None:
        """Read the request and send all answers; the refusal that ends them, if one does."""
        seconds_max = self._settings.question_seconds_max
        try:
            message = await call.question(seconds_max)
        except TimeoutError as error:
            self.edge.calls.limited.add("question_seconds")
            raise InvalidRequest([("request", f"did not come for {seconds_max:g} s")]) from error
        async with aclosing(make(message, caller)) as answers:
            async for answer in answers:
                if isinstance(answer, Refusal):
                    return answer
                await call.context.write(answer)
                call.sent += 1
                self._metrics.answers.add(call.method)
        return None

    async def _until_over(
        self, call: StreamCall, answering: Coroutine[Any, Any, Refusal | None]
    ) -> Refusal | Exception | None:
        """Do the answering, until it is done, or the call is to end; the reason, if there is one."""
        work = asyncio.ensure_future(answering)
        try:
            await asyncio.wait((work, call.over), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _ended(work)
            raise
        if work.done():
            return work.result()
        await _ended(work)
        return call.over.result()

    def _note_end(self, call: StreamCall, code: str, why: str = "") -> None:
        known = {"why": why} if why else {}
        self.edge.stream_ended(call.method, code, **known, seconds=round(call.seconds, 3), sent=call.sent)


async def _ended(work: "asyncio.Future[Any]") -> None:
    """Cancel the answering of a call, and wait for its end; what fails on the way is logged."""
    work.cancel()
    await asyncio.wait((work,))
    error = None if work.cancelled() else work.exception()
    if error is not None and not isinstance(error, NotSent):
        log.error("stream_not_cleaned_up", exc_info=error)
