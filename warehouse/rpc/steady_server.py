"""grpc.aio's server, corrected in one respect: no path that a client names can end it.

The library's loop decodes the path of every call as UTF-8, and ends, and the whole server with it, at the first one
that is not: one request of anybody. Here the core tells methods apart, by bytes; the path of a call of none of them is
not read.

It also takes less time: grpc.aio waits for all methods' next calls at once, and sets that up again for every call; here
each method's next call is waited for by a task of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

_SAYS_WHAT_IT_COULD_NOT_DECODE = "Invalid encoding on"
_NOT_SENT = 'Failed "execute_batch"'
"""How the library's error begins when what was to be sent was well-formed, and the call was over."""
NotSent = cygrpc.ExecuteBatchError
"""What sending raises when the call is over."""
LISTENERS_SECONDS = 0.5
"""For listeners to take the end of their calls, while a server stops."""
UNKNOWN = ""
"""The path that calls of unknown methods are given; nothing is found by it, so they are UNIMPLEMENTED."""


def steady_server(options: Sequence[tuple[str, Any]], calls_max: int) -> grpc.aio.Server:
    """As grpc.aio.server.

    Args:
        calls_max: at the same time; more are answered with RESOURCE_EXHAUSTED.
    """
    plain = cygrpc.AioServer
    cygrpc.AioServer = _SteadyServer
    try:
        return grpc.aio.server(options=options, maximum_concurrent_rpcs=calls_max)
    finally:
        cygrpc.AioServer = plain


def add_service(
    server: grpc.aio.Server, service: str, methods: Mapping[str, Any], handler: grpc.GenericRpcHandler | None = None
) -> None:
    """Add a service to a steady server.

    Args:
        methods: its handlers by name; the core learns the names from them.
        handler: what finds the handler of a call; unless given, it is always the one in `methods`.
    """
    server.add_registered_method_handlers(service, dict(methods))
    server.add_generic_rpc_handlers((handler or grpc.method_handlers_generic_handler(service, dict(methods)),))


async def stop_server(server: grpc.aio.Server, grace_seconds: float, unheard: Callable[[], float]) -> None:
    """Stop a steady server: calls under way have `grace_seconds`, and none of them where nobody takes their end.

    What a caller does not read holds back how its call ends, too, as long as the caller likes.

    Args:
        unheard: how many of the calls under way have been told to end, or may be cut at any time.
    """
    stopping = asyncio.ensure_future(server.stop(grace_seconds))
    while not stopping.done():
        await asyncio.wait((stopping,), timeout=LISTENERS_SECONDS)
        if not stopping.done() and len(server._server._under_way) <= unheard():  # type: ignore[attr-defined]
            await server.stop(None)
    await stopping


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    if isinstance(record.msg, str) and record.msg.startswith(_SAYS_WHAT_IT_COULD_NOT_DECODE):
        return False
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, cygrpc.ExecuteBatchError) and str(error).startswith(_NOT_SENT))


# Otherwise any header with a byte that is no UTF-8 is written to the log as it is, a key, too, with a traceback; and
# there is a traceback for everybody who takes a call back, or closes the connection, while the answer is on its way.
logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_a_line)


class _SteadyServer(cygrpc.AioServer):  # type: ignore[misc]
    """Overrides what the library's loop asks for the next call: it gets none, as they are begun here."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *arguments: Any) -> None:
        # The library adds the first handlers while it is made.
        self._handlers: list[grpc.GenericRpcHandler] = []
        super().__init__(loop, *arguments)
        *_, calls_max = arguments
        self._event_loop = loop
        self._calls_max = calls_max
        self._under_way: set[asyncio.Task[None]] = set()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """What finds the handlers of calls."""
        super().add_generic_rpc_handlers(generic_rpc_handlers)
        self._handlers.extend(generic_rpc_handlers)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Task[None]:
        return self._event_loop.create_task(self._begin_calls(method))

    async def _begin_calls(self, method: bytes | None) -> None:
        """Begin every call of a method; None: of those that nobody knows. Ends with the error that a stop brings."""
        path = UNKNOWN if method is None else method.decode()
        resolver = cygrpc._MethodResolver(self._handlers, {})
        while True:
            state = await (self._request_call() if method is None else self._request_registered_call(method))
            is_too_much = len(self._under_way) >= self._calls_max
            handling = cygrpc._handle_rpc(path, resolver, (), state, self._event_loop, is_too_much)
            task = self._event_loop.create_task(
                cygrpc._schedule_rpc_coro(handling, state, self._event_loop, path), name="rpc_task"
            )
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
