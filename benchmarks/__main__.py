"""`python -m benchmarks`: measure the warehouse beside its yardsticks, on a private database."""

import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.database import CLOSED_RESERVATIONS
from benchmarks.generator import BenchmarkFailed, LoadGenerator
from benchmarks.measuring import FULL, QUICK, Measuring, Pace
from benchmarks.profiling import print_profiles
from benchmarks.reporting import Report, machine_facts, print_report, save
from benchmarks.rounds import RoundResult
from benchmarks.stage import Stage
from benchmarks.workloads import GROUPS, Group, chosen_groups
from service_kit.local_server import ServerDidNotStart
from service_kit.server_programs import ServerNotInstalled

_NAMES = ", ".join(target.name for group in GROUPS for target in group.targets)

WIDTH_OF_FILES = 150
"""Columns when the output is no terminal."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    full: Annotated[
        bool, typer.Option("--full", help="Longer rounds, more of them, and the slow workloads. About 15 minutes.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"Only this one; may be repeated. One of: {_NAMES}.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=50, help="Rounds per measurement.")] = None,
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
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 if a target is missed.")] = False,
) -> None:
    """Measure the warehouse beside an empty call and beside a transaction per call, and judge it.

    A private database server, the warehouse, its yardsticks and one load generator run on this machine and share
    its processors; rounds of what is compared take turns. Close other programs first.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    try:
        groups = chosen_groups(only or [], full=full)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from error
    base = FULL if full else QUICK
    pace = Pace(rounds or base.rounds, seconds or base.seconds, base.warm_up_seconds, base.trial_seconds)
    folder = nullcontext(str(keep)) if keep else tempfile.TemporaryDirectory(prefix="warehouse-bench-")
    try:
        with folder as place:
            report = _run(groups, pace, Path(place), console, profile=profile, audit=audit, closed=closed_reservations)
            print_report(report, console)
            if profile:
                print_profiles(Path(place), console)
    except (BenchmarkFailed, ServerDidNotStart, ServerNotInstalled) as error:
        console.print(f"The benchmark can't go on: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    for path in save(report, output, json):
        console.print(f"written: {path}")
    if strict and not all(verdict.reached for verdict in report.verdicts):
        raise typer.Exit(1)


def _run(
    groups: list[Group], pace: Pace, folder: Path, console: Console, *, profile: bool, audit: bool, closed: int
) -> Report:
    started, taken_at = time.monotonic(), datetime.now(UTC)
    facts = machine_facts()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} rounds"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("starting", total=pace.rounds_of(groups))

        def say(what: str) -> None:
            progress.update(task, description=what)

        def round_done(what: str, result: RoundResult) -> None:
            progress.update(task, advance=1, description=f"{what}: {result.per_second:,.0f}/s")

        with LoadGenerator() as generator, Stage(folder, say, profile=profile, closed_reservations=closed) as stage:
            facts |= stage.database_facts()
            measuring = Measuring(stage, generator, pace, round_done)
            verdicts = [verdict for group in groups for verdict in measuring.run(group)]
            facts["used by other programs meanwhile"] = f"{measuring.others_share:.0%} of all processor time"
            audits = stage.audit() if audit else {}
    return Report(taken_at, time.monotonic() - started, pace, facts, verdicts, measuring.summaries, audits)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
