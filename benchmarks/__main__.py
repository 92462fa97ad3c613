"""`python -m benchmarks`: measure the warehouse beside its yardsticks, on a private database."""

import os
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.against import RATIO_MIN, WORKLOADS, Comparison, Outcome, Turn, Workload, chosen_workloads
from benchmarks.comparison_report import ComparisonReport, print_comparison, save_comparison
from benchmarks.database import CLOSED_RESERVATIONS
from benchmarks.generator import BenchmarkFailed, LoadGenerator
from benchmarks.machine import said, together
from benchmarks.measuring import FULL, QUICK, Measuring, Pace
from benchmarks.profiling import print_profiles
from benchmarks.reporting import Report, machine_facts, print_report, save
from benchmarks.rounds import RoundResult
from benchmarks.stage import Stage, private_database
from benchmarks.taking_turns import FULL_TURNS, QUICK_TURNS, TakingTurns, TurnsPace
from benchmarks.trees import checked_out, this_tree
from benchmarks.workloads import GROUPS, Group, chosen_groups
from development.local_server import ServerDidNotStart
from development.server_programs import ServerNotInstalled

_NAMES = ", ".join(target.name for group in GROUPS for target in group.targets)
_COMPARED = ", ".join(workload.name for workload in WORKLOADS)

MISSED, NOT_STARTED, NOT_COMPARABLE = 1, 2, 3
"""Exit statuses."""

WIDTH_OF_FILES = 150
"""Columns when the output is no terminal."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    full: Annotated[
        bool, typer.Option("--full", help="Longer rounds, more of them, and the slow workloads. About 15 minutes.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION",
            help="Compare with this revision (anything that git understands): 3 minutes, 15 with --full.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Only this one; may be repeated. One of: {_NAMES}. With --against: {_COMPARED}."),
    ] = None,
    least: Annotated[
        float, typer.Option(min=0.1, max=1, help="With --against: the least ratio that counts as kept.")
    ] = RATIO_MIN,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=50, help="Rounds per measurement; turns of each workload with --against.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.2, max=60, help="Length of a round, in seconds.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file as well.")] = None,
    output: Annotated[Path, typer.Option(help="Where results and charts are kept.")] = Path("benchmarks/results"),
    closed_reservations: Annotated[
        int, typer.Option(min=1, max=20_000_000, help="How many the workload `old` finds in the tables.")
    ] = CLOSED_RESERVATIONS,
    audit: Annotated[bool, typer.Option(help="Check the invariants in the databases afterwards.")] = True,
    profile: Annotated[
        bool, typer.Option("--profile", help="Run the warehouse under cProfile; figures are then too low.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Put the private database and the logs here, and leave them.")
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with 1 if a target is missed or something is slower, with 3 if that can't be told.",
        ),
    ] = False,
) -> None:
    """Measure the warehouse beside an empty call and beside a transaction per call, and judge it.

    A private database server, the warehouse, its yardsticks and one load generator run on this machine and share
    its processors; rounds of what is compared take turns. Close other programs first.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    folder = nullcontext(str(keep)) if keep else tempfile.TemporaryDirectory(prefix="warehouse-bench-")
    try:
        with folder as place:
            run = Run(Path(place), console, output, json, profile=profile, audit=audit)
            if against is None:
                groups = chosen_groups(only or [], full=full)
                written, status = _judge(run, groups, _pace(rounds, seconds, full=full), closed_reservations)
            else:
                workloads = chosen_workloads(only or [])
                written, status = _compare(run, workloads, _turns_pace(rounds, seconds, full=full), against, least)
            if profile:
                print_profiles(run.folder, console)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from error
    except (BenchmarkFailed, ServerDidNotStart, ServerNotInstalled) as error:
        console.print(f"The benchmark can't go on: {error}", style="red", markup=False)
        raise typer.Exit(NOT_STARTED) from error
    for path in written:
        console.print(f"written: {path}")
    if strict and status:
        raise typer.Exit(status)


@dataclass(frozen=True)
class Run:
    """Where and how it is measured.

    Attributes:
        folder: of the private database and the logs.
        output: where results and charts are kept.
        json: a file that gets the result as well.
    """

    folder: Path
    console: Console
    output: Path
    json: Path | None
    profile: bool
    audit: bool


def _judge(run: Run, groups: list[Group], pace: Pace, closed: int) -> tuple[list[Path], int]:
    """Measure against the targets. Returns: the files written, and the exit status that `--strict` gives."""
    report = _measured(run, groups, pace, closed)
    print_report(report, run.console)
    return save(report, run.output, run.json), _status_of_targets(report)


def _compare(
    run: Run, workloads: list[Workload], pace: TurnsPace, revision: str, least: float
) -> tuple[list[Path], int]:
    """Measure against another revision. Returns: as `_judge`."""
    report = _compared(run, workloads, pace, revision, least)
    print_comparison(report, run.console)
    return save_comparison(report, run.output, run.json), _status_of_comparison(report)


def _pace(rounds: int | None, seconds: float | None, *, full: bool) -> Pace:
    base = FULL if full else QUICK
    return Pace(rounds or base.rounds, seconds or base.seconds, base.warm_up_seconds, base.trial_seconds)


def _turns_pace(turns: int | None, seconds: float | None, *, full: bool) -> TurnsPace:
    base = FULL_TURNS if full else QUICK_TURNS
    return TurnsPace(
        turns=turns or base.turns,
        turns_max=max(turns or 0, base.turns_max),
        seconds=seconds or base.seconds,
        warm_up_seconds=base.warm_up_seconds,
        more_seconds_max=base.more_seconds_max,
    )


def _status_of_targets(report: Report) -> int:
    missed = [verdict for verdict in report.verdicts if not verdict.reached]
    if any(verdict.comparable for verdict in missed):
        return MISSED
    return NOT_COMPARABLE if missed else 0


def _status_of_comparison(report: ComparisonReport) -> int:
    outcomes = {one.outcome for one in report.comparisons}
    if outcomes & {Outcome.SLOWER, Outcome.FAILED}:
        return MISSED
    return NOT_COMPARABLE if outcomes & {Outcome.NOT_COMPARABLE, Outcome.UNCLEAR} else 0


def _measured(run: Run, groups: list[Group], pace: Pace, closed: int) -> Report:
    started, taken_at = time.monotonic(), datetime.now(UTC)
    facts = machine_facts()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} rounds"))
    with Progress(*columns, TimeElapsedColumn(), console=run.console, transient=True) as progress:
        task = progress.add_task("starting", total=pace.rounds_of(groups))

        def say(what: str) -> None:
            progress.update(task, description=what)

        def round_done(what: str, result: RoundResult) -> None:
            progress.update(task, advance=1, description=f"{what}: {result.per_second:,.0f}/s")

        say("starting a private database")
        with (
            LoadGenerator() as generator,
            private_database(run.folder, say) as server,
            Stage(run.folder, say, server, profile=run.profile, closed_reservations=closed) as stage,
        ):
            facts |= stage.database_facts()
            measuring = Measuring(stage, generator, pace, round_done)
            verdicts = [verdict for group in groups for verdict in measuring.run(group)]
            facts["meanwhile"] = said(measuring.busy, os.getloadavg())
            audits = stage.audit() if run.audit else {}
    return Report(taken_at, time.monotonic() - started, pace, facts, verdicts, measuring.summaries, audits)


def _compared(run: Run, workloads: list[Workload], pace: TurnsPace, revision: str, least: float) -> ComparisonReport:
    started, taken_at = time.monotonic(), datetime.now(UTC)
    facts = machine_facts()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} turns"))
    with Progress(*columns, TimeElapsedColumn(), console=run.console, transient=True) as progress:
        task = progress.add_task("starting", total=pace.turns * len(workloads))

        def say(what: str) -> None:
            progress.update(task, description=what)

        def turn_done(workload: Workload, turn: Turn) -> None:
            progress.update(task, advance=1, description=f"{workload.title}: {turn.ratio:.2f}")

        say("starting a private database")
        with ExitStack() as stack:
            before_tree, now_tree = stack.enter_context(checked_out(revision)), this_tree()
            generator = stack.enter_context(LoadGenerator())
            server = stack.enter_context(private_database(run.folder, say))
            before = stack.enter_context(
                Stage(run.folder, say, server, tree=before_tree, mark="_before", profile=run.profile)
            )
            now = stack.enter_context(Stage(run.folder, say, server, tree=now_tree, mark="_now", profile=run.profile))
            facts |= now.database_facts()
            turns = TakingTurns(before, now, generator, pace, turn_done, bound=least)
            comparisons: list[Comparison] = [turns.run(workload) for workload in workloads]
            audits = before.audit() | now.audit() if run.audit else {}
    return ComparisonReport(
        taken_at=taken_at,
        seconds=time.monotonic() - started,
        before=before_tree.name,
        now=now_tree.name,
        bound=least,
        pace=pace,
        facts=facts,
        remarks=list(before_tree.remarks),
        comparisons=comparisons,
        busy=together(one.busy for one in comparisons),
        load_average=os.getloadavg(),
        audits=audits,
    )


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
