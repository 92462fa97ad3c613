"""Two revisions measured on one machine: round by round, one right after the other."""

import time
from collections.abc import Callable

import msgspec

from benchmarks.against import RATIO_MIN, Comparison, Turn, Workload, before_goes_first, compare
from benchmarks.generator import LoadGenerator
from benchmarks.machine import Watch
from benchmarks.measuring import HOLDS_MARGIN, HOLDS_PREPARED_PER_SECOND
from benchmarks.rounds import PrepareHolds, Round, RoundResult
from benchmarks.stage import Stage


class TurnsPace(msgspec.Struct, frozen=True):
    """How long a comparison takes."""

    turns: int
    """Of each workload, if they settle it."""
    turns_max: int
    """Of a workload that is not settled by then: the machine was busy, or the ratio is too near the bound."""
    seconds: float
    """The length of a round; a turn is two of them."""
    warm_up_seconds: float
    more_seconds_max: float
    """What all turns beyond `turns` may take together."""


QUICK_TURNS = TurnsPace(turns=6, turns_max=12, seconds=0.75, warm_up_seconds=0.2, more_seconds_max=30)
FULL_TURNS = TurnsPace(turns=12, turns_max=24, seconds=2.0, warm_up_seconds=0.5, more_seconds_max=300)


class TakingTurns:
    """Measures workloads in both stages.

    Args:
        bound: the least ratio that counts as kept.
        turn_done: called after each turn, with what was measured and its ratio.
    """

    def __init__(
        self,
        before: Stage,
        now: Stage,
        generator: LoadGenerator,
        pace: TurnsPace,
        turn_done: Callable[[Workload, Turn], None],
        *,
        bound: float = RATIO_MIN,
    ) -> None:
        self._before = before
        self._now = now
        self._generator = generator
        self._pace = pace
        self._turn_done = turn_done
        self._bound = bound
        self._holds_wanted: dict[Workload, int] = {}
        self._more_seconds = pace.more_seconds_max

    def run(self, workload: Workload) -> Comparison:
        """Take turns until the workload is settled, or as many as may be. Raises: BenchmarkFailed."""
        for stage in (self._before, self._now):
            stage.target(workload.server)
        turns = [self._turn(workload, number) for number in range(self._pace.turns)]
        comparison = compare(workload, turns, self._bound)
        while not comparison.is_settled and len(turns) < self._pace.turns_max and self._more_seconds > 0:
            started = time.monotonic()
            turns.append(self._turn(workload, len(turns)))
            self._more_seconds -= time.monotonic() - started
            comparison = compare(workload, turns, self._bound)
        return comparison

    def _turn(self, workload: Workload, number: int) -> Turn:
        stages = (self._before, self._now) if before_goes_first(number) else (self._now, self._before)
        for stage in stages:
            self._prepare(workload, stage)
        watch = Watch()
        done = {stage: self._round(workload, stage) for stage in stages}
        busy = watch.busy()
        (before, cpu_before), (now, cpu_now) = done[self._before], done[self._now]
        self._holds_wanted[workload] = int(max(before.calls_in_all, now.calls_in_all) * HOLDS_MARGIN)
        turn = Turn(before, now, cpu_before, cpu_now, busy)
        self._turn_done(workload, turn)
        return turn

    def _prepare(self, workload: Workload, stage: Stage) -> None:
        if workload.work in {"commit", "cancel"}:
            at_first = (self._pace.seconds + self._pace.warm_up_seconds) * HOLDS_PREPARED_PER_SECOND
            holds = self._holds_wanted.get(workload, int(at_first))
            self._generator.prepare(PrepareHolds(stage.target(workload.server), workload.work, holds))

    def _round(self, workload: Workload, stage: Stage) -> tuple[RoundResult, float]:
        cpu_before = stage.cpu_seconds(workload.server, self._generator.pid)
        result = self._generator.run(
            Round(
                stage.target(workload.server),
                workload.work,
                workload.callers,
                self._pace.warm_up_seconds,
                self._pace.seconds * workload.length,
            )
        )
        cpu_after = stage.cpu_seconds(workload.server, self._generator.pid)
        stage.settle(workload.server)
        used = sum(cpu_after[process] - cpu_before[process] for process in cpu_after if process != "generator")
        return result, used / (result.calls_in_all or 1) * 1e6
