"""A campaign: all kinds of senders at once against both services, a polite caller beside them, and its outcome."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.attacks.attacked import Attacked, resident_mib
from tests.processes import ROOT

KINDS = ("http", "grpc", "frames")
P99_FACTOR_MAX = 5.0
P99_UNNOTICED_MS = 50.0
"""A p99 that is within this is nothing to worry about, whatever it was before."""
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
        calm, beside: the polite caller's figures without and with the attack.
        memory_mib: of each service, early and at the end.
        findings: what must not be; empty if all is well.
    """

    seconds: float = 0
    requests: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    calm: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    memory_mib: dict[str, tuple[float, float]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        lines = [f"{self.requests:,} requests in {self.seconds:.0f} s ({self.requests / self.seconds:,.0f} a second)"]
        for kind, answers in self.answers.items():
            told = ", ".join(f"{answer}: {count:,}" for answer, count in answers.most_common())
            lines.append(f"  {kind}: {told}")
        lines.append(
            f"a polite caller's p99: {self.calm.get('p99_ms')} ms alone, {self.beside.get('p99_ms')} ms beside"
        )
        for name, (early, late) in self.memory_mib.items():
            lines.append(f"memory of the {name}: {early:.0f} MiB early on, {late:.0f} MiB at the end")
        return "\n".join(lines + [f"FOUND: {finding}" for finding in self.findings])


def campaign(
    shop: Attacked, seconds: float, seed: int, *, judge_latency: bool, report: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Attack for so long.

    Args:
        judge_latency: whether a polite caller who has to wait too long is a finding.
        report: is told every few seconds how far it is.
    """
    made = Outcome()
    made.calm = _polite(shop, min(CALM_SECONDS, seconds / 4))
    began = time.monotonic()
    targets = {"http": str(shop.port), "grpc": shop.target, "frames": shop.target}
    senders = {kind: _sender(kind, targets[kind], str(seed), str(seconds)) for kind in KINDS}
    caller = _sender("caller", str(shop.port), str(seconds * 0.9))
    try:
        early = _watch(shop, began, seconds, report)
        lines = {kind: sender.communicate(timeout=60)[0].splitlines() for kind, sender in senders.items()}
        made.beside = json.loads(caller.communicate(timeout=60)[0] or "{}")
    finally:
        for one in (*senders.values(), caller):
            one.kill()
    made.seconds = time.monotonic() - began
    for kind, told in lines.items():
        if not told:
            made.findings.append(f"the sender of {kind} ended without a word")
            continue
        last = json.loads(told[-1])
        made.requests += last["requests"]
        made.answers[kind] = Counter(last["answers"])
        made.findings += last["bad"]
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
    elif judge_latency and made.beside["p99_ms"] > max(P99_UNNOTICED_MS, P99_FACTOR_MAX * made.calm["p99_ms"]):
        made.findings.append(
            f"the polite caller's p99 was {made.beside['p99_ms']} ms, {made.calm['p99_ms']} ms without the attack"
        )


def _watch(shop: Attacked, began: float, seconds: float, report: Callable[[str], None]) -> dict[str, float]:
    """Wait until the time is over; what memory the services had after a tenth of it."""
    early: dict[str, float] = {}
    while (elapsed := time.monotonic() - began) < seconds and shop.gateway.pid and shop.warehouse.pid:
        memory = {"gateway": resident_mib(shop.gateway.pid), "warehouse": resident_mib(shop.warehouse.pid)}
        if not early and elapsed >= seconds / 10:
            early = memory
        report(
            f"{elapsed:.0f} of {seconds:.0f} s; " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in memory.items())
        )
        time.sleep(min(1.0, seconds / 20))
    return early or {"gateway": 0.0, "warehouse": 0.0}


def _polite(shop: Attacked, seconds: float) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_sender("caller", str(shop.port), str(seconds)).communicate(timeout=60)[0])
    return told


def _sender(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.fuzzing.sending", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
