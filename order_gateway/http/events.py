"""Server-sent events of one order: all that happened so far, then what happens, as it happens.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

import msgspec
import structlog
from aiohttp import web

from order_gateway.access import AccessSettings
from order_gateway.http.guards.auth import CREDENTIALS, Caller
from order_gateway.http.guards.slots import SLOT, TIME_LIMIT
from order_gateway.http.wire.connections import ended_by_hang_up
from order_gateway.http.wire.readers import is_digits
from order_gateway.http.wire.validating import invalid
from order_gateway.lifecycle import Instant, Payment, Status, is_settled
from order_gateway.storage.reading import Listing, OrderEvent
from order_gateway.storage.store import Store
from order_gateway.storage.watching import Watching
from service_kit.background import Background, end
from service_kit.database.database import DatabaseFault

log = structlog.get_logger(__name__)
BATCH = 100
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
ENDED = frozenset({Status.COMPLETED, Status.CANCELLED, Status.REJECTED})
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class EventView:
    """Something that happened to an order; `actor` is not shown to customers."""

    id: int
    order_id: int
    event: str
    status_before: Status | None
    status: Status
    note: str | None
    actor: str | None
    at: Instant


class Streams:
    """The open streams of this process."""

    def __init__(
        self,
        store: Store,
        listing: Listing,
        watching: Watching,
        settings: AccessSettings,
        background: Background | None = None,
    ) -> None:
        self._background = background or Background()
        self._store = store
        self._listing = listing
        self._watching = watching
        self._settings = settings

    def attach(self, app: web.Application) -> None:
        """Look at the watched orders while the application runs, and end the streams when it stops."""

        async def watch(_app: web.Application) -> AsyncIterator[None]:
            task = self._background.keep("watching", self._watching.run)
            yield
            await end(task)

        async def stop(_app: web.Application) -> None:
            self._watching.stop()

        app.cleanup_ctx.append(watch)
        app.on_shutdown.append(stop)

    async def serve(self, request: web.Request, order_id: int, caller: Caller) -> web.StreamResponse:
        """Stream until nothing can happen any more, or the client, the service or the time limit ends it."""
        last = _last_event_id(request)
        if last and await self._is_over(order_id, last, caller):
            # This tells a browser not to connect again.
            return web.Response(status=204)
        if request.method == "HEAD":
            return web.Response(headers=HEADERS)
        request[SLOT].becomes_stream()
        response = web.StreamResponse(headers=HEADERS)
        try:
            request[TIME_LIMIT].lift()
            await response.prepare(request)
            async with asyncio.timeout(self._settings.event_stream_seconds_max):
                await self._stream(request, response, order_id, last, caller)
        except (TimeoutError, ConnectionResetError, DatabaseFault) as end_:
            # All are ends of a stream like any other: the client comes back with its Last-Event-ID.
            log.info("stream_ended", order_id=order_id, why=repr(end_))
        return response

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, order_id: int, last: int, caller: Caller
    ) -> None:
        settings, clock = self._settings, asyncio.get_running_loop().time
        # A key or a token may end at any time, and nothing would wake this up.
        patience = min(settings.event_heartbeat_seconds, settings.api_keys_check_seconds)
        written_at = clock()
        while not self._watching.is_stopping:
            happened = await self._listing.history(order_id, last, BATCH, caller.actor)
            if not request[CREDENTIALS].is_valid():
                await response.write(b": the key or the token is not valid any more\n\n")
                return
            for event in happened:
                await response.write(_frame(event, caller))
                last, written_at = event.id, clock()
            if len(happened) == BATCH:
                continue
            if await self._is_over(order_id, last, caller):
                return
            while not await self._has_more(request, order_id, last, patience):
                if self._watching.is_stopping or not request[CREDENTIALS].is_valid():
                    break
                if clock() - written_at >= settings.event_heartbeat_seconds:
                    await response.write(b": still here\n\n")
                    written_at = clock()

    async def _has_more(self, request: web.Request, order_id: int, last: int, seconds: float) -> bool:
        """Wait for more to happen, for so long at most, and no longer than the client listens."""
        with ended_by_hang_up(request):
            return await self._watching.wait(order_id, last, seconds)

    async def _is_over(self, order_id: int, last: int, caller: Caller) -> bool:
        """Whether `last` is the last that will ever happen to the order."""
        state = (await self._store.read(order_id)).state
        if state.status not in ENDED or not is_settled(state) or state.payment is Payment.REFUND_REQUESTED:
            return False
        return not await self._listing.history(order_id, last, 1, caller.actor)


def event_view(event: OrderEvent, caller: Caller) -> EventView:
    """An event as this caller may see it."""
    known = {**asdict(event), "actor": None if caller.only_user is not None else event.actor}
    return EventView(**known)


def _frame(event: OrderEvent, caller: Caller) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (event.id, _encode(event_view(event, caller)))


def _last_event_id(request: web.Request) -> int:
    raw = request.headers.get("Last-Event-ID", "0")
    if is_digits(raw):
        return int(raw)
    raise invalid("Last-Event-ID", "must be the id of an event of this stream")
