"""The commands that look at orders beside a running service, or before one is started."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from order_gateway.audit.agreement import Mending
from order_gateway.audit.checking import Finding, OrdersReport
from order_gateway.audit.reconcile import lines
from order_gateway.audit.why import lines as explanation_lines
from order_gateway.bootstrap import Core, database_of, opened
from order_gateway.lifecycle import OrderNotFound
from order_gateway.settings import OrdersSettings
from order_gateway.starting import SERVICE, failures_explained
from service_kit.logging import configure_logging
from service_kit.progress import Progress
from service_kit.settings import load_settings_or_exit
from service_kit.starting import EXIT_STATUSES, Exit, NotStarted

ORDER_ID_MAX = 2**63 - 1
ROUNDS_MAX = 100
"""Rounds of audit and repair; each repairs at most `findings_max` orders."""
Since = Annotated[
    str, typer.Option(help="Only orders made at this instant or later, in UTC unless it says so: 2026-11-25T08:00:00")
]


@asynccontextmanager
async def opened_core(settings: OrdersSettings) -> AsyncIterator[Core]:
    """What the commands work with, put together; hung up at the end."""
    async with database_of(settings) as database, opened(settings, database) as core:
        yield core


def add_to(cli: typer.Typer) -> None:
    """Add the commands."""
    for command in (audit, reconcile, why):
        cli.command(epilog=EXIT_STATUSES)(command)


def audit(
    repair: Annotated[bool, typer.Option("--repair", help="Mend the orders concerned.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what --repair would do.")] = False,
    since: Since = "",
) -> None:
    """Check every order against the warehouse (invariant 7).

    Without the warehouse it checks what it can, and ends with status 3.
    """
    raise typer.Exit(_run(lambda settings: _audit(settings, _instant(since), repair=repair, dry_run=dry_run)))


async def _audit(settings: OrdersSettings, since: datetime | None, *, repair: bool, dry_run: bool) -> Exit:
    async with opened_core(settings) as core:
        report = await _audited(core, since)
        _print_plan(report.findings, is_asked=repair or dry_run)
        _print_summary(report, settings)
        for _ in range(ROUNDS_MAX if repair and not dry_run else 0):
            todo = [finding for finding in report.findings if finding.mending is not Mending.NOTHING]
            if not todo:
                break
            typer.echo(f"Mending {len(todo)} orders ...")
            await core.repair().run(todo)
            before, report = report, await _audited(core, since)
            _print_plan(report.findings, is_asked=True)
            _print_summary(report, settings)
            if report.found >= before.found:
                break
        if report.unasked:
            return Exit.NEEDED
        return Exit.FOUND if report.found else Exit.DONE


def reconcile(since: Since = "") -> None:
    """Tell what differs after the orders database or the warehouse's database was restored alone; changes nothing.

    It ends with status 1 if anything differs.
    """
    raise typer.Exit(_run(lambda settings: _reconcile(settings, _instant(since))))


async def _reconcile(settings: OrdersSettings, since: datetime | None) -> Exit:
    async with opened_core(settings) as core:
        progress = Progress("reservations seen")
        try:
            found = await core.reconciling().run(since, progress)
        finally:
            progress.end()
        for line in lines(found):
            typer.echo(line)
        report = await _audited(core, since)
        _print_plan(report.findings, is_asked=True)
        _print_summary(report, settings)
        if report.unasked:
            return Exit.NEEDED
        return Exit.FOUND if found.lost_count or report.found else Exit.DONE


def why(order_id: Annotated[int, typer.Argument(min=1, max=ORDER_ID_MAX, help="The order's number.")]) -> None:
    """Explain an order: what is still to be done for it, tries, last error, next try, history, holds.

    It ends with status 1 if there is no such order, or if it does not agree with the warehouse.
    """
    raise typer.Exit(_run(lambda settings: _why(settings, order_id)))


async def _why(settings: OrdersSettings, order_id: int) -> Exit:
    async with opened_core(settings) as core:
        try:
            explained = await core.explainer().explain(order_id)
        except OrderNotFound as error:
            typer.echo(f"{error}.", err=True)
            return Exit.FOUND
    for line in explanation_lines(explained):
        typer.echo(line)
    if explained.warehouse is None:
        return Exit.NEEDED
    return Exit.FOUND if explained.disagreement else Exit.DONE


async def _audited(core: Core, since: datetime | None) -> OrdersReport:
    progress = Progress("orders compared")
    try:
        return await core.audit().run(since, progress)
    finally:
        progress.end()


def _print_plan(findings: list[Finding], *, is_asked: bool) -> None:
    for finding in findings:
        row = finding.row
        typer.echo(f"order {row.id} ({row.state.status}, stock {row.state.stock}): {finding.text}")
        for hold in finding.owned.reserve.holds if finding.owned else ():
            typer.echo(f"    reservation {hold.reservation_id} {hold.state}")
        if is_asked:
            typer.echo(f"    repair: {finding.mending}")


def _print_summary(report: OrdersReport, settings: OrdersSettings) -> None:
    if report.found > len(report.findings):
        typer.echo(f"... and {report.found - len(report.findings)} more orders that don't agree")
    for row in report.unfinished_rows:
        steps = ", ".join(f"{step.step} ({step.attempts} tries)" for step in row.steps)
        typer.echo(f"unfinished: order {row.id} ({row.state.status}) has still to do: {steps}")
    if report.unfinished > len(report.unfinished_rows):
        typer.echo(f"... and {report.unfinished - len(report.unfinished_rows)} more unfinished orders")
    if report.unfinished:
        typer.echo(f"why an order is unfinished: {SERVICE.command} why ID")
    wrong = f"{report.found} don't agree with the warehouse" if report.found else "clean"
    typer.echo(f"orders: {wrong}; {report.checked} checked, {report.unfinished} still have a step to be done")
    if report.unasked:
        typer.echo(
            f"orders: {report.unasked} could not be compared with the warehouse at {settings.warehouse_target} "
            f"({report.why_unasked}): start it, and run this again"
        )


def _run(work: Callable[[OrdersSettings], Coroutine[Any, Any, Exit]]) -> Exit:
    """Run a command on the settings; what is needed and can't be had is told in one line."""
    settings = load_settings_or_exit(OrdersSettings)
    configure_logging("order_gateway", settings.log_level)
    with failures_explained(settings):
        if problems := settings.unusable_client():
            raise NotStarted("; ".join(problems))
        return asyncio.run(work(settings))


def _instant(text: str) -> datetime | None:
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter("write an instant like 2026-11-25T08:00:00", param_hint="--since") from error
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
