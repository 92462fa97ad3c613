"""Tells what differs after one of the two databases was restored alone, or moved to a replica that lagged.

One half walks what the warehouse has, and finds what it has for orders that are not here. The other half is the audit,
which walks the orders, and finds those for which the warehouse does not have what it ought to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from order_gateway.audit.rows import AuditRows, Row
from order_gateway.gateway.port import Hold, HoldState, WarehouseGateway
from order_gateway.identity import OrderName, parse
from order_gateway.storage.store import Store
from service_kit.database.database import Database
from service_kit.progress import Progress


@dataclass(frozen=True, slots=True)
class Lost:
    """A hold for an order of this installation that is not in its database.

    Attributes:
        is_number_used: whether another order has its number by now.
    """

    name: OrderName
    hold: Hold
    is_number_used: bool


@dataclass(slots=True)
class WarehouseReport:
    """What the warehouse has.

    Attributes:
        seen: holds looked at.
        lost: those that still matter (held or sold) of orders that are not here: the first of them.
        lost_count: how many there are.
        over: holds of orders that are not here, by which nothing is held or sold in the end.
        unclear: holds under a bare number that is no order here: made directly, or for an order from before
            orders had keys of their own.
        number_max: the greatest order number that the warehouse knows of this installation.
        number_here_max: the greatest one in the orders database.
    """

    seen: int = 0
    lost: list[Lost] = field(default_factory=list)
    lost_count: int = 0
    over: int = 0
    unclear: int = 0
    number_max: int = 0
    number_here_max: int = 0


class Reconciling:
    """Walks what the warehouse has."""

    def __init__(self, database: Database, store: Store, gateway: WarehouseGateway, lost_max: int) -> None:
        self._rows = AuditRows(database)
        self._store = store
        self._gateway = gateway
        self._lost_max = lost_max

    async def run(self, since: datetime | None = None, progress: Progress | None = None) -> WarehouseReport:
        """Look at all holds, or those that were made at `since` or later. Raises: DatabaseFault, GatewayFault.

        An order that is made while this runs may be seen in the warehouse only if it was written here before: orders
        are written down before they are sent.
        """
        report = WarehouseReport()
        installation = await self._store.token()
        async for page in self._gateway.holds_made_since(since):
            named = [(name, hold) for hold in page if (name := parse(hold.order_id))]
            ours = [(name, hold) for name, hold in named if name.installation in (installation, "")]
            rows = {row.id: row for row in await self._rows.some({name.number for name, _ in ours})}
            for name, hold in ours:
                self._note(report, name, hold, rows.get(name.number))
            report.seen += len(page)
            if progress is not None:
                progress.note(report.seen, more=f"{report.lost_count} of orders that are not here")
        bounds = await self._rows.bounds(None)
        report.number_here_max = bounds[1] if bounds else 0
        return report

    def _note(self, report: WarehouseReport, name: OrderName, hold: Hold, row: Row | None) -> None:
        if not name.key:
            is_old_order = row is not None and not row.request_key
            report.unclear += not is_old_order
            return
        report.number_max = max(report.number_max, name.number)
        if row is not None and row.request_key == name.key:
            return
        if hold.state not in (HoldState.RESERVED, HoldState.COMMITTED):
            report.over += 1
            return
        report.lost_count += 1
        if len(report.lost) < self._lost_max:
            report.lost.append(Lost(name, hold, row is not None))


def lines(report: WarehouseReport) -> Sequence[str]:
    """The outcome in words."""
    told: list[str] = []
    for lost in report.lost:
        hold, number = lost.hold, lost.name.number
        what = ", ".join(f"{line.quantity} x product {line.product_id}" for line in hold.held_or_sold)
        used = " (another order has this number by now)" if lost.is_number_used else ""
        fate = f"held until {hold.expires_at:%F %T} UTC" if hold.state is HoldState.RESERVED else "sold"
        told.append(f"order {number}, made {hold.created_at:%F %T} UTC, is not here{used}: {what} {fate}")
        told.append(f"    reservation {hold.reservation_id} of {hold.order_id}")
    if report.lost_count > len(report.lost):
        told.append(f"... and {report.lost_count - len(report.lost)} more")
    if report.unclear:
        told.append(
            f"{report.unclear} reservations carry a bare number that is no order here: they were made directly, or for "
            "orders from before orders had keys of their own"
        )
    if report.number_max > report.number_here_max:
        told.append(
            f"order numbers up to {report.number_max} were given out; before you start, so that none is given twice: "
            f"ALTER TABLE orders AUTO_INCREMENT = {report.number_max + 1}"
        )
    differ = f"{report.lost_count} are held or sold for orders that are not here" if report.lost_count else "clean"
    told.append(f"warehouse: {differ}; {report.seen} reservations seen, {report.over} of lost orders are over")
    return told
