"""A campaign: all kinds of senders at once against both services, a polite caller beside them, and its outcome."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from service_kit.progress import Progress
from tests.fuzzing.outcome import LONG, Judgement, Memory, Outcome, Window
from tests.kits.attacked import Attacked, cpu_seconds, resident_mib
from tests.kits.processes import ROOT
from tests.kits.secrets_used import found_in

SHARES = {"http": 0.35, "schemathesis": 0.05, "grpc": 0.45, "frames": 0.15}
"""Of all requests, by kind. To make what schemathesis sends takes 8 ms of a processor each."""
KINDS = tuple(SHARES)
CALM_SECONDS = 30.0
"""Of each of the four windows without the attack: alone and beside the generator, before and after it."""
WARM_UP_SECONDS = 1.0
READY_SECONDS_MAX = 60
LOOK_SECONDS = 0.2
SURPRISES = (
    "unforeseen",
    "call_failed",
    "failed_outside",
    "Unhandled",
    "never retrieved",
    "Unexpected ",
    "MemoryError",
    "Traceback",
)
EXPECTED = ('"code":"ABORTED"', '"code":"DEADLINE_EXCEEDED"')
"""Contention and deadlines are no surprise: many senders want the same three products."""


def campaign(
    shop: Attacked,
    seed: int,
    *,
    seconds_max: float = float("inf"),
    requests_max: float = float("inf"),
    rate: float = 0,
    calm_seconds: float = CALM_SECONDS,
    has_sink: bool = True,
    bounds: Judgement = LONG,
) -> Outcome:
    """Attack until one of the two is reached.

    Args:
        rate: requests a second, of all kinds; 0: as fast as they are answered, and latency is not judged.
        calm_seconds: of each window without the attack.
        has_sink: whether there are windows beside the generator alone; each takes the start of all senders, too.
        bounds: what is still well.
    """
    made = Outcome(rate=rate)
    # What is done for the first time takes longer.
    _calm(shop, WARM_UP_SECONDS)
    made.alone.append(_calm(shop, calm_seconds))
    if rate and has_sink:
        made.beside_generator.append(_beside_generator(shop, seed, rate, calm_seconds))
    with _senders(shop, seed, rate) as senders, _polite(shop) as made.beside:
        memory = _watch(shop, made, senders, seconds_max, requests_max, bounds.memory_from_share)
    for kind, sender in senders.items():
        made.answers[kind] = Counter(sender.last.get("answers", {}))
        made.findings += sender.last.get("bad", [f"the sender of {kind} ended without a word"])
        if sender.has_failed:
            made.findings.append(f"the sender of {kind} ended before its time")
    if shop.gateway.pid and shop.warehouse.pid:
        if rate and has_sink:
            made.beside_generator.append(_beside_generator(shop, seed + 1, rate, calm_seconds))
        made.alone.append(_calm(shop, calm_seconds))
        memory.note(1, _memory_mib(shop))
    made.memory_mib = memory.early_and_late()
    made.findings += made.judge(bounds, latency=bool(rate))
    made.findings += _found_in_processes(shop)
    return made


def _calm(shop: Attacked, seconds: float) -> Window:
    with _polite(shop) as window:
        time.sleep(seconds)
    return window


def _beside_generator(shop: Attacked, seed: int, rate: float, seconds: float) -> Window:
    with _sink() as port, _senders(shop, seed, rate, port) as senders:
        window = _calm(shop, seconds)
        assert not any(sender.has_failed for sender in senders.values()), "a sender to the sink ended before its time"
    return window


def _found_in_processes(shop: Attacked) -> Iterator[str]:
    for name, process in (("gateway", shop.gateway), ("warehouse", shop.warehouse)):
        if process.pid is None:
            yield f"the {name} is dead"
        yield from (f"a secret in a log: {where}" for where in found_in([process.log_path]))
    lines = (line for line in shop.logs().splitlines() if any(word in line for word in SURPRISES))
    surprised = [line for line in lines if not any(word in line for word in EXPECTED)]
    yield from (f"in a log: {line[:3000]}" for line in surprised[:5])


def _watch(
    shop: Attacked,
    made: Outcome,
    senders: Mapping[str, "_Sender"],
    seconds_max: float,
    requests_max: float,
    early_share: float,
) -> Memory:
    """Wait until it is over; what memory the services had meanwhile."""
    began, progress, memory = time.monotonic(), Progress("requests"), Memory(early_share)
    # Some kinds take longer to begin than others.
    before = sum(sender.requests for sender in senders.values())
    while shop.gateway.pid and shop.warehouse.pid and not any(sender.has_failed for sender in senders.values()):
        made.seconds = time.monotonic() - began
        made.requests = sum(sender.requests for sender in senders.values()) - before
        share = max(made.seconds / seconds_max, made.requests / requests_max)
        now = _memory_mib(shop)
        memory.note(share, now)
        progress.note(made.requests, share, ", ".join(f"{name} {mib:.0f} MiB" for name, mib in now.items()))
        if share >= 1:
            break
        time.sleep(LOOK_SECONDS)
    progress.end()
    return memory


def _memory_mib(shop: Attacked) -> dict[str, float]:
    processes = {"gateway": shop.gateway, "warehouse": shop.warehouse}
    return {name: resident_mib(process.pid) for name, process in processes.items() if process.pid}


class _Sender:
    """A process that attacks, and what it said last."""

    def __init__(self, kind: str, where: str, seed: int, rate: float, sink: int) -> None:
        self.last: dict[str, Any] = {}
        self._has_begun = threading.Event()
        self._process = _start(kind, where, str(seed), str(rate), str(sink))
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    @property
    def requests(self) -> int:
        """How many it has sent."""
        return int(self.last.get("requests", 0))

    @property
    def has_failed(self) -> bool:
        """It has ended by itself; one that was told to end has not."""
        return (self._process.poll() or 0) > 0

    def await_begin(self) -> None:
        """Wait until all is made that it takes, and it sends; or it has failed."""
        self._has_begun.wait(READY_SECONDS_MAX)

    def end(self) -> None:
        """It is over."""
        with self._process:
            self._process.terminate()
            self._reading.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.last = json.loads(line)
            self._has_begun.set()
        self._has_begun.set()


@contextmanager
def _senders(shop: Attacked, seed: int, rate: float, sink: int = 0) -> Iterator[dict[str, _Sender]]:
    """All kinds, for the time of the `with`; to a sink, if its port is given."""
    targets = dict.fromkeys(("http", "schemathesis"), str(shop.port)) | dict.fromkeys(("grpc", "frames"), shop.target)
    senders = {kind: _Sender(kind, targets[kind], seed, rate * SHARES[kind], sink) for kind in KINDS}
    try:
        for sender in senders.values():
            sender.await_begin()
        yield senders
    finally:
        for sender in senders.values():
            sender.end()


@contextmanager
def _polite(shop: Attacked) -> Iterator[Window]:
    """A polite caller for the time of the `with`; then what it has seen is in the window that this gives."""
    window = Window()
    with _start("caller", str(shop.port)) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            before = _processor_seconds(shop)
            yield window
            window.processor_seconds = _processor_seconds(shop) - before
            seen = json.loads(process.communicate("", timeout=60)[0] or "{}")
            window.ms, window.wrong = seen.get("ms", []), Counter(seen.get("wrong", {}))
        finally:
            process.kill()


def _processor_seconds(shop: Attacked) -> float:
    """That both services have had; 0 of one that is dead."""
    return sum(cpu_seconds(pid) for pid in (shop.gateway.pid, shop.warehouse.pid) if pid is not None)


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
