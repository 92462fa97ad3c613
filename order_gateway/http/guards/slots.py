"""Who may have how many requests, streams and waits at the same time, how fast, and how long each may take.

Who calls is known before a slot is taken. What everybody may call without a key has slots of its own, shared by
address; so have event streams and waits for an order, which take long and cost little. A request that becomes one of
these gives its first slot back.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import uniform

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from order_gateway.access import AccessSettings
from order_gateway.http.guards.auth import CALLER
from order_gateway.http.wire.addresses import client_of
from order_gateway.http.wire.connections import ConnectionLimits
from order_gateway.http.wire.errors import ApiError, failure, too_often
from service_kit.client_addresses import is_trusted
from service_kit.deadlines import Deadline, Deadlines
from service_kit.rates import RateLimit, TooOften
from service_kit.shares import ALL, Budget, NoSlot

TIME_LIMIT: web.RequestKey[Deadline] = web.RequestKey("time_limit", Deadline)
"""A handler that streams may lift it."""
WATCHED = frozenset({"/health", "/ready", "/metrics", "/api/v1/health", "/api/v1/ready"})
"""What tells whether the service is well must answer most of all when it has too much to do."""
BUSY_RETRY_SECONDS = 1
WAITS_RETRY_SECONDS = 10
REFUSAL_SECONDS = (0.5, 1.5)
"""How long such a refusal is held back; not the same time for all, or they would all ask again at once."""
OF_KNOWN = ("key", "person")
OF_OPEN = ("address",)
Note = Callable[[str], None]


class Kind:
    """One kind of what is counted, and the words for its refusals.

    Args:
        name: for the metric.
        what: is taken, for people.
        owners: whose shares there are.
    """

    def __init__(
        self, name: str, what: str, budget: Budget, owners: Sequence[str], retry_seconds: int, note: Note
    ) -> None:
        self.budget = budget
        self.name = name
        self._what = what
        self._owners = owners
        self._retry_seconds = retry_seconds
        self._note = note

    def take(self, names: Sequence[str | None]) -> None:
        """One for who is known by these names. Raises: ApiError."""
        try:
            self.budget.take(*names)
        except NoSlot as full:
            owner = "" if full.share == ALL else self._owners[full.share]
            self._note(f"{self.name}_of_{owner}" if owner else self.name)
            whose = f" of this {owner}" if owner else ""
            message = f"as many {self._what}{whose} are under way as may be at the same time; try again shortly"
            raise ApiError("TOO_MANY_REQUESTS", message, (), {"Retry-After": str(self._retry_seconds)}) from full

    def give_back(self, names: Sequence[str | None]) -> None:
        """It is over."""
        self.budget.give_back(*names)


class Slot:
    """What a request has taken."""

    def __init__(self, slots: "Slots", kind: Kind, names: Sequence[str | None]) -> None:
        kind.take(names)
        self._slots = slots
        self._kind = kind
        self._names = names

    def becomes_stream(self) -> None:
        """From now on it is an event stream. Raises: ApiError."""
        self._become(self._slots.streams)

    def becomes_wait(self) -> None:
        """From now on it waits for an order. Raises: ApiError."""
        self._become(self._slots.waits)

    def give_back(self) -> None:
        """It is over."""
        self._kind.give_back(self._names)

    def _become(self, kind: Kind) -> None:
        kind.take(self._names)
        self.give_back()
        self._kind = kind


SLOT: web.RequestKey[Slot] = web.RequestKey("slot", Slot)


class Slots:
    """All bounds of this process.

    Args:
        note: is told the name of each bound that refuses or ends something.
    """

    def __init__(self, settings: AccessSettings, note: Note = lambda _bound: None) -> None:
        shares = (settings.key_share_max, settings.person_share_max)
        known = [Budget(most, shares) for most in (
            settings.requests_in_flight_max, settings.event_streams_max, settings.order_waits_max
        )]  # fmt: skip
        self.known = Kind("in_flight", "requests", known[0], OF_KNOWN, BUSY_RETRY_SECONDS, note)
        self.streams = Kind("event_streams", "event streams", known[1], OF_KNOWN, WAITS_RETRY_SECONDS, note)
        self.waits = Kind("order_waits", "waits for orders", known[2], OF_KNOWN, WAITS_RETRY_SECONDS, note)
        open_ = Budget(settings.open_requests_in_flight_max, (settings.address_share_max,))
        self.open = Kind("open_in_flight", "requests without a key", open_, OF_OPEN, BUSY_RETRY_SECONDS, note)
        self._rate_of_open = RateLimit(settings.open_requests_per_second_max, 1)
        self._rate_of_key = RateLimit(settings.requests_per_second_max, 1)
        self._rate_of_person = RateLimit(settings.requests_per_second_per_person_max, 1)
        self._proxies = settings.trusted_proxies
        self._note = note
        self.deadlines = Deadlines(settings.request_seconds_max)
        self.body_seconds_max = settings.body_seconds_max

    def taken(self) -> dict[tuple[str, ...], float]:
        """How many slots are taken now, by kind."""
        return {(kind.name,): kind.budget.taken for kind in (self.known, self.open, self.streams, self.waits)}

    def take(self, request: web.Request) -> Slot:
        """A slot for a request. Raises: ApiError."""
        caller = request.get(CALLER)
        if caller is None:
            return Slot(self, self.open, (client_of(request, self._proxies),))
        person = None if caller.person is None else caller.person.user_id
        if person is not None:
            # Before the key is counted: what one person asks too often must not count against all others.
            self._counted(self._rate_of_person, person, "rate_of_person")
        self._counted(self._rate_of_key, caller.key.name, "rate_of_key")
        return Slot(self, self.known, (caller.key.name, person))

    async def enter_open(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle what needs no key, unless it is asked for too often.

        On a connection of its own the refusal comes late: whoever does not care for it gets no further ones meanwhile.
        """
        try:
            self._counted(self._rate_of_open, client_of(request, self._proxies), "rate_of_open")
        except TooOften as error:
            if not is_trusted(request.remote or "", self._proxies):
                await asyncio.sleep(uniform(*REFUSAL_SECONDS))  # noqa: S311 - no secret
            return failure(request, too_often(error))
        return await handler(request)

    async def read_body(self, request: web.Request) -> None:
        """Have the whole body here, before anything else is done for it. Raises: ApiError, if it is too slow."""
        try:
            async with asyncio.timeout(self.body_seconds_max):
                await request.read()
        except TimeoutError as error:
            self._note("body_seconds")
            message = f"the body did not come within {self.body_seconds_max:g} s"
            raise ApiError("BODY_TIMEOUT", message, (), {"Connection": "close"}) from error

    def _counted(self, rate: RateLimit, name: str, bound: str) -> None:
        try:
            rate.count(name)
        except TooOften:
            self._note(bound)
            raise


def slots_middleware(slots: Slots) -> Middleware:
    """Refuse what is too much at once or too fast, and end what takes too long."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in WATCHED:
            return await handler(request)
        request[SLOT] = slot = slots.take(request)
        limit = slots.deadlines.deadline()
        try:
            with limit:
                request[TIME_LIMIT] = limit
                if not request.content.is_eof():
                    await slots.read_body(request)
                return await handler(request)
        except TimeoutError as error:
            if not limit.has_passed:
                raise
            message = f"this took longer than {limit.seconds:g} s; what was begun will be finished, look again"
            raise ApiError("DEADLINE_EXCEEDED", message) from error
        finally:
            slot.give_back()

    return check


def connection_limits(settings: AccessSettings) -> ConnectionLimits:
    """The part of the settings that bounds connections."""
    return ConnectionLimits(
        connections_max=settings.connections_max,
        per_address_max=settings.connections_per_address_max,
        header_seconds_max=settings.header_seconds_max,
        send_seconds_max=settings.send_seconds_max,
        key_share_max=settings.key_share_max,
        person_share_max=settings.person_share_max,
        trusted_proxies=settings.trusted_proxies,
    )
