"""What a run leaves: a table on the terminal, a JSON file, a chart."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.machine import OTHERS_SHARE_MAX
from benchmarks.measuring import Pace
from benchmarks.workloads import CALLERS_OF_CURVES, Server, Summary, Verdict

_PACKAGES = ("grpcio", "protobuf", "aiomysql", "sqlalchemy", "uvloop", "msgspec")


class Report(msgspec.Struct, frozen=True):
    """A whole run, as it is saved."""

    taken_at: datetime
    seconds: float
    pace: Pace
    facts: dict[str, str]
    verdicts: list[Verdict]
    summaries: list[Summary]
    audits: dict[str, str]
    """For each database that the warehouse wrote to: an empty text, or what its audit found wrong."""


def machine_facts() -> dict[str, str]:
    """What the figures depend on, besides the code."""
    facts = {
        "processors": str(os.cpu_count()),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load average at start": f"{os.getloadavg()[0]:.2f}",
    }
    return facts | {package: version(package) for package in _PACKAGES}


def print_report(report: Report, console: Console) -> None:
    """The verdicts, then where the processor time went, then the facts."""
    console.print(_verdict_table(report.verdicts))
    console.print(_leg_table(report.summaries))
    for name, found in report.audits.items():
        console.print(f"audit of {name}: {'clean' if not found else '[red]not clean[/red]'}")
        if found:
            console.print(found, markup=False)
    console.print(", ".join(f"{name} {value}" for name, value in report.facts.items()), style="dim")
    reached = sum(verdict.reached for verdict in report.verdicts)
    console.print(f"{reached} of {len(report.verdicts)} targets reached.")
    if unknown := sum(not verdict.comparable for verdict in report.verdicts):
        console.print(
            f"{unknown} not comparable: missed while others used more than {OTHERS_SHARE_MAX:.0%} of the processors."
            " Stop those programs (they are named above) and measure again.",
            style="yellow",
        )


def save(report: Report, folder: Path, json_path: Path | None) -> list[Path]:
    """Write the JSON (into `folder`, and to `json_path` too if given) and the chart; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = report.taken_at.astimezone(UTC).strftime("%Y%m%d-%H%M%S")
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    written = [folder / f"{stem}.json", *([json_path] if json_path else [])]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text + b"\n")
    chart = folder / f"{stem}.svg"
    _draw(report, chart)
    return [*written, chart]


def _verdict_table(verdicts: list[Verdict]) -> Table:
    table = Table(title="Targets")
    table.add_column("")
    table.add_column("workload")
    for heading in ("per second", "p50 ms", "p99 ms", "max ms", "beside", "ratio", "target"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for verdict in verdicts:
        measured, target = verdict.measured, verdict.target
        table.add_row(
            target.name,
            target.title,
            *_figures(measured),
            _beside(verdict),
            f"{verdict.ratio:.2f}",
            f"{'<=' if target.at_most else '>='} {target.bound:g}",
            _words(verdict),
        )
    return table


def _words(verdict: Verdict) -> str:
    if verdict.reached:
        return "[green]reached[/green]"
    if verdict.comparable:
        return f"[red]missed[/red]{_failures(verdict)}"
    return "[yellow]not comparable[/yellow]"


def _beside(verdict: Verdict) -> str:
    yardstick = verdict.yardstick
    if yardstick is None:
        return "itself"
    if verdict.target.metric == "p50_ms":
        return f"{yardstick.p50_ms:.2f} ms"
    return f"{yardstick.per_second:,.0f} ({yardstick.callers})"


def _failures(verdict: Verdict) -> str:
    summaries = [one for one in (verdict.measured, verdict.yardstick) if one is not None and one.unexpected]
    return "".join(f": {one.unexpected} calls failed, the first: {one.first_unexpected}" for one in summaries)


def _leg_table(summaries: list[Summary]) -> Table:
    table = Table(title="Everything measured, and processor time per call in microseconds")
    for heading in ("server", "work"):
        table.add_column(heading)
    for heading in ("callers", "per second", "p50 ms", "p99 ms", "max ms", "spread", "generator", "server", "database"):
        table.add_column(heading, justify="right")
    for one in summaries:
        spread = (one.per_second_highest - one.per_second_lowest) / one.per_second if one.per_second else 0.0
        table.add_row(
            str(one.server),
            one.work,
            str(one.callers),
            *_figures(one),
            f"{spread:.0%}" if one.rounds > 1 else "trial",
            *(_microseconds(one, process) for process in ("generator", "server", "database")),
        )
    return table


def _figures(one: Summary) -> tuple[str, str, str, str]:
    return f"{one.per_second:,.0f}", f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.max_ms:.1f}"


def _microseconds(one: Summary, process: str) -> str:
    used = one.cpu_us_per_call.get(process)
    return "" if used is None else f"{used:,.0f}"


def _draw(report: Report, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    curves = _curves(report.summaries)
    figure, axes = pyplot.subplots(1, 2 if curves else 1, figsize=(14 if curves else 9, 6), squeeze=False)
    _draw_verdicts(axes[0][0], report.verdicts)
    if curves:
        _draw_curves(axes[0][1], curves)
    facts = f"{report.taken_at:%Y-%m-%d %H:%M} UTC, {report.facts['processors']} processors"
    figure.suptitle(f"{facts}, {report.facts['processor']}")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _draw_verdicts(axes: Any, verdicts: list[Verdict]) -> None:
    # How far each target is surpassed, so that bounds from above and below share one axis.
    rows = list(reversed(verdicts))
    shares = [_share_of_target(one) for one in rows]
    axes.barh(range(len(rows)), shares, color=[_colour(one) for one in rows])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [one.target.title for one in rows], fontsize=8)
    for place, (share, one) in enumerate(zip(shares, rows, strict=True)):
        sign = "<=" if one.target.at_most else ">="
        figures = f"{one.ratio:.2f} (target {sign} {one.target.bound:g}), {one.measured.per_second:,.0f}/s"
        axes.annotate(f" {figures}", (share, place), va="center", fontsize=8)
    axes.set_xlim(0, max([*shares, 1]) * 1.5)
    axes.set_xlabel(
        "how far the target is surpassed: measured ratio : target (for <=, target : measured ratio); 1 = reached"
    )
    axes.set_title(
        "Ratios beside their targets (green reached, red missed, grey: other programs were too busy to tell)",
        fontsize=9,
    )


def _colour(verdict: Verdict) -> str:
    if verdict.reached:
        return "#2a9d5c"
    return "#c8553d" if verdict.comparable else "#b8b8b8"


def _share_of_target(verdict: Verdict) -> float:
    bound, ratio = verdict.target.bound, verdict.ratio
    if verdict.target.at_most:
        return bound / ratio if ratio else 0.0
    return ratio / bound


def _curves(summaries: list[Summary]) -> dict[Server, list[tuple[int, float]]]:
    """Throughput of Reserve on the hot product by callers, where it was measured at all of them."""
    curves = {}
    for server in (Server.ECHO, Server.WAREHOUSE, Server.NAIVE):
        rates = {
            one.callers: one.per_second
            for one in summaries
            if one.server is server and one.work == "reserve-hot" and one.callers in CALLERS_OF_CURVES
        }
        if set(CALLERS_OF_CURVES) <= set(rates):
            curves[server] = sorted(rates.items())
    return curves


def _draw_curves(axes: Any, curves: dict[Server, list[tuple[int, float]]]) -> None:
    for server, points in curves.items():
        axes.plot([callers for callers, _ in points], [rate for _, rate in points], marker="o", label=str(server))
    axes.set_xscale("log")
    axes.set_xticks(CALLERS_OF_CURVES, [str(callers) for callers in CALLERS_OF_CURVES])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("callers at once")
    axes.set_ylabel("Reserve per second, one hot product")
    axes.legend()
    axes.grid(alpha=0.3)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
