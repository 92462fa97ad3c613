"""Steps of orders that keep failing, for admins: they see why, and have them tried again once that is corrected."""

from dataclasses import dataclass
from typing import Annotated

from aiohttp import web
from pydantic import StringConstraints

from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import Access
from order_gateway.http.wire.errors import ApiError, success, success_page
from order_gateway.http.wire.fields import PageQuery, Query
from order_gateway.lifecycle import Instant, Step
from order_gateway.saga.pending_steps import ParkedStep, PendingSteps
from order_gateway.saga.relay import Relay

_STEPS = "|".join(Step)


class DeadLetterPath(Query):
    """The path of a parked step: its order's number, and its name."""

    id: Annotated[str, StringConstraints(pattern=rf"^[1-9][0-9]{{0,17}}-({_STEPS})$")]


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """A step of an order that keeps failing; it is tried only now and then."""

    id: str
    order_id: int
    step: str
    attempts: int
    last_error: str | None
    begun_at: Instant
    parked_at: Instant
    next_try_at: Instant


@dataclass(frozen=True, slots=True)
class RetryView:
    """The step that is tried again now."""

    id: str
    order_id: int
    step: str


class DeadLetterRoutes:
    """The operations on parked steps."""

    def __init__(self, intents: PendingSteps, relay: Relay, prefix: str) -> None:
        self._intents = intents
        self._relay = relay
        self._prefix = prefix

    def operations(self) -> list[Operation]:
        """All of them."""
        at, tag = f"{self._prefix}/dead-letters", "operations"
        return [
            Operation("GET", at, self.list, DeadLetterView, tag, access=Access.ADMIN, is_list=True),
            Operation(
                "POST", f"{at}/{{id}}/retry", self.retry, RetryView, tag, codes=("NOT_FOUND",), access=Access.ADMIN
            ),
        ]

    async def list(self, _request: web.Request, query: PageQuery) -> web.Response:
        """List the steps of orders that keep failing, those that were parked first first."""
        found, total = await self._intents.parked((query.page - 1) * query.limit, query.limit)
        return success_page([_view(step) for step in found], query.page, query.limit, total)

    async def retry(self, _request: web.Request, path: DeadLetterPath) -> web.Response:
        """Try a step again now, and then as often as a new one."""
        number, _, name = path.id.partition("-")
        order_id, step = int(number), Step(name)
        if not await self._intents.unpark(order_id, step):
            raise ApiError("NOT_FOUND", f"no step {path.id} is parked; GET {self._prefix}/dead-letters lists them")
        self._relay.nudge()
        return success(RetryView(path.id, order_id, step))


def _view(parked: ParkedStep) -> DeadLetterView:
    return DeadLetterView(
        f"{parked.order_id}-{parked.step}",
        parked.order_id,
        parked.step,
        parked.attempts,
        parked.last_error,
        parked.begun_at,
        parked.parked_at,
        parked.next_try_at,
    )
