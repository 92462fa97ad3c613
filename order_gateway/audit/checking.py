"""Checks invariant 7: every order agrees with the warehouse, or somebody is still going to make it agree.

Orders are compared many at a time. The orders are read first, then the warehouse is asked; what does not agree is
looked at again, and is a finding only if the order has not changed meanwhile: so the audit is right under load, too.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime

from order_gateway.audit.agreement import (
    Mending,
    Owned,
    Problem,
    disagreement,
    mending,
    request_ids,
)
from order_gateway.audit.rows import AuditRows, Row
from order_gateway.gateway.port import Call, GatewayFault, WarehouseGateway
from order_gateway.lifecycle import Step
from order_gateway.settings import AuditSettings
from order_gateway.storage.store import Store
from service_kit.database.database import Database
from service_kit.progress import Progress

_LOOK = Call("", "")


@dataclass(frozen=True, slots=True)
class Finding:
    """An order that does not agree with the warehouse; `owned` is None where that was not asked."""

    row: Row
    problem: Problem
    text: str
    owned: Owned | None
    mending: Mending


@dataclass(slots=True)
class OrdersReport:
    """The outcome.

    Attributes:
        checked: orders looked at.
        unfinished: how many have a step that is still to be done, as it is written down; nothing is wrong with them.
        unfinished_rows: the first of them.
        findings: the first that don't agree.
        found: how many don't agree.
        unasked: orders that were not compared with the warehouse, because it was away.
        why_unasked: how it was away.
    """

    checked: int = 0
    unfinished: int = 0
    unfinished_rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    found: int = 0
    unasked: int = 0
    why_unasked: str = ""


class OrdersAudit:
    """Compares orders with the warehouse."""

    def __init__(
        self, database: Database, store: Store, gateway: WarehouseGateway, settings: AuditSettings | None = None
    ) -> None:
        self._rows = AuditRows(database)
        self._store = store
        self._gateway = gateway
        self._settings = settings or AuditSettings()
        self._is_away = False

    async def run(self, since: datetime | None = None, progress: Progress | None = None) -> OrdersReport:
        """Compare all orders, or those that were made at `since` or later.

        Where the warehouse is away, what can be known without it is checked, and the report says so.

        Raises: DatabaseFault.
        """
        report = OrdersReport()
        bounds = await self._rows.bounds(since)
        if bounds is None:
            return report
        installation = await self._store.token()
        least, greatest = bounds
        async with aclosing(self._pages(bounds, since)) as pages:
            async for rows in pages:
                await self._check(rows, installation, report)
                if progress is not None:
                    share = (rows[-1].id - least + 1) / (greatest - least + 1)
                    progress.note(report.checked, share, f"{report.found} don't agree" if report.found else "")
        return report

    async def examine(self, order_id: int) -> tuple[Row, Owned | None, Finding | None] | None:
        """One order: as it is, what it owns (None: the warehouse is away), what is wrong; None: there is no such one.

        Raises: DatabaseFault.
        """
        installation = await self._store.token()
        rows = await self._rows.some([order_id])
        if not rows:
            return None
        report = OrdersReport()
        owned = await self._owned(rows, installation, report)
        findings = await self._confirmed(rows, owned, installation, report)
        return rows[0], owned.get(order_id), findings[0] if findings else None

    async def _pages(self, bounds: tuple[int, int], since: datetime | None) -> AsyncGenerator[list[Row], None]:
        """Pages of orders; the next one is read while the last one is compared."""
        after, last = bounds[0] - 1, bounds[1]
        size = self._settings.page_size
        reading = asyncio.create_task(self._rows.page(after, last, since, size))
        try:
            while rows := await reading:
                reading = asyncio.create_task(self._rows.page(rows[-1].id, last, since, size))
                yield rows
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _check(self, rows: Sequence[Row], installation: str, report: OrdersReport) -> None:
        owned = await self._owned(rows, installation, report)
        report.checked += len(rows)
        report.unasked += len(rows) - len(owned)
        unfinished = [row for row in rows if row.steps]
        report.unfinished += len(unfinished)
        report.unfinished_rows += unfinished[: max(self._settings.shown_max - len(report.unfinished_rows), 0)]
        findings = await self._confirmed(rows, owned, installation, report)
        report.found += len(findings)
        report.findings += findings[: max(self._settings.findings_max - len(report.findings), 0)]

    async def _confirmed(
        self, rows: Sequence[Row], owned: dict[int, Owned], installation: str, report: OrdersReport
    ) -> list[Finding]:
        """The orders that don't agree, and have not changed while they were looked at."""
        findings: list[Finding] = []
        for look in range(self._settings.looks_max):
            wrong = {row.id: row for row in rows if self._disagrees(row, owned.get(row.id))}
            if not wrong:
                break
            rows = await self._rows.some(wrong)
            same = [row for row in rows if row.version == wrong[row.id].version or look == self._settings.looks_max - 1]
            findings += [await self._finding(wrong[row.id], owned.get(row.id), installation) for row in same]
            rows = [row for row in rows if row not in same]
            owned = await self._owned(rows, installation, report)
        return sorted(findings, key=lambda finding: finding.row.id)

    def _disagrees(self, row: Row, owned: Owned | None) -> bool:
        return disagreement(row, owned, self._settings.clock_tolerance_seconds) is not None

    async def _finding(self, row: Row, owned: Owned | None, installation: str) -> Finding:
        found = disagreement(row, owned, self._settings.clock_tolerance_seconds)
        assert found is not None
        if owned is not None and found.problem is Problem.SOLD_BUT_UNPAID:
            # If it goes away just now, it is not known who sold it, and nothing is mended.
            with suppress(GatewayFault):
                [commit] = await self._gateway.outcomes([row.name(installation).request_id(Step.COMMIT)], _LOOK)
                owned = Owned(owned.reserve, owned.give_backs, commit)
        return Finding(row, found.problem, found.text, owned, mending(row, found.problem, owned))

    async def _owned(self, rows: Sequence[Row], installation: str, report: OrdersReport) -> dict[int, Owned]:
        """What the warehouse says the orders own; nothing, where it is away."""
        if not rows or (self._is_away and not await self._gateway.is_serving()):
            return {}
        asked = [request_ids(row, installation) for row in rows]
        try:
            outcomes = iter(await self._gateway.outcomes([one for ids in asked for one in ids], _LOOK))
        except GatewayFault as fault:
            self._is_away, report.why_unasked = True, str(fault)
            return {}
        self._is_away = False
        return {
            row.id: Owned(next(outcomes), tuple(next(outcomes) for _ in ids[1:]))
            for row, ids in zip(rows, asked, strict=True)
        }
