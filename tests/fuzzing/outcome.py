"""What came of a campaign, and what of it must not be."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Judgement:
    """What is still well.

    Attributes:
        percentile: of the polite caller's latency, that is judged.
        latency_factor_max: how many times longer it may be beside the attack than alone, and than beside the generator.
        cost_factor_max: how many times more processor time of both services a request of the attack may take than a
            polite call, on average.
        memory_from_share: of the campaign, after which a service must not grow by more than `memory_growth_mib_max`;
            see `Memory`.
    """

    percentile: int
    latency_factor_max: float
    cost_factor_max: float
    memory_from_share: float
    memory_growth_mib_max: float


MEMORY_SHARE = 0.2
LONG = Judgement(99, 5, 0.5, 0.1, 150)
"""Of `make fuzz`."""
SHORT = Judgement(50, 8, 0.5, 0.3, 25)
"""Of the test in `make test`, whose windows hold some hundred calls, on a machine where others are busy, too.

A 99th percentile would rest on two or three calls there; the 90th was seen at 5 times the calm one, and the median at
2.4, with four times the load that the processors can take. Processor time is the services' own, whoever else wants it,
and its ratio was between 0.16 and 0.20 in all of that.
"""


@dataclass
class Window:
    """What a polite caller has seen for a time.

    Attributes:
        ms: how long its calls took, in milliseconds.
        wrong: answers other than 200.
        processor_seconds: that both services had meanwhile.
    """

    ms: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    processor_seconds: float = 0

    def __add__(self, other: "Window") -> "Window":
        """Both as if they were one."""
        return Window(self.ms + other.ms, self.wrong + other.wrong, self.processor_seconds + other.processor_seconds)

    def percentile(self, percent: int) -> float:
        """In milliseconds; 0 if there were no calls."""
        ordered = sorted(self.ms)
        return ordered[len(ordered) * percent // 100] if ordered else 0.0

    def text(self) -> str:
        """For people."""
        told = ", ".join(f"p{percent} {self.percentile(percent):.1f} ms" for percent in (50, 90, 99))
        return f"{told} ({len(self.ms):,} calls)"


class Memory:
    """What the services have, early and late.

    Of a time each, the least, and late also when it is quiet again: a password's check takes 64 MiB for a moment.

    Args:
        from_share: of the campaign, after which the early time begins; it and the late one, at the end, last a fifth.
    """

    def __init__(self, from_share: float) -> None:
        self._from_share = from_share
        self._looks: list[tuple[float, Mapping[str, float]]] = []

    def note(self, share: float, mib: Mapping[str, float]) -> None:
        """What each has after so much of the campaign."""
        self._looks.append((share, mib))

    def early_and_late(self) -> dict[str, tuple[float, float]]:
        """Of each service, in MiB."""
        early = self._least(self._from_share, self._from_share + MEMORY_SHARE)
        late = self._least(1 - MEMORY_SHARE, float("inf"))
        return {name: (early[name], late[name]) for name in early.keys() & late.keys()}

    def _least(self, begin: float, end: float) -> Mapping[str, float]:
        found = [mib for share, mib in self._looks if begin <= share <= end]
        return {name: min(mib[name] for mib in found) for name in (found[0] if found else ())}


class Costs(NamedTuple):
    """Processor time of both services, in milliseconds."""

    request: float
    polite_call: float


@dataclass
class Outcome:
    """What came of a campaign.

    Attributes:
        rate: that was wanted; 0: as fast as may be.
        answers: how often each status came, by kind.
        alone, beside_generator: the polite caller without anything else, and while the same requests are made and sent
            to a sink; each before the attack and after it.
        beside: the polite caller beside the attack.
        memory_mib: of each service, early and at the end.
        findings: what must not be; empty if all is well.
    """

    rate: float = 0
    seconds: float = 0
    requests: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    alone: list[Window] = field(default_factory=list)
    beside_generator: list[Window] = field(default_factory=list)
    beside: Window = field(default_factory=Window)
    memory_mib: dict[str, tuple[float, float]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def factors(self, percent: int) -> Mapping[str, float]:
        """How many times longer a percentile of the latency is beside the attack than without it."""
        calm = {"alone": sum(self.alone, Window()), "beside the generator only": sum(self.beside_generator, Window())}
        return {
            when: self.beside.percentile(percent) / window.percentile(percent)
            for when, window in calm.items()
            if window.ms
        }

    def costs(self) -> Costs:
        """What a request of the attack costs the services on average, and what a polite call does."""
        alone = sum(self.alone, Window())
        call = alone.processor_seconds / max(len(alone.ms), 1)
        attack = self.beside.processor_seconds - call * len(self.beside.ms)
        return Costs(attack / max(self.requests, 1) * 1000, call * 1000)

    def text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        rate = self.requests / max(self.seconds, 0.001)
        yield f"{self.requests:,} requests in {self.seconds:.0f} s ({rate:,.0f} a second)"
        for kind, answers in self.answers.items():
            told = ", ".join(f"{answer}: {count:,}" for answer, count in answers.most_common())
            yield f"  {kind} ({answers.total():,}): {told}"
        yield "a polite caller"
        for when, windows in (("alone", self.alone), ("beside the generator only", self.beside_generator)):
            for before, window in zip(("before", "after"), windows, strict=False):
                yield f"  {when}, {before}: {window.text()}"
        yield f"  beside the attack: {self.beside.text()}"
        for percent in (50, 90, 99):
            told = ", ".join(f"{factor:.1f} x {when}" for when, factor in self.factors(percent).items())
            yield f"p{percent} beside the attack: {told}"
        costs = self.costs()
        yield (
            f"processor time of both services: {costs.request:.2f} ms for a request of the attack, "
            f"{costs.polite_call:.2f} ms for a polite call"
        )
        for name, (early, late) in self.memory_mib.items():
            yield f"memory of the {name}: {early:.0f} MiB early on, {late:.0f} MiB at the end"
        yield from (f"FOUND: {finding}" for finding in self.findings)

    def judge(self, bounds: Judgement, *, latency: bool) -> Iterator[str]:
        """What is not well.

        Args:
            latency: whether it is judged, too.
        """
        for name, (early, late) in self.memory_mib.items():
            if late - early > bounds.memory_growth_mib_max:
                yield f"the {name} has grown by more than {bounds.memory_growth_mib_max:g} MiB"
        for window in (*self.alone, *self.beside_generator, self.beside):
            if not window.ms or window.wrong:
                yield f"the polite caller was not served well: {window.text()}, {dict(window.wrong)}"
        if latency:
            for when, factor in self.factors(bounds.percentile).items():
                if factor > bounds.latency_factor_max:
                    yield (
                        f"the polite caller's p{bounds.percentile} beside the attack was {factor:.1f} times "
                        f"that {when}, more than {bounds.latency_factor_max:g}"
                    )
        costs = self.costs()
        if costs.request > bounds.cost_factor_max * costs.polite_call:
            yield f"a request of the attack costs more than {bounds.cost_factor_max:g} times what a polite call does"
