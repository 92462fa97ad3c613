"""A campaign: all kinds of senders at once against both services, a polite caller beside them, and its outcome."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from service_kit.progress import Progress
from tests.kits.attacked import Attacked, resident_mib
from tests.kits.processes import ROOT

SHARES = {"http": 0.4, "grpc": 0.45, "frames": 0.15}
"""Of all requests, by kind."""
KINDS = tuple(SHARES)
P99_FACTOR_MAX = 5.0
MEMORY_GROWTH_MIB_MAX = 150.0
"""Of either service, from a tenth of the time to the end."""
CALM_SECONDS = 5.0
SURPRISES = (
    "unforeseen",
    "call_failed",
    "failed_outside",
    "Unhandled",
    "never retrieved",
    "Unexpected ",
    "MemoryError",
)


@dataclass
class Outcome:
    """What came of a campaign.

    Attributes:
        answers: how often each status came, by kind.
        rate: that was wanted; 0: as fast as may be.
        calm, beside_generator, beside: the polite caller's figures without anything else, while the same requests are
            made and sent to a sink, and with the attack.
        memory_mib: of each service, early and at the end.
        findings: what must not be; empty if all is well.
    """

    rate: float = 0
    seconds: float = 0
    requests: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    calm: dict[str, Any] = field(default_factory=dict)
    beside_generator: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    memory_mib: dict[str, tuple[float, float]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        lines = [f"{self.requests:,} requests in {self.seconds:.0f} s ({self.requests / self.seconds:,.0f} a second)"]
        for kind, answers in self.answers.items():
            told = ", ".join(f"{answer}: {count:,}" for answer, count in answers.most_common())
            lines.append(f"  {kind}: {told}")
        figures = {
            "alone": self.calm,
            "beside the generator only": self.beside_generator,
            "beside the attack": self.beside,
        }
        for when, found in figures.items():
            if found:
                lines.append(f"a polite caller {when}: p50 {found.get('p50_ms')} ms, p99 {found.get('p99_ms')} ms")
        without = self.beside_generator or self.calm
        if without.get("p99_ms") and self.beside.get("p99_ms"):
            lines.append(
                f"p99 beside the attack: {self.beside['p99_ms'] / without['p99_ms']:.1f} times that without it"
            )
        for name, (early, late) in self.memory_mib.items():
            lines.append(f"memory of the {name}: {early:.0f} MiB early on, {late:.0f} MiB at the end")
        return "\n".join(lines + [f"FOUND: {finding}" for finding in self.findings])


def campaign(
    shop: Attacked,
    seed: int,
    *,
    seconds_max: float = float("inf"),
    requests_max: float = float("inf"),
    rate: float = 0,
    judge_latency: bool = False,
) -> Outcome:
    """Attack until one of the two is reached.

    Args:
        rate: requests a second, of all kinds; 0: as fast as they are answered.
        judge_latency: whether a polite caller who has to wait too long is a finding; this takes a rate.
    """
    made = Outcome(rate=rate)
    seconds_calm = min(CALM_SECONDS, seconds_max / 4)
    with _polite(shop):
        # What is done for the first time takes longer.
        time.sleep(min(1.0, seconds_calm / 4))
    with _polite(shop) as made.calm:
        time.sleep(seconds_calm)
    if judge_latency:
        with _sink() as port, _senders(shop, seed, rate, port), _polite(shop) as made.beside_generator:
            time.sleep(seconds_calm)
    began = time.monotonic()
    with _senders(shop, seed, rate) as senders, _polite(shop) as made.beside:
        early = _watch(shop, made, senders, seconds_max, requests_max)
    made.seconds = time.monotonic() - began
    for kind, sender in senders.items():
        made.answers[kind] = Counter(sender.last.get("answers", {}))
        made.findings += sender.last.get("bad", [f"the sender of {kind} ended without a word"])
        if sender.has_failed:
            made.findings.append(f"the sender of {kind} ended before its time")
    _judge(shop, made, early, judge_latency=judge_latency)
    return made


def _judge(shop: Attacked, made: Outcome, early: dict[str, float], *, judge_latency: bool) -> None:
    for name, pid in (("gateway", shop.gateway.pid), ("warehouse", shop.warehouse.pid)):
        if pid is None:
            made.findings.append(f"the {name} is dead")
            continue
        made.memory_mib[name] = (early[name], resident_mib(pid))
        if made.memory_mib[name][1] - early[name] > MEMORY_GROWTH_MIB_MAX:
            made.findings.append(f"the {name} has grown by more than {MEMORY_GROWTH_MIB_MAX:g} MiB")
    surprised = [line for line in shop.logs().splitlines() if any(word in line for word in SURPRISES)]
    # What can't be read as HTTP is told with a traceback by the library, in words that are known.
    surprised = [line for line in surprised if "aiohttp.http_exceptions" not in line]
    # Contention and deadlines are no surprise: many senders want the same three products.
    surprised = [
        line for line in surprised if '"code":"ABORTED"' not in line and '"code":"DEADLINE_EXCEEDED"' not in line
    ]
    made.findings += [f"in a log: {line[:3000]}" for line in surprised[:5]]
    if not made.beside.get("calls") or made.beside["wrong"]:
        made.findings.append(f"the polite caller was not served well: {made.beside}")
    elif judge_latency and made.beside["p99_ms"] > P99_FACTOR_MAX * made.beside_generator["p99_ms"]:
        made.findings.append(f"the polite caller's p99 was more than {P99_FACTOR_MAX:g} times that without the attack")


def _watch(
    shop: Attacked, made: Outcome, senders: Mapping[str, "_Sender"], seconds_max: float, requests_max: float
) -> dict[str, float]:
    """Wait until it is over; what memory the services had after a tenth of it."""
    began, early, progress = time.monotonic(), dict[str, float](), Progress("requests")
    while shop.gateway.pid and shop.warehouse.pid and not any(sender.has_failed for sender in senders.values()):
        made.requests = sum(sender.last.get("requests", 0) for sender in senders.values())
        share = max((time.monotonic() - began) / seconds_max, made.requests / requests_max)
        memory = {"gateway": resident_mib(shop.gateway.pid), "warehouse": resident_mib(shop.warehouse.pid)}
        if not early and share >= 0.1:
            early = memory
        progress.note(made.requests, share, ", ".join(f"{name} {mib:.0f} MiB" for name, mib in memory.items()))
        if share >= 1:
            break
        time.sleep(min(0.2, seconds_max / 20))
    progress.end()
    return early or {"gateway": 0.0, "warehouse": 0.0}


class _Sender:
    """A process that attacks, and what it said last."""

    def __init__(self, kind: str, where: str, seed: int, rate: float, sink: int) -> None:
        self.last: dict[str, Any] = {}
        self._process = _start(kind, where, str(seed), str(rate), str(sink))
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    @property
    def has_failed(self) -> bool:
        """It has ended by itself; one that was told to end has not."""
        return (self._process.poll() or 0) > 0

    def end(self) -> None:
        """It is over."""
        with self._process:
            self._process.terminate()
            self._reading.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.last = json.loads(line)


@contextmanager
def _senders(shop: Attacked, seed: int, rate: float, sink: int = 0) -> Iterator[dict[str, _Sender]]:
    """All kinds, for the time of the `with`; to a sink, if its port is given."""
    targets = {"http": str(shop.port), "grpc": shop.target, "frames": shop.target}
    senders = {kind: _Sender(kind, targets[kind], seed, rate * SHARES[kind], sink) for kind in KINDS}
    try:
        yield senders
    finally:
        for sender in senders.values():
            sender.end()


@contextmanager
def _polite(shop: Attacked) -> Iterator[dict[str, Any]]:
    """A polite caller for the time of the `with`; then its figures are in what this gives."""
    figures: dict[str, Any] = {}
    with _start("caller", str(shop.port)) as process:
        try:
            yield figures
            figures.update(json.loads(process.communicate("", timeout=60)[0] or "{}"))
        finally:
            process.kill()


@contextmanager
def _sink() -> Iterator[int]:
    """A process that takes whatever comes, and its port."""
    with _start("sink") as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def _start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.fuzzing.sending", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
