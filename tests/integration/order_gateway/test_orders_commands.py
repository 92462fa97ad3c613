"""The commands that look at orders, run as people run them: what they print, change and end with."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta

import pytest

from development.free_ports import free_port
from order_gateway.lifecycle import Status, Way
from tests.kits.orders_kit import Shop
from tests.kits.processes import ROOT, clean_environment
from tests.kits.warehouse_kit import cancel

pytestmark = pytest.mark.sql


async def run(at: Shop, *arguments: str, target: str = "") -> tuple[int, str]:
    """Exit status and output of a command."""
    settings = {
        "ORDERS_DATABASE_URL": at.orders_url,
        "ORDERS_WAREHOUSE_TARGET": target or at.client.settings.target,
        "ORDERS_PROFILE": "development",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "order_gateway", *arguments),
        cwd=ROOT,
        env=clean_environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_a_dry_run_says_what_the_repair_would_do_and_does_nothing(at: Shop) -> None:
    sound, lost = await at.create_order(), await at.create_order()
    await at.calls.holds.Cancel(cancel(reservation_id=lost.reservations[0].reservation_id))
    status, output = await run(at, "audit", "--repair", "--dry-run")
    assert status == 1
    assert f"order {lost.id} (pending, stock held): is not held: its hold is cancelled" in output
    assert "repair: it is cancelled" in output
    assert f"order {sound.id} " not in output
    assert (await at.read(lost)).state.status is Status.PENDING
    status, output = await run(at, "audit", "--repair")
    assert output.index("repair: it is cancelled") < output.index("Mending 1 orders")
    assert (status, output.splitlines()[-1]) == (0, "orders: clean; 2 checked, 0 still have a step to be done")
    assert (await at.read(lost)).state.status is Status.CANCELLED


async def test_unfinished_orders_are_named_and_old_ones_left_out(at: Shop) -> None:
    old, waiting = await at.create_order(), await at.create_order(way=Way.QUEUED)
    await at.calls.holds.Cancel(cancel(reservation_id=old.reservations[0].reservation_id))
    await at.execute(f"UPDATE orders SET created_at = created_at - INTERVAL 1 DAY WHERE id = {old.id}")
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    status, output = await run(at, "audit", "--since", since)
    assert (status, output.splitlines()[-1]) == (0, "orders: clean; 1 checked, 1 still have a step to be done")
    assert f"unfinished: order {waiting.id} (pending_reservation) has still to do: reserve (0 tries)" in output
    assert (await run(at, "audit", "--since", "yesterday"))[0] == 2


async def test_without_the_warehouse_the_audit_says_what_it_could_not_check(at: Shop) -> None:
    await at.create_order()
    forgotten = await at.create_order(way=Way.QUEUED)
    await at.execute("DELETE FROM intents")
    status, output = await run(at, "audit", target=f"127.0.0.1:{free_port()}")
    assert status == 3
    assert f"order {forgotten.id} (pending_reservation, stock reserving): waits for reserve" in output
    assert "orders: 2 could not be compared with the warehouse at 127.0.0.1:" in output


async def test_reconcile_tells_what_differs_and_changes_nothing(at: Shop) -> None:
    await at.paid()
    assert (await run(at, "reconcile"))[0] == 0
    lost, sold = await at.create_order(), await at.paid()
    for table in ("orders", "items", "reservations", "history"):
        column = "id" if table == "orders" else "order_id"
        await at.execute(f"DELETE FROM {table} WHERE {column} IN ({lost.id}, {sold.id})")
    before = await at.level()
    status, output = await run(at, "reconcile")
    assert status == 1
    assert f"order {lost.id}, made " in output
    assert "2 x product 1 held until" in output
    assert "2 x product 1 sold" in output
    assert f"ALTER TABLE orders AUTO_INCREMENT = {sold.id + 1}" in output
    assert "warehouse: 2 are held or sold for orders that are not here; 3 reservations seen" in output
    assert await at.level() == before
    assert (await run(at, "reconcile", target=f"127.0.0.1:{free_port()}"))[0] == 3


async def test_why_an_order_is_as_it_is(at: Shop) -> None:
    order = await at.paid()
    status, output = await run(at, "why", str(order.id))
    assert status == 0
    assert "why: it is paid and sold; it waits to be shipped" in output
    assert f"warehouse: {order.reservations[0].reservation_id} committed, 2 x product 1" in output
    assert "reserved" in output
    assert "charged" in output
    status, output = await run(at, "why", "77")
    assert (status, output.strip()) == (1, "there is no order 77.")


async def test_why_a_step_is_not_done(at: Shop) -> None:
    order = await at.create_order(way=Way.QUEUED)
    await at.execute("UPDATE intents SET attempts = 7, last_error = 'no luck', due_at = '2031-01-02 03:04:05'")
    status, output = await run(at, "why", str(order.id))
    assert status == 0
    assert (
        "why: reserve is still to be done: 7 tries, the last error: no luck; next try 2031-01-02 03:04:05 UTC" in output
    )
    await at.execute("UPDATE intents SET parked_at = '2030-01-02 03:04:05'")
    status, output = await run(at, "why", str(order.id), target=f"127.0.0.1:{free_port()}")
    assert status == 3
    assert "reserve keeps failing and is parked since 2030-01-02 03:04:05 UTC: 7 tries" in output
    assert "the warehouse could not be asked what it has for it" in output
