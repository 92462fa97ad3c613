"""Who gets in: strangers are turned away before a call has cost anything, and what is open to them is bounded.

gRPC calls a unary method's handler only once its request has come. A stranger's call that never sends one would be held
for as long as its connection lives; so such a call is answered by a handler that waits for nothing.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from typing import Any, NoReturn, TypeVar

import grpc

from service_kit.attempt_limit import AttemptLimit
from service_kit.client_addresses import Network, client_address
from service_kit.logging import call_details
from service_kit.rates import TooOften
from service_kit.shares import ALL, Budget, NoSlot
from warehouse.auth import API_KEY_HEADER, Keyring, Role, Unauthenticated, must_allow
from warehouse.metrics import CallMetrics
from warehouse.rpc.ending import Context, closed_at_end, end_call, first_of
from warehouse.rpc.peers import address_of
from warehouse.rpc.status import TooManyCalls, trailing_error
from warehouse.rpc.strangers import Strangers
from warehouse.settings import OpenCallSettings

FORWARDED_FOR_HEADER = "x-forwarded-for"
QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")
Metadata = Iterable[tuple[str, str | bytes]]
Method = Callable[[QuestionT, Context], Awaitable[AnswerT]]
Answering = Callable[[AsyncIterable[QuestionT], Context], Awaitable[AnswerT]]
Streaming = Callable[[AsyncIterable[QuestionT], Context], AsyncIterator[AnswerT]]


class Entrance:
    """Tells strangers from those who show a key that is known, and how often strangers may guess.

    Attributes:
        is_locked: there are keys; otherwise nobody is a stranger.
        is_shared: there are several.

    Args:
        guesses: wrong keys, counted by address.
        trusted_proxies: where calls may come through.
        note: is told the name of the bound whenever one refuses a key.
        note_peer: is told what gRPC calls the peer of each call that shows a valid key.
    """

    def __init__(
        self,
        keyring: Keyring,
        guesses: AttemptLimit,
        trusted_proxies: Sequence[Network] = (),
        note: Callable[[str], None] = lambda _bound: None,
        note_peer: Callable[[str], None] = lambda _peer: None,
    ) -> None:
        self._keyring = keyring
        self._guesses = guesses
        self._trusted_proxies = trusted_proxies
        self._note = note
        self._note_peer = note_peer
        self.is_locked = keyring.is_locked
        self.is_shared = keyring.is_shared
        # A look-up by hash is no comparison that tells by its time how much of a guess is right.
        self._found: dict[str | None, tuple[str, Role]] = {}

    def name_of(self, metadata: Metadata) -> str:
        """The name of the key shown. Raises: Unauthenticated."""
        return self._find(key_in(metadata))[0]

    def admit(self, context: Context, key: str | None, needed: Role) -> tuple[str, Role]:
        """The name of the caller who shows `key` in a call, and what it allows, which must be `needed` or more.

        Raises: Unauthenticated, PermissionDenied, TooOften: so many wrong keys came from there that none is looked at.
        """
        if not self.is_locked:
            return self._find(key)
        peer = context.peer()
        client = self._client_of(peer, context)
        self._must_be_allowed(client, key)
        name, allowed = self._find(key)
        self._guesses.was_right(client, key or "")
        self._note_peer(peer)
        must_allow(name, allowed, needed)
        return name, allowed

    def recheck(self, key: str | None, needed: Role) -> None:
        """Whether a key that was admitted still would be: looked up anew, and remembered as it is now.

        Raises: Unauthenticated, PermissionDenied.
        """
        self._found.pop(key, None)
        must_allow(*self._find(key), needed)

    @property
    def may_be_guessed_at(self) -> bool:
        """Whether somebody may have guessed so often just now that no further key is looked at from there."""
        return self.is_locked and self._guesses.may_be_stopped

    def must_be_looked_at(self, context: Context) -> None:
        """Before anything tells whether the key of a call is right. Raises: TooOften."""
        self._must_be_allowed(self.client_of(context), key_in(context.invocation_metadata() or ()))

    def was_wrong(self, context: Context) -> None:
        """The key of a call is none, or there is none. Raises: TooOften."""
        client = self.client_of(context)
        self._must_be_allowed(client, None)
        self._guesses.was_wrong(client)

    def known_as(self, context: Context) -> str | None:
        """The name of the key shown in a call that needs none; None for strangers, and where no key is looked at."""
        metadata = context.invocation_metadata() or ()
        with suppress(Unauthenticated, TooOften):
            key = key_in(metadata) if self.is_locked else None
            if key is not None:
                peer = context.peer()
                client = self._client_of(peer, context)
                self._must_be_allowed(client, key)
                with suppress(Unauthenticated):
                    name = self.name_of(metadata)
                    self._note_peer(peer)
                    return name
                self._guesses.was_wrong(client)
        return None

    def client_of(self, context: Context) -> str:
        """Who makes a call, as far as can be told: an IPv4 address, or an IPv6 network of one customer."""
        return self._client_of(context.peer(), context)

    def _client_of(self, peer: str, context: Context) -> str:
        if not self._trusted_proxies:
            return _directly(peer)
        metadata = context.invocation_metadata() or ()
        forwarded = [str(value) for name, value in metadata if name == FORWARDED_FOR_HEADER]
        return client_address(address_of(peer), forwarded, self._trusted_proxies)

    def _find(self, key: str | None) -> tuple[str, Role]:
        found = self._found.get(key)
        if found is None:
            found = self._keyring.find(key)
            if key is not None and self.is_locked:
                self._found[key] = found
        return found

    def _must_be_allowed(self, client: str, key: str | None) -> None:
        try:
            self._guesses.must_be_allowed(client, key or "")
        except TooOften:
            self._note("wrong_keys_of_address")
            raise


class AdmissionHandler(grpc.GenericRpcHandler):
    """Handlers of methods that need a key; a stranger's call never gets to them."""

    def __init__(
        self,
        handlers: grpc.GenericRpcHandler,
        entrance: Entrance,
        strangers: Strangers,
        failed: Callable[[str, Exception], tuple[grpc.StatusCode, str, Any]],
    ) -> None:
        self._handlers = handlers
        self._entrance = entrance
        self._strangers = strangers
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
        if self._entrance.may_be_guessed_at:
            return self._guarded(handler_call_details.method, handler)
        return handler

    def _guarded(self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> "grpc.RpcMethodHandler[Any, Any]":
        """While somebody guesses: from there a right key is refused as soon as a wrong one, so that it tells nothing.

        Who calls from where is only known in the call, which a handler of one message begins when that has come.
        """
        if handler.response_streaming:
            call_stream = partial(self._guarded_stream, method, handler)
            return grpc.stream_stream_rpc_method_handler(
                call_stream, handler.request_deserializer, handler.response_serializer
            )

        async def call(questions: AsyncIterable[Any], context: Context) -> Any:
            await self._look_at(method, context)
            question = await first_of(questions)
            if question is None:
                return await end_call(context, grpc.StatusCode.INVALID_ARGUMENT, "the question did not come")
            return await handler.unary_unary(question, context)  # type: ignore[misc, arg-type]

        return grpc.stream_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)

    async def _guarded_stream(
        self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]", questions: AsyncIterable[Any], context: Context
    ) -> None:
        await self._look_at(method, context)
        await handler.stream_stream(questions, context)  # type: ignore[misc, arg-type]

    async def _look_at(self, method: str, context: Context) -> None:
        try:
            self._entrance.must_be_looked_at(context)
        except TooOften as error:
            await self._turn_away(method, error, context)

    async def _refuse(self, method: str, stranger: Unauthenticated, _questions: object, context: Context) -> None:
        refusal: Exception = stranger
        try:
            self._entrance.was_wrong(context)
        except TooOften as error:
            refusal = error
        await self._turn_away(method, refusal, context)

    async def _turn_away(self, method: str, refusal: Exception, context: Context) -> NoReturn:
        """End a call, late if there are too many from there: for a right key as for a wrong one."""
        try:
            await self._strangers.count(self._entrance.client_of(context), context.peer())
        except TooOften as error:
            if not isinstance(refusal, TooOften):
                refusal = error
        await self._end(method, refusal, context)

    async def _end(self, method: str, error: Exception, context: Context) -> NoReturn:
        name = method.rpartition("/")[2]
        call_details.set(lambda: {"method": name, "peer": context.peer()})
        await end_call(context, *self._failed(name, error))


class OpenCalls:
    """Calls that need no key, health and reflection: how many there may be, and how long they wait for a question.

    Those who show a key have slots of their own, and may call as often as they like.

    Args:
        strangers: how often the others may.
        settings: how many, and how long.
    """

    def __init__(
        self, entrance: Entrance, strangers: Strangers, metrics: CallMetrics, settings: OpenCallSettings
    ) -> None:
        self._entrance = entrance
        self._rate = strangers
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
                    question = await first_of(questions)
                if question is None:
                    return await end_call(context, grpc.StatusCode.INVALID_ARGUMENT, "the question did not come")
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
        try:
            budget, name = await self._place(context)
            budget.take(name)
        except TooOften as error:
            await end_call(context, *trailing_error(error))
        except NoSlot as full:
            owner = "" if full.share == ALL else ("_of_key" if budget is self._known else "_of_address")
            self._metrics.limited.add(f"open_calls{owner}")
            await end_call(context, *trailing_error(TooManyCalls()))
        try:
            yield
        except TimeoutError:
            self._metrics.limited.add("question_seconds")
            message = f"no question came for {self._question_seconds_max:g} s"
            await end_call(context, grpc.StatusCode.DEADLINE_EXCEEDED, message)
        finally:
            budget.give_back(name)

    async def _place(self, context: Context) -> tuple[Budget, str]:
        if (name := self._entrance.known_as(context)) is not None:
            return self._known, name
        client = self._entrance.client_of(context)
        await self._rate.count(client, context.peer())
        return self._strangers, client

    async def _in_time(self, questions: AsyncIterable[QuestionT]) -> AsyncIterator[QuestionT]:
        async with closed_at_end(questions) as asked:
            while True:
                try:
                    async with asyncio.timeout(self._question_seconds_max):
                        question = await anext(asked)
                except StopAsyncIteration:
                    return
                yield question


def key_in(metadata: Metadata) -> str | None:
    """The key shown, if there is one. Raises: Unauthenticated, if there are several."""
    shown = None
    for name, value in metadata:
        if name == API_KEY_HEADER:
            if shown is not None:
                raise Unauthenticated(f"send the metadata {API_KEY_HEADER} once")
            shown = str(value)
    return shown


@lru_cache(maxsize=10_000)
def _directly(peer: str) -> str:
    return client_address(address_of(peer), (), ())
