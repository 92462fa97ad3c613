"""What is measured, against what, and what is to be reached. Pure."""

from enum import StrEnum
from statistics import median
from typing import Literal

import msgspec

from benchmarks.machine import NOBODY, OTHERS_SHARE_MAX, Busy
from benchmarks.requests import REQUESTS_PER_BATCH
from benchmarks.rounds import RoundResult, WorkName

CALLERS_OF_NAIVE = (1, 4, 10, 64, 256)
"""The naive server is compared with at its best: each of these is tried, and the fastest is kept."""
CALLERS_OF_CURVES = (1, 10, 64, 256)
CALLERS_OF_FAR_NAIVE = (4, 10, 64)


class Server(StrEnum):
    """Who is called."""

    WAREHOUSE = "warehouse"
    WAREHOUSE_FAR = "warehouse-far"
    """Its database is a 2 ms round trip away."""
    WAREHOUSE_OLD = "warehouse-old"
    """Its tables hold 2,000,000 closed reservations."""
    ECHO = "echo"
    NAIVE = "naive"
    NAIVE_FAR = "naive-far"
    HTTP_ECHO = "http-echo"
    ORDERS = "orders"
    """The order gateway in grpc mode."""
    ORDERS_QUEUED = "orders-queued"
    ORDERS_DEAD = "orders-dead"
    """In grpc mode, and nobody listens where its warehouse should be."""


class Leg(msgspec.Struct, frozen=True):
    """One thing to measure. Several numbers of callers: the one that is fastest is found first."""

    server: Server
    work: WorkName
    callers: tuple[int, ...]


class Summary(msgspec.Struct, frozen=True):
    """A leg's rounds, taken together: medians, but the worst of all maxima."""

    server: Server
    work: WorkName
    callers: int
    rounds: int
    per_second: float
    per_second_lowest: float
    per_second_highest: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    each_per_second: list[float]
    """Round by round, as the next two."""
    each_p50_ms: list[float]
    each_p99_ms: list[float]
    calls: int
    statuses: dict[str, int]
    unexpected: int
    first_unexpected: str
    cpu_us_per_call: dict[str, float]
    """Processor time by process (server, database, generator, proxy), in microseconds for each call."""
    slowest_ms: float = 0.0
    """Of all calls of all rounds, those of the warm-up included."""
    others_share: float = 0.0
    """The part of the processors that programs outside of the benchmark used during the rounds."""


Metric = Literal["per_second", "p50_ms", "p99 over p50", "slowest_seconds"]


class Target(msgspec.Struct, frozen=True):
    """A row of the table: a leg, beside another one, and how they must compare."""

    name: str
    title: str
    leg: Leg
    yardstick: Leg | None
    bound: float
    metric: Metric = "per_second"
    at_most: bool = False
    """Whether the bound is one from above."""


class Group(msgspec.Struct, frozen=True):
    """Targets whose legs take turns, round by round, so that a noisy machine disturbs all of them alike."""

    targets: tuple[Target, ...]
    only_full: bool = False
    other_legs: tuple[Leg, ...] = ()
    """Measured for the picture, without a target."""

    @property
    def legs(self) -> list[Leg]:
        """Every leg once, a target's leg right beside its yardstick."""
        pairs = [leg for target in self.targets for leg in (target.yardstick, target.leg) if leg is not None]
        return list(dict.fromkeys([*pairs, *self.other_legs]))


def _leg(server: Server, work: WorkName, *callers: int) -> Leg:
    return Leg(server, work, callers or (256,))


_HOT = _leg(Server.WAREHOUSE, "reserve-hot")
_ECHO = _leg(Server.ECHO, "reserve-hot")
_HOT_64 = _leg(Server.WAREHOUSE, "reserve-hot", 64)
_HTTP_ECHO = _leg(Server.HTTP_ECHO, "order")
_ORDER = _leg(Server.ORDERS, "order")
_ORDER_QUEUED = _leg(Server.ORDERS_QUEUED, "order-queued")
ORDERS_DEAD_SECONDS_MAX = 4
"""What a customer waits for the hold, 3 s unless configured, and one more."""
_PER_BATCH = f"BatchReserve of {REQUESTS_PER_BATCH}, one hot product"

GROUPS = (
    Group(
        (
            Target("hot", "Reserve, one hot product, 256 callers : echo", _HOT, _ECHO, 0.85),
            Target(
                "naive", "the same : naive at its best", _HOT, _leg(Server.NAIVE, "reserve-hot", *CALLERS_OF_NAIVE), 5
            ),
            Target("collapse", "hot product, 256 callers : 16", _HOT, _leg(Server.WAREHOUSE, "reserve-hot", 16), 1.5),
            Target("tail", "hot product, 64 callers, p99 : p50", _HOT_64, None, 3, "p99 over p50", at_most=True),
            Target("batch", f"{_PER_BATCH} : unary at 256", _leg(Server.WAREHOUSE, "batch-reserve", 16), _HOT, 2),
        )
    ),
    Group(
        (
            Target(
                "spread",
                "Reserve, 3 lines over 10,000 products : echo",
                _leg(Server.WAREHOUSE, "reserve-spread"),
                _leg(Server.ECHO, "reserve-spread"),
                0.7,
            ),
        )
    ),
    Group(
        (
            Target(
                "alone",
                "one caller alone, p50 : naive",
                _leg(Server.WAREHOUSE, "reserve-hot", 1),
                _leg(Server.NAIVE, "reserve-hot", 1),
                1.0,
                "p50_ms",
                at_most=True,
            ),
        )
    ),
    Group(
        (
            Target(
                "far",
                "database 2 ms away, hot, 256 callers : naive",
                _leg(Server.WAREHOUSE_FAR, "reserve-hot"),
                _leg(Server.NAIVE_FAR, "reserve-hot", *CALLERS_OF_FAR_NAIVE),
                30,
            ),
        )
    ),
    Group(
        (
            Target("commit", "Commit : echo", _leg(Server.WAREHOUSE, "commit"), _leg(Server.ECHO, "commit"), 0.7),
            Target("cancel", "Cancel : echo", _leg(Server.WAREHOUSE, "cancel"), _leg(Server.ECHO, "cancel"), 0.7),
        )
    ),
    Group(
        (
            Target(
                "check",
                "CheckStock, 256 callers : echo",
                _leg(Server.WAREHOUSE, "check-stock"),
                _leg(Server.ECHO, "check-stock"),
                0.8,
            ),
            Target(
                "sold-out",
                "sold out, refusals, 256 callers : echo",
                _leg(Server.WAREHOUSE, "reserve-sold-out"),
                _ECHO,
                0.7,
            ),
        )
    ),
    Group(
        (
            Target("orders", "POST /orders, grpc mode : bare aiohttp echo", _ORDER, _HTTP_ECHO, 0.25),
            Target("orders-queued", "the same, queued mode", _ORDER_QUEUED, _HTTP_ECHO, 0.35),
            Target(
                "orders-dead",
                "200 orders, dead warehouse: slowest, s",
                _leg(Server.ORDERS_DEAD, "order-refused", 200),
                None,
                ORDERS_DEAD_SECONDS_MAX,
                "slowest_seconds",
                at_most=True,
            ),
        )
    ),
    Group(
        (
            Target(
                "old",
                "2,000,000 closed reservations : empty tables",
                _leg(Server.WAREHOUSE_OLD, "reserve-hot"),
                _HOT,
                0.9,
            ),
        ),
        only_full=True,
    ),
    Group(
        (),
        only_full=True,
        other_legs=tuple(
            _leg(server, "reserve-hot", callers)
            for callers in CALLERS_OF_CURVES
            for server in (Server.ECHO, Server.WAREHOUSE, Server.NAIVE)
        ),
    ),
)


class Verdict(msgspec.Struct, frozen=True):
    """A row of the table, measured."""

    target: Target
    measured: Summary
    yardstick: Summary | None
    ratio: float
    reached: bool
    comparable: bool = True
    """False if it was missed while other programs were busy: then it says nothing about the code."""


def chosen_groups(names: list[str], *, full: bool) -> list[Group]:
    """The groups to run, with the targets asked for: all but the slow ones if none is named.

    Raises:
        ValueError: there is no target of that name.
    """
    known = [target.name for group in GROUPS for target in group.targets]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"There is no {', '.join(unknown)}. There are: {', '.join(known)}.")
    if not names:
        return [group for group in GROUPS if full or not group.only_full]
    picked = [Group(tuple(one for one in group.targets if one.name in names), group.only_full) for group in GROUPS]
    return [group for group in picked if group.targets]


def summarize(
    leg: Leg, callers: int, rounds: list[RoundResult], cpu_seconds: dict[str, float], busy: Busy = NOBODY
) -> Summary:
    """Put the rounds of a leg, at least one, together with the processor time that was used during them."""
    rates = [one.per_second for one in rounds]
    calls_in_all = sum(one.calls_in_all for one in rounds) or 1
    statuses: dict[str, int] = {}
    for one in rounds:
        for status, count in one.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return Summary(
        server=leg.server,
        work=leg.work,
        callers=callers,
        rounds=len(rounds),
        per_second=median(rates),
        per_second_lowest=min(rates),
        per_second_highest=max(rates),
        p50_ms=median(one.p50_ms for one in rounds),
        p99_ms=median(one.p99_ms for one in rounds),
        max_ms=max(one.max_ms for one in rounds),
        each_per_second=rates,
        each_p50_ms=[one.p50_ms for one in rounds],
        each_p99_ms=[one.p99_ms for one in rounds],
        calls=sum(one.calls for one in rounds),
        statuses=statuses,
        unexpected=sum(one.unexpected for one in rounds),
        first_unexpected=next((one.first_unexpected for one in rounds if one.unexpected), ""),
        cpu_us_per_call={process: used / calls_in_all * 1e6 for process, used in cpu_seconds.items()},
        slowest_ms=max(one.slowest_ms for one in rounds),
        others_share=busy.share,
    )


def judge(target: Target, measured: Summary, yardstick: Summary | None) -> Verdict:
    """Compare each round with the yardstick's round beside it; the ratio is the median of those.

    A leg with calls that failed reaches nothing, however fast it was. One that misses its target while other programs
    used more than OTHERS_SHARE_MAX of the processors is not comparable.
    """
    other = yardstick or measured
    if target.metric == "slowest_seconds":
        above, below = [measured.slowest_ms], [1000.0]
    elif target.metric == "p99 over p50":
        above, below = measured.each_p99_ms, measured.each_p50_ms
    elif target.metric == "p50_ms":
        above, below = measured.each_p50_ms, other.each_p50_ms
    else:
        above, below = measured.each_per_second, other.each_per_second
    ratios = [one / beside for one, beside in zip(above, below, strict=True) if beside]
    ratio = median(ratios) if ratios else 0.0
    good = ratio <= target.bound if target.at_most else ratio >= target.bound
    failed = measured.unexpected or (yardstick is not None and yardstick.unexpected)
    reached = bool(ratios) and good and not failed
    is_busy = max(measured.others_share, other.others_share) > OTHERS_SHARE_MAX
    comparable = reached or bool(failed) or not is_busy
    return Verdict(target, measured, yardstick, ratio, reached=reached, comparable=comparable)
