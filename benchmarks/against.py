"""What is measured when two revisions are compared, and what is said about it. Pure."""

import math
from enum import StrEnum
from statistics import median

import msgspec

from benchmarks.machine import OTHERS_SHARE_MAX, Busy, together
from benchmarks.rounds import RoundResult, WorkName
from benchmarks.workloads import Server

RATIO_MIN = 0.95
"""What a revision must keep of the speed of the one before it."""
CONFIDENCE = 0.95
"""How sure the interval of a ratio is to hold the true one."""
QUIET_TURNS_MIN = 3
"""How many turns without busy strangers it takes to say that something was kept."""
SURE_TURNS_MIN = 6
"""How many it takes to say that something is slower or faster: with fewer the interval is not as sure as CONFIDENCE."""


class Workload(msgspec.Struct, frozen=True):
    """One thing that both revisions do in turns."""

    name: str
    title: str
    server: Server
    work: WorkName
    callers: int
    length: float = 1.0
    """Its rounds take this part of the usual time."""


WORKLOADS = (
    Workload("hot", "Reserve, one hot product", Server.WAREHOUSE, "reserve-hot", 256),
    Workload("spread", "Reserve, 3 lines over 10,000 products", Server.WAREHOUSE, "reserve-spread", 256),
    Workload("commit", "Commit", Server.WAREHOUSE, "commit", 256),
    Workload("cancel", "Cancel", Server.WAREHOUSE, "cancel", 256),
    Workload("check", "CheckStock", Server.WAREHOUSE, "check-stock", 256),
    Workload("batch", "BatchReserve of 100, reservations", Server.WAREHOUSE, "batch-reserve", 16),
    Workload("alone", "Reserve, one caller alone", Server.WAREHOUSE, "reserve-hot", 1),
    Workload("orders", "POST /orders, grpc mode", Server.ORDERS, "order", 256),
    # Shorter: what it leaves to the relay must be done before the next round.
    Workload("orders-queued", "POST /orders, queued mode", Server.ORDERS_QUEUED, "order-queued", 256, length=0.5),
)


class Outcome(StrEnum):
    """What may be said about a workload."""

    FASTER = "faster"
    KEPT = "kept"
    SLOWER = "slower"
    UNCLEAR = "unclear"
    """Under the bound, but no more than the turns differ among themselves."""
    NOT_COMPARABLE = "not comparable"
    """Other programs were too busy in too many turns."""
    FAILED = "failed"
    """Calls failed, or nothing was measured."""


class Turn(msgspec.Struct, frozen=True):
    """A round of each revision, one right after the other."""

    before: RoundResult
    now: RoundResult
    cpu_us_before: float
    """Processor time of servers and database for each call, in microseconds."""
    cpu_us_now: float
    busy: Busy
    """What other programs did during both."""

    @property
    def ratio(self) -> float:
        """The speed now to that before."""
        return self.now.per_second / self.before.per_second if self.before.per_second else 0.0


class Side(msgspec.Struct, frozen=True):
    """The medians of one revision."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_call: float
    unexpected: int
    first_unexpected: str


class Comparison(msgspec.Struct, frozen=True):
    """A workload, measured in both revisions."""

    workload: Workload
    before: Side
    now: Side
    ratio: float
    """The median of the ratios of the turns that count."""
    lowest: float
    """Between this and the next the true ratio lies, as sure as CONFIDENCE."""
    highest: float
    turns: int
    quiet_turns: int
    busy: Busy
    outcome: Outcome

    @property
    def is_settled(self) -> bool:
        """Whether more turns would not change what is said."""
        return self.outcome not in (Outcome.UNCLEAR, Outcome.NOT_COMPARABLE)


def chosen_workloads(names: list[str]) -> list[Workload]:
    """Those that are named, all if none is. Raises: ValueError if there is none of that name."""
    known = [one.name for one in WORKLOADS]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"There is no {', '.join(unknown)} to compare. There are: {', '.join(known)}.")
    return [one for one in WORKLOADS if not names or one.name in names]


def compare(workload: Workload, turns: list[Turn], bound: float = RATIO_MIN) -> Comparison:
    """Put the turns of a workload, at least one, together.

    Turns in which others were busy don't count as long as enough quiet ones are left to judge by.
    """
    quiet = [turn for turn in turns if turn.busy.share <= OTHERS_SHARE_MAX]
    is_quiet = len(quiet) >= QUIET_TURNS_MIN
    failed = any(one.unexpected or not one.calls for turn in turns for one in (turn.before, turn.now))
    counted = quiet if is_quiet and not failed else turns
    ratios = sorted(turn.ratio for turn in counted)
    lowest, highest = interval_of_median(ratios)
    before = _side([turn.before for turn in counted], [turn.cpu_us_before for turn in counted])
    now = _side([turn.now for turn in counted], [turn.cpu_us_now for turn in counted])
    ratio = median(ratios)
    if failed:
        outcome = Outcome.FAILED
    elif not is_quiet:
        outcome = Outcome.NOT_COMPARABLE
    else:
        outcome = judge_ratio(ratio, lowest, highest, bound, is_sure=len(counted) >= SURE_TURNS_MIN)
    busy = together(turn.busy for turn in turns)
    return Comparison(workload, before, now, ratio, lowest, highest, len(turns), len(quiet), busy, outcome)


def judge_ratio(ratio: float, lowest: float, highest: float, bound: float, *, is_sure: bool) -> Outcome:
    """What a ratio and its interval say about `bound`, the least that is to be kept.

    Args:
        is_sure: whether the interval stands on enough turns to be relied upon.
    """
    if is_sure and highest < bound:
        return Outcome.SLOWER
    if ratio < bound:
        return Outcome.UNCLEAR
    return Outcome.FASTER if is_sure and lowest > 1 / bound else Outcome.KEPT


def interval_of_median(ascending: list[float]) -> tuple[float, float]:
    """Between which two values the true median lies, as sure as CONFIDENCE (for six values or more).

    It assumes nothing about how the values are spread: each is above or under the true median by the toss of a coin.
    """
    count = len(ascending)
    chance, tail = 0.0, 0
    while tail < count // 2:
        chance += math.comb(count, tail) / 2**count
        if 2 * chance > 1 - CONFIDENCE:
            break
        tail += 1
    left_out = max(0, tail - 1)
    return ascending[left_out], ascending[count - 1 - left_out]


def before_goes_first(turn: int) -> bool:
    """Who begins a turn: before, now, now, before, and so on, so that a drift of the machine favours neither."""
    return turn % 4 in (0, 3)


def _side(rounds: list[RoundResult], cpu_us: list[float]) -> Side:
    return Side(
        per_second=median(one.per_second for one in rounds),
        p50_ms=median(one.p50_ms for one in rounds),
        p99_ms=median(one.p99_ms for one in rounds),
        cpu_us_per_call=median(cpu_us),
        unexpected=sum(one.unexpected for one in rounds),
        first_unexpected=next((one.first_unexpected for one in rounds if one.unexpected), ""),
    )
