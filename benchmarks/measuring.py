"""One run: which rounds are made in which order, and what they add up to."""

from collections import defaultdict
from collections.abc import Callable

import msgspec

from benchmarks.generator import LoadGenerator
from benchmarks.machine import Busy, Watch, together
from benchmarks.rounds import PrepareHolds, Round, RoundResult
from benchmarks.stage import Stage
from benchmarks.workloads import Group, Leg, Summary, Verdict, judge, summarize

HOLDS_PREPARED_PER_SECOND = 3_000
"""For the first round of Commit and Cancel; a round whose holds run out ends early."""
HOLDS_MARGIN = 1.5
"""For later rounds: how many times as many as the round before used."""


class Pace(msgspec.Struct, frozen=True):
    """How long everything takes."""

    rounds: int
    seconds: float
    warm_up_seconds: float
    trial_seconds: float
    """For each number of callers that is tried to find the best."""

    def rounds_of(self, groups: list[Group]) -> int:
        """How many rounds these groups take, trials included."""
        legs = [leg for group in groups for leg in group.legs]
        return sum(self.rounds + (len(leg.callers) if len(leg.callers) > 1 else 0) for leg in legs)


QUICK = Pace(rounds=3, seconds=1.2, warm_up_seconds=0.3, trial_seconds=0.8)
FULL = Pace(rounds=5, seconds=3.0, warm_up_seconds=0.5, trial_seconds=2.0)


class Measuring:
    """Makes the rounds of groups, one group after the other.

    Args:
        round_done: called after each round, with what it was.
    """

    def __init__(
        self, stage: Stage, generator: LoadGenerator, pace: Pace, round_done: Callable[[str, RoundResult], None]
    ) -> None:
        self._stage = stage
        self._generator = generator
        self._pace = pace
        self._round_done = round_done
        self.summaries: list[Summary] = []
        """Every leg of every group, and the trials, in the order of their measurement."""
        self._holds_wanted: dict[Leg, int] = defaultdict(
            lambda: int((pace.seconds + pace.warm_up_seconds) * HOLDS_PREPARED_PER_SECOND)
        )
        self._busy: list[Busy] = []

    @property
    def busy(self) -> Busy:
        """What programs outside the benchmark did during all rounds so far."""
        return together(self._busy)

    def run(self, group: Group) -> list[Verdict]:
        """Measure a group. Raises: BenchmarkFailed."""
        callers = {leg: self._best_callers(leg) for leg in group.legs}
        rounds: dict[Leg, list[RoundResult]] = defaultdict(list)
        cpu_seconds: dict[Leg, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        busy: dict[Leg, list[Busy]] = defaultdict(list)
        for _ in range(self._pace.rounds):
            for leg in group.legs:
                result, used = self._round(leg, callers[leg], self._pace.seconds)
                rounds[leg].append(result)
                busy[leg].append(self._busy[-1])
                for process, seconds in used.items():
                    cpu_seconds[leg][process] += seconds
        found = {
            leg: summarize(leg, callers[leg], rounds[leg], cpu_seconds[leg], together(busy[leg])) for leg in group.legs
        }
        self.summaries.extend(found.values())
        return [
            judge(target, found[target.leg], found[target.yardstick] if target.yardstick else None)
            for target in group.targets
        ]

    def _best_callers(self, leg: Leg) -> int:
        if len(leg.callers) == 1:
            return leg.callers[0]
        tried = []
        for callers in leg.callers:
            result, used = self._round(leg, callers, self._pace.trial_seconds)
            tried.append(summarize(leg, callers, [result], used))
        self.summaries.extend(tried)
        return max(tried, key=lambda one: one.per_second).callers

    def _round(self, leg: Leg, callers: int, seconds: float) -> tuple[RoundResult, dict[str, float]]:
        target = self._stage.target(leg.server)
        if leg.work in {"commit", "cancel"}:
            self._generator.prepare(PrepareHolds(target, leg.work, self._holds_wanted[leg]))
        watch = Watch()
        before = self._stage.cpu_seconds(leg.server, self._generator.pid)
        result = self._generator.run(Round(target, leg.work, callers, self._pace.warm_up_seconds, seconds))
        after = self._stage.cpu_seconds(leg.server, self._generator.pid)
        self._busy.append(watch.busy())
        self._stage.settle(leg.server)
        self._holds_wanted[leg] = int(result.calls_in_all * HOLDS_MARGIN)
        self._round_done(f"{leg.server} {leg.work} x{callers}", result)
        return result, {process: after[process] - before[process] for process in after}
