"""What the tests on several writing nodes share: what was told, and whether every node says the same."""

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from service_kit.batcher import SetAside
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.warehouse_kit import Calls, No, assert_clean, outcome, serving, sql
from warehouse.stock.commands import Answer
from warehouse.stock.records import State
from warehouse.writing.store import Result

AnswerT = TypeVar("AnswerT")
PRODUCTS = (1, 2, 3)
UNITS = 900_000
PATIENCE_SECONDS = 60


@dataclass
class Told:
    """What callers were told.

    Attributes:
        states: by reservation, each state that was answered.
        refusals: how often each was.
    """

    states: defaultdict[str, set[State]] = field(default_factory=lambda: defaultdict(set))
    refusals: Counter[str] = field(default_factory=Counter)

    def note(self, outcome: Result) -> list[str]:
        """Remember an outcome; the reservations in it."""
        if isinstance(outcome, SetAside):
            # Its rows were locked for longer than a batch waits: it had no effect, and its caller would wait on.
            return []
        if isinstance(outcome, Exception):
            raise outcome
        if not isinstance(outcome, Answer):
            self.refusals[outcome.reason] += 1
            return []
        for reservation in outcome.reservations:
            self.states[reservation.reservation_id].add(reservation.state)
        return [reservation.reservation_id for reservation in outcome.reservations]

    def differences(self, url: str) -> list[tuple[str, set[State], str | None]]:
        """Where the database at `url` says otherwise, also by having more."""
        stored: dict[str, str] = dict(sql(url, "SELECT reservation_id, state FROM reservations"))
        ends = {name: states - {State.RESERVED} or states for name, states in self.states.items()}
        return [
            (name, ends.get(name, set()), stored.get(name))
            for name in ends.keys() | stored.keys()
            if stored.get(name) not in ends.get(name, set())
        ]


async def everything_is_as_told(told: Told, urls: Sequence[str]) -> None:
    """Every node has what was told, no more, and adds up."""
    for url in urls:
        # The audit waits until the node has everything; a plain look, as here, does not.
        await assert_clean(url)
        assert told.differences(url) == []


async def stock_up(url: str) -> None:
    """Put many units of each product into the warehouse's database."""
    async with serving(url) as calls:
        await calls.keep({(product, 1): UNITS for product in PRODUCTS})


async def answered(call: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
    """The answer to a call that is made again, as every caller should, while the server can't tell how it ended.

    A node of a cluster stands still for as long as any disk among them does.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while isinstance(answer := await outcome(call()), No):
        assert answer.code in ("UNAVAILABLE", "ABORTED"), answer
        assert time.monotonic() < end, answer
    return answer


async def ask(server: Calls, request: pb.ReserveRequest, timeout: float | None = None) -> pb.ReserveResponse:
    """The answer to a Reserve."""
    return await server.holds.Reserve(request, timeout=timeout)
