"""The pure parts of comparing two revisions: turns, ratios, verdicts, and what else ran on the machine."""

import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import machine, processors
from benchmarks.against import (
    WORKLOADS,
    Comparison,
    Outcome,
    Turn,
    before_goes_first,
    chosen_workloads,
    compare,
    interval_of_median,
)
from benchmarks.comparison_report import ComparisonReport, markdown, row
from benchmarks.machine import NOBODY, Busy
from benchmarks.rounds import RoundResult
from benchmarks.taking_turns import QUICK_TURNS
from benchmarks.trees import differing_requirements
from benchmarks.workloads import Leg, Server, Target, judge, summarize

BUSY = Busy(3.0, 10.0, {"cc1 big.c": 2.5})


def result(per_second: float, unexpected: int = 0) -> RoundResult:
    return RoundResult(
        seconds=1,
        per_second=per_second,
        p50_ms=1,
        p99_ms=2,
        max_ms=4,
        calls=int(per_second),
        calls_in_all=int(per_second),
        statuses={"OK": int(per_second)},
        unexpected=unexpected,
        first_unexpected="UNAVAILABLE: away" if unexpected else "",
    )


def turn(ratio: float, busy: Busy = NOBODY, unexpected: int = 0) -> Turn:
    return Turn(result(1000), result(1000 * ratio, unexpected), 300, 310, busy)


def compared(*turns: Turn) -> Comparison:
    return compare(WORKLOADS[0], list(turns))


def test_a_revision_that_is_as_fast_has_kept_it() -> None:
    found = compared(*(turn(ratio) for ratio in (0.97, 1.02, 0.99, 1.01, 1.0, 0.98)))
    assert found.outcome is Outcome.KEPT
    assert found.ratio == pytest.approx(0.995)
    assert (found.lowest, found.highest) == (0.97, 1.02)


def test_a_revision_that_is_slower_each_time_is_slower() -> None:
    found = compared(*(turn(ratio) for ratio in (0.90, 0.88, 0.91, 0.92, 0.87, 0.94)))
    assert found.outcome is Outcome.SLOWER
    assert found.is_settled


def test_a_revision_that_is_faster_each_time_is_faster() -> None:
    assert compared(*(turn(ratio) for ratio in (1.2, 1.1, 1.15, 1.3, 1.2, 1.1))).outcome is Outcome.FASTER


def test_a_low_ratio_among_turns_that_differ_widely_is_unclear() -> None:
    found = compared(*(turn(ratio) for ratio in (0.7, 1.2, 0.93, 0.9, 1.1, 0.8)))
    assert found.outcome is Outcome.UNCLEAR
    assert not found.is_settled


def test_turns_beside_busy_programs_do_not_count() -> None:
    quiet = [turn(1.0)] * 3
    found = compared(*quiet, *[turn(0.5, BUSY)] * 5)
    assert found.outcome is Outcome.KEPT
    assert (found.turns, found.quiet_turns, found.ratio) == (8, 3, 1.0)


def test_three_quiet_turns_are_too_few_to_call_it_slower() -> None:
    found = compared(*[turn(0.8)] * 3, *[turn(0.8, BUSY)] * 3)
    assert found.outcome is Outcome.UNCLEAR
    assert compared(*[turn(0.8)] * 6).outcome is Outcome.SLOWER


def test_too_few_quiet_turns_are_not_comparable() -> None:
    found = compared(turn(1.0), turn(1.0), *[turn(0.5, BUSY)] * 6)
    assert found.outcome is Outcome.NOT_COMPARABLE
    assert not found.is_settled
    assert found.busy.programs == {"cc1 big.c": 15.0}


def test_calls_that_fail_are_told_even_in_a_busy_turn() -> None:
    found = compared(*[turn(1.0)] * 5, turn(1.0, BUSY, unexpected=2))
    assert found.outcome is Outcome.FAILED
    assert row(found)[-1] == "failed: 2 calls, the first: UNAVAILABLE: away"


def test_nothing_answered_is_a_failure() -> None:
    assert compared(*[turn(0.0)] * 6).outcome is Outcome.FAILED


def test_the_interval_of_few_values_is_all_of_them() -> None:
    assert interval_of_median([0.9, 1.0, 1.1]) == (0.9, 1.1)
    assert interval_of_median([1.0]) == (1.0, 1.0)


def test_the_interval_leaves_out_what_it_may() -> None:
    values = [float(number) for number in range(12)]
    assert interval_of_median(values) == (2.0, 9.0)


@pytest.mark.parametrize("count", [6, 9, 12, 24])
def test_the_interval_holds_the_true_median_as_often_as_it_says(count: int) -> None:
    draws = random.Random(count)
    samples = [sorted(draws.gauss(1, 0.2) for _ in range(count)) for _ in range(2000)]
    intervals = [interval_of_median(sample) for sample in samples]
    assert sum(low <= 1 <= high for low, high in intervals) / len(intervals) >= 0.94


def test_neither_revision_always_begins() -> None:
    assert [before_goes_first(number) for number in range(5)] == [True, False, False, True, True]


def test_what_every_change_is_judged_by_is_among_the_workloads() -> None:
    works = {(one.work, one.callers) for one in WORKLOADS}
    reserve = {("reserve-hot", 256), ("reserve-spread", 256), ("reserve-hot", 1), ("batch-reserve", 16)}
    assert works == reserve | {(work, 256) for work in ("commit", "cancel", "check-stock", "order", "order-queued")}
    assert [one.name for one in chosen_workloads(["orders", "hot"])] == ["hot", "orders"]
    with pytest.raises(ValueError, match="There is no warp"):
        chosen_workloads(["warp"])


def test_a_missed_target_on_a_busy_machine_is_not_comparable() -> None:
    leg = Leg(Server.WAREHOUSE, "reserve-hot", (256,))
    target = Target("t", "title", leg, leg, 0.85)
    ours, busy, quiet = (
        [result(500)],
        summarize(leg, 256, [result(500)], {}, BUSY),
        summarize(leg, 256, [result(1000)], {}),
    )
    assert not judge(target, busy, quiet).comparable
    assert not judge(target, summarize(leg, 256, ours, {}), summarize(leg, 256, [result(1000)], {}, BUSY)).comparable
    assert judge(target, summarize(leg, 256, ours, {}), quiet).comparable
    reached = judge(target, summarize(leg, 256, [result(1000)], {}, BUSY), quiet)
    assert reached.reached
    assert reached.comparable


def test_failed_calls_are_missed_on_a_busy_machine_too() -> None:
    leg = Leg(Server.WAREHOUSE, "reserve-hot", (256,))
    failed = summarize(leg, 256, [result(500, unexpected=1)], {}, BUSY)
    assert judge(Target("t", "title", leg, leg, 0.85), failed, summarize(leg, 256, [result(1000)], {})).comparable


def test_used_and_available_processor_time_come_from_the_first_line() -> None:
    ticks = processors.TICKS_PER_SECOND
    line = " ".join(str(seconds * ticks) for seconds in (10, 1, 5, 100, 20, 1, 2, 4, 7, 7))
    assert machine.processor_times(f"cpu  {line}\ncpu0 1 1 1 1\n") == (23.0, 143.0)
    assert machine.processor_times("") == (0.0, 0.0)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (b"/usr/bin/python3\0-m\0pytest\0/a/b/test_x.py\0-q\0", "python3 -m pytest"),
        (b"python\0-I\0/home/me/tool.py\0--password=secret\0", "python tool.py"),
        (b"bash\0-c\0export PASSWORD=secret\nrun\0", "bash"),
        (b"mysql\0-psecret\0mysql://u:secret@host\0", "mysql"),
        (b"", "kworker/0:1"),
    ],
)
def test_programs_are_named_without_their_secrets(command: bytes, name: str) -> None:
    assert machine.program_name(command, "kworker/0:1") == name


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="there is no /proc here")
def test_our_own_work_is_not_that_of_others() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        for_us = {pid for pid, _ in machine.other_processes(os.getpid())}
        for_child = {pid for pid, _ in machine.other_processes(child.pid)}
        watch = machine.Watch(child.pid)
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        busy = watch.busy()
        assert child.stdin is not None
        child.stdin.write(b"\n")
    assert not for_us & {os.getpid(), child.pid}
    assert os.getpid() in for_child
    assert child.pid not in for_child
    assert busy.seconds >= 0.15
    assert 0 < busy.share <= 1


def test_other_requirements_are_remarked_on(tmp_path: Path) -> None:
    for name, pins in (("now", "a==1\n"), ("same", "a==1\n"), ("other", "a==2\n")):
        (tmp_path / name / "requirements").mkdir(parents=True)
        (tmp_path / name / "requirements" / "runtime.txt").write_text(pins)
    assert differing_requirements(tmp_path / "now", tmp_path / "same") == ()
    (remark,) = differing_requirements(tmp_path / "now", tmp_path / "other")
    assert "requirements/runtime.txt differs" in remark


def test_the_page_names_both_revisions_their_figures_and_what_else_ran() -> None:
    comparisons = [compared(*[turn(1.0)] * 6), compared(*[turn(0.5, BUSY)] * 6)]
    report = ComparisonReport(
        taken_at=datetime(2026, 11, 25, tzinfo=UTC),
        seconds=12,
        before="abc1234",
        now="def5678 with changes",
        bound=0.95,
        pace=QUICK_TURNS,
        facts={"processors": "2"},
        remarks=["requirements differ"],
        comparisons=comparisons,
        busy=BUSY,
        load_average=(3.0, 2.0, 1.0),
        audits={"warehouse_now": ""},
    )
    page = markdown(report)
    assert "# def5678 with changes, compared with abc1234" in page
    assert "| Reserve, one hot product | 256 | 1,000 | 1,000 | 1.00 | 1.00..1.00 |" in page
    assert "1 kept, 1 not comparable" in page
    assert "other programs used 30% of the processors (the busiest, by processor time: cc1 big.c 2.5 s)" in page
    assert "load average 3.00" in page
    assert "requirements differ" in page
