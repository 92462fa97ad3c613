"""Who gets in: strangers are turned away before a call has cost anything, and what is open to them is bounded.

gRPC calls a unary method's handler only once its request has come. A stranger's call that never sends one would be held
for as long as its connection lives; so such a call is answered by a handler that waits for nothing.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import grpc

from service_kit.logging import call_details
from service_kit.shares import ALL, Budget, NoSlot
from warehouse.auth import API_KEY_HEADER, Keyring, Role, Unauthenticated
from warehouse.metrics import CallMetrics
from warehouse.settings import OpenCallSettings
from warehouse.status import TooManyCalls, status_of_error, trailing

Context = grpc.aio.ServicerContext[Any, Any]
QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")
Metadata = Iterable[tuple[str, str | bytes]]
Method = Callable[[QuestionT, Context], Awaitable[AnswerT]]
Answering = Callable[[AsyncIterable[QuestionT], Context], Awaitable[AnswerT]]
Streaming = Callable[[AsyncIterable[QuestionT], Context], AsyncIterator[AnswerT]]


class Entrance:
    """Tells strangers from those who show a key that is known.

    Attributes:
        is_locked: there are keys; otherwise nobody is a stranger.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self.is_locked = keyring.is_locked
        # A look-up by hash is no comparison that tells by its time how much of a guess is right.
        self._names: dict[str, str] = {}

    def name_of(self, metadata: Metadata) -> str:
        """The name of the key shown. Raises: Unauthenticated."""
        shown = None
        for name, value in metadata:
            if name == API_KEY_HEADER:
                shown = str(value)
                if shown in self._names:
                    return self._names[shown]
        found, _role = self._keyring.admit(shown, Role.READER)
        if shown is not None and self.is_locked:
            self._names[shown] = found
        return found


class Doorkeeper(grpc.GenericRpcHandler):
    """Handlers of methods that need a key; a stranger's call never gets to them."""

    def __init__(
        self,
        handlers: grpc.GenericRpcHandler,
        entrance: Entrance,
        failed: Callable[[str, Exception], tuple[grpc.StatusCode, str, Any]],
    ) -> None:
        self._handlers = handlers
        self._entrance = entrance
        self._failed = failed

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """What answers a call."""
        handler = self._handlers.service(handler_call_details)
        if handler is None:
            return None
        try:
            self._entrance.name_of(handler_call_details.invocation_metadata or ())
        except Unauthenticated as stranger:
            return grpc.stream_stream_rpc_method_handler(partial(self._refuse, handler_call_details.method, stranger))
        return handler

    async def _refuse(self, method: str, stranger: Unauthenticated, _questions: object, context: Context) -> None:
        name = method.rpartition("/")[2]
        call_details.set(lambda: {"method": name, "peer": context.peer()})
        await context.abort(*self._failed(name, stranger))


class OpenCalls:
    """Calls that need no key, health and reflection: how many there may be, and how long they wait for a question.

    Those who show a key have slots of their own.

    Args:
        settings: how many, and how long.
    """

    def __init__(self, entrance: Entrance, metrics: CallMetrics, settings: OpenCallSettings) -> None:
        self._entrance = entrance
        self._metrics = metrics
        self._strangers = Budget(settings.calls_max, (settings.address_share_max,))
        self._known = Budget(settings.calls_max, (settings.key_share_max,))
        self._question_seconds_max = settings.question_seconds_max

    @property
    def under_way(self) -> dict[tuple[str, ...], float]:
        """How many there are now, of whom."""
        return {("strangers",): self._strangers.taken, ("known",): self._known.taken}

    def answering(self, method: Method[QuestionT, AnswerT]) -> Answering[QuestionT, AnswerT]:
        """A method that takes one question, made into one that is called before that has come."""

        async def call(questions: AsyncIterable[QuestionT], context: Context) -> AnswerT:
            async with self._slot(context):
                async with asyncio.timeout(self._question_seconds_max):
                    question = await anext(aiter(questions), None)
                if question is None:
                    return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the question did not come")
                return await method(question, context)

        return call

    def streaming(self, method: Streaming[QuestionT, AnswerT]) -> Streaming[QuestionT, AnswerT]:
        """A method that takes a stream of questions, bounded."""

        async def call(questions: AsyncIterable[QuestionT], context: Context) -> AsyncIterator[AnswerT]:
            async with self._slot(context):
                async for answer in method(self._in_time(questions), context):
                    yield answer

        return call

    @asynccontextmanager
    async def _slot(self, context: Context) -> AsyncIterator[None]:
        budget, name = self._place(context)
        try:
            budget.take(name)
        except NoSlot as full:
            owner = "" if full.place == ALL else ("_of_key" if budget is self._known else "_of_address")
            self._metrics.limited.add(f"open_calls{owner}")
            await context.abort(*trailing(status_of_error(TooManyCalls())))
        try:
            yield
        except TimeoutError:
            self._metrics.limited.add("question_seconds")
            message = f"no question came for {self._question_seconds_max:g} s"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, message)
        finally:
            budget.give_back(name)

    def _place(self, context: Context) -> tuple[Budget, str]:
        if self._entrance.is_locked:
            with suppress(Unauthenticated):
                return self._known, self._entrance.name_of(context.invocation_metadata() or ())
        return self._strangers, address_of(context.peer())

    async def _in_time(self, questions: AsyncIterable[QuestionT]) -> AsyncIterator[QuestionT]:
        asked = aiter(questions)
        while True:
            try:
                async with asyncio.timeout(self._question_seconds_max):
                    question = await anext(asked)
            except StopAsyncIteration:
                return
            yield question


def address_of(peer: str) -> str:
    """The address in what gRPC calls a peer: ipv4:127.0.0.1:4242, ipv6:%5B::1%5D:4242."""
    return peer.rpartition(":")[0] or peer
