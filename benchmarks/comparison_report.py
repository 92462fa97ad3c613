"""What a comparison of two revisions leaves: a table on the terminal, the same as Markdown, a JSON file, a chart."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.against import Comparison, Outcome, Side
from benchmarks.machine import OTHERS_SHARE_MAX, Busy, said
from benchmarks.taking_turns import TurnsPace

HEADINGS = (
    "workload",
    "callers",
    "before /s",
    "now /s",
    "ratio",
    "likely within",
    "p50 ms",
    "p99 ms",
    "cpu us per call",
    "turns",
    "verdict",
)
_COLOURS = {
    Outcome.FASTER: ("green", "#2a9d5c"),
    Outcome.KEPT: ("green", "#2a9d5c"),
    Outcome.SLOWER: ("red", "#c8553d"),
    Outcome.FAILED: ("red", "#c8553d"),
    Outcome.UNCLEAR: ("yellow", "#e0a030"),
    Outcome.NOT_COMPARABLE: ("yellow", "#b8b8b8"),
}


class ComparisonReport(msgspec.Struct, frozen=True):
    """A whole comparison, as it is saved."""

    taken_at: datetime
    seconds: float
    before: str
    now: str
    bound: float
    pace: TurnsPace
    facts: dict[str, str]
    remarks: list[str]
    comparisons: list[Comparison]
    busy: Busy
    load_average: tuple[float, float, float]
    audits: dict[str, str]
    """For each database that a warehouse wrote to: an empty text, or what its audit found wrong."""

    @property
    def title(self) -> str:
        """What is compared with what."""
        return f"{self.now}, compared with {self.before}"

    @property
    def closing_words(self) -> list[str]:
        """What to make of it, in sentences."""
        counts = {outcome: sum(one.outcome is outcome for one in self.comparisons) for outcome in Outcome}
        said_of_all = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        words = [f"{said_of_all}. Kept means a ratio of at least {self.bound:g}.", *self.remarks]
        words.append(f"During the rounds {said(self.busy, self.load_average)}.")
        if counts[Outcome.NOT_COMPARABLE]:
            words.append(
                "Not comparable: in too many turns other programs used more than"
                f" {OTHERS_SHARE_MAX:.0%} of the processors. Stop them and measure again."
            )
        if counts[Outcome.UNCLEAR]:
            words.append(
                "Unclear: the ratio is too low, but within what the turns differ by. Measure again with --full."
            )
        return words


def print_comparison(report: ComparisonReport, console: Console) -> None:
    """The table, then what to make of it."""
    table = Table(title=report.title)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number in (0, len(HEADINGS) - 1) else "right")
    for one in report.comparisons:
        colour = _COLOURS[one.outcome][0]
        *cells, verdict = row(one)
        table.add_row(*cells, f"[{colour}]{verdict}[/{colour}]")
    console.print(table)
    for name, found in report.audits.items():
        console.print(f"audit of {name}: {'clean' if not found else '[red]not clean[/red]'}")
        if found:
            console.print(found, markup=False)
    console.print(", ".join(f"{name} {value}" for name, value in report.facts.items()), style="dim")
    for words in report.closing_words:
        console.print(words, markup=False)


def save_comparison(report: ComparisonReport, folder: Path, json_path: Path | None) -> list[Path]:
    """Write JSON (into `folder`, and to `json_path` too if given), Markdown and the chart; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = report.taken_at.astimezone(UTC).strftime("%Y%m%d-%H%M%S") + "-against"
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    written = [folder / f"{stem}.json", *([json_path] if json_path else [])]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text + b"\n")
    page, chart = folder / f"{stem}.md", folder / f"{stem}.svg"
    page.write_text(markdown(report))
    _draw(report, chart)
    return [*written, page, chart]


def row(one: Comparison) -> list[str]:
    """The cells of a workload, in the order of HEADINGS."""
    failed = one.before if one.before.unexpected else one.now
    failure = f": {failed.unexpected} calls, the first: {failed.first_unexpected}" if failed.unexpected else ""
    return [
        one.workload.title,
        str(one.workload.callers),
        f"{one.before.per_second:,.0f}",
        f"{one.now.per_second:,.0f}",
        f"{one.ratio:.2f}",
        f"{one.lowest:.2f}..{one.highest:.2f}",
        f"{one.before.p50_ms:.1f} > {one.now.p50_ms:.1f}",
        f"{one.before.p99_ms:.1f} > {one.now.p99_ms:.1f}",
        f"{one.before.cpu_us_per_call:,.0f} > {one.now.cpu_us_per_call:,.0f}",
        str(one.turns) if one.turns == one.quiet_turns else f"{one.turns}, {one.quiet_turns} quiet",
        f"{one.outcome}{failure}",
    ]


def markdown(report: ComparisonReport) -> str:
    """The table and what to make of it, as Markdown."""
    lines = [f"# {report.title}", "", f"{report.taken_at:%Y-%m-%d %H:%M} UTC, {report.seconds:.0f} s.", ""]
    lines.append(f"| {' | '.join(HEADINGS)} |")
    lines.append("|---" * len(HEADINGS) + "|")
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row(one))} |" for one in report.comparisons]
    lines += ["", *(f"- {words}" for words in report.closing_words)]
    lines += [f"- audit of {name}: {'clean' if not found else 'not clean'}" for name, found in report.audits.items()]
    lines.append("- " + ", ".join(f"{name} {value}" for name, value in report.facts.items()))
    return "\n".join(lines) + "\n"


def _draw(report: ComparisonReport, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 1.6 + 0.5 * len(report.comparisons)))
    _draw_ratios(axes, report)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _draw_ratios(axes: Any, report: ComparisonReport) -> None:
    rows = list(reversed(report.comparisons))
    places = range(len(rows))
    axes.barh(places, [one.ratio for one in rows], color=[_COLOURS[one.outcome][1] for one in rows])
    reach = [[one.ratio - one.lowest for one in rows], [one.highest - one.ratio for one in rows]]
    axes.errorbar([one.ratio for one in rows], places, xerr=reach, fmt="none", ecolor="black", capsize=3, linewidth=1)
    axes.axvline(1, color="black", linewidth=1)
    axes.axvline(report.bound, color="black", linewidth=1, linestyle=":")
    axes.set_yticks(places, [one.workload.title for one in rows], fontsize=8)
    right = max([*(one.highest for one in rows), 1.0])
    for place, one in zip(places, rows, strict=True):
        axes.annotate(f" {_figures(one.before, one.now)}: {one.outcome}", (right, place), va="center", fontsize=8)
    axes.set_xlim(0, right * 1.45)
    axes.set_xlabel(
        f"calls per second now : before (1 = as fast, dotted = the least to be kept, {report.bound:g};"
        " whiskers: where the ratio likely lies)"
    )
    axes.set_title(f"Speed of {report.title}\n{report.taken_at:%Y-%m-%d %H:%M} UTC", fontsize=10)


def _figures(before: Side, now: Side) -> str:
    return f"{before.per_second:,.0f} > {now.per_second:,.0f} /s"
