"""Any process dies at any moment, again and again, while customers shop: nothing is lost, nothing oversold.

To go on for ten minutes, or to repeat the blows of another run (not their timing against the customers):

    CHAOS_SECONDS=600 CHAOS_SEED=7 .venv/bin/pytest tests/faults/test_everything_dies.py -rP
"""

import asyncio
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from development.server_programs import Flavour
from order_gateway.payments import Bill, Charged, PaymentSimulator
from order_gateway.settings import SimulatorSettings
from stockwarden_client import ClientSettings, WarehouseClient, new_request_id
from tests.kits.cluster_system import ClusterKiller, ClusterSystem
from tests.kits.customers import Customer, Memory
from tests.kits.processes import Processes
from tests.kits.small_server import copy_template
from tests.kits.warehouse_kit import scalar, sql
from tests.kits.whole_system import Killer, WholeSystem
from warehouse.demo import UNITS, load_demo

pytestmark = pytest.mark.sql
CHAOS_SECONDS = 25.0
ROUNDS_MAX = 4
PAID_MIN = 10
"""With fewer orders paid nothing was put to the test."""
SETTLING_SECONDS = 60
CUSTOMERS = 10
LEVELS = [(product, warehouse) for product in (1, 2, 3) for warehouse in (1, 2)]
SCARCE_PRODUCT = 3
UNITS_PER_SECOND = 5
"""What is put into each level but the scarce product's, so that it lasts until near the end."""
EXPECTED = {
    "place": {
        (201, ""),
        (202, ""),
        (409, "INSUFFICIENT_STOCK"),
        (409, "ORDER_CANCELLED"),
        (409, "REQUEST_IN_PROGRESS"),
    },
    "pay": {
        (200, ""),
        (409, "INVALID_ORDER_STATE"),
        (409, "PAYMENT_EXPIRED"),
        (409, "PAYMENT_IN_PROGRESS"),
        (409, "REQUEST_IN_PROGRESS"),
        (409, "RESERVATION_EXPIRED"),
        (422, "PAYMENT_DECLINED"),
    },
    "cancel": {(200, ""), (409, "INVALID_ORDER_STATE"), (409, "PAYMENT_IN_PROGRESS"), (409, "REQUEST_IN_PROGRESS")},
    "look": {(200, "")},
}
AWAY = {
    (429, "WAREHOUSE_OVERLOADED"),
    (503, "DATABASE_UNAVAILABLE"),
    (503, "PAYMENT_PENDING"),
    (503, "WAREHOUSE_UNAVAILABLE"),
    (504, "WAREHOUSE_TIMEOUT"),
}
_UNFINISHED = """
    SELECT (SELECT COUNT(*) FROM intents) + (
        SELECT COUNT(*) FROM orders WHERE status = 'pending_reservation'
        OR stock IN ('reserving', 'committing', 'releasing', 'returning') OR payment IN ('charging', 'refunding')
        OR (status = 'pending' AND payment_deadline < NOW(6) + INTERVAL 1 MINUTE))"""
_ORDERS = """
    SELECT o.id, o.request_key, o.shipping_address, o.status, o.stock, o.payment, o.reason, o.total_amount,
      p.provider_reference,
      (SELECT COUNT(*) FROM history AS h WHERE h.order_id = o.id AND h.event = 'charged') AS charges,
      (SELECT COUNT(*) FROM history AS h WHERE h.order_id = o.id AND h.event = 'refunded') AS refunds
    FROM orders AS o LEFT JOIN payments AS p ON p.order_id = o.id ORDER BY o.id"""
_UNITS = """
    SELECT r.product_id, r.warehouse_id, o.status, SUM(r.quantity) FROM orders AS o
    JOIN reservations AS r ON r.order_id = o.id GROUP BY r.product_id, r.warehouse_id, o.status"""


class OrderRow(NamedTuple):
    """An order as the database has it, in the columns' order of `_ORDERS`."""

    id: int
    request_key: str
    address: str
    status: str
    stock: str
    payment: str
    reason: str | None
    amount: Any
    provider_reference: str | None
    charges: int
    refunds: int


@pytest.fixture
def hands() -> Iterator[Executor]:
    """One thread, which lives until everything that it started has been stopped."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool


@pytest.fixture
def system(
    hands: Executor, database_flavour: Flavour, database_template: Path, processes: Processes
) -> Iterator[WholeSystem]:
    with tempfile.TemporaryDirectory(prefix="stock-test-") as folder:
        copy_template(database_template, Path(folder))
        made = hands.submit(WholeSystem, Path(folder), database_flavour, processes).result()
        yield made
        hands.submit(made.close).result()


@pytest.fixture
def cluster_system(hands: Executor, processes: Processes) -> Iterator[ClusterSystem]:
    with tempfile.TemporaryDirectory(prefix="stock-test-") as folder:
        made = hands.submit(ClusterSystem, Path(folder), processes).result()
        yield made
        hands.submit(made.close).result()


async def put_in(system: WholeSystem, seconds: float) -> dict[tuple[int, int], int]:
    """Load the shop; the units in each stock level."""
    await load_demo(system.target, "")
    more = round(UNITS_PER_SECOND * seconds)
    async with WarehouseClient(ClientSettings(target=system.target)) as warehouse:
        for product, place in LEVELS:
            if product != SCARCE_PRODUCT:
                await warehouse.add_stock(product, place, more, request_id=new_request_id())
    return {level: UNITS if level[0] == SCARCE_PRODUCT else UNITS + more for level in LEVELS}


async def test_everything_dies(system: WholeSystem, hands: Executor) -> None:
    seed, seconds = chaos()
    await shop_while_it_dies(system, Killer(system, Random(seed)), hands, seed, seconds)


@pytest.mark.galera
async def test_everything_dies_on_a_cluster(cluster_system: ClusterSystem, hands: Executor) -> None:
    """Also each node of the database, one at a time; what it has taken is at the others, on which the shop goes on."""
    seed, seconds = chaos()
    await shop_while_it_dies(cluster_system, ClusterKiller(cluster_system, Random(seed)), hands, seed, seconds)


def chaos() -> tuple[str, float]:
    """What to do, and for how long."""
    seed = os.environ.get("CHAOS_SEED") or str(Random().getrandbits(32))
    seconds = float(os.environ.get("CHAOS_SECONDS") or CHAOS_SECONDS)
    print(f"CHAOS_SEED={seed} CHAOS_SECONDS={seconds:g}")
    return seed, seconds


async def shop_while_it_dies(
    system: WholeSystem, killer: Killer | ClusterKiller, hands: Executor, seed: str, seconds: float
) -> None:
    units = await put_in(system, seconds)
    loop, memory, is_over = asyncio.get_running_loop(), Memory(), asyncio.Event()
    customers = [
        asyncio.create_task(
            Customer(f"customer-{number}", system.gateways, LEVELS, memory, Random(f"{seed} {number}")).shop(is_over)
        )
        for number in range(CUSTOMERS)
    ]
    for _ in range(ROUNDS_MAX):
        await loop.run_in_executor(hands, killer.run, seconds)
        # On a slow machine less is sold between two deaths.
        if sum("paid" in told for told in memory.statuses.values()) > 2 * PAID_MIN:
            break
    is_over.set()
    await loop.run_in_executor(hands, system.start_all)
    await asyncio.gather(*customers)
    tell(killer, memory)
    await until_settled(system)
    for service, (status, output) in (await asyncio.to_thread(system.audits)).items():
        assert status == 0, f"audit of {service}: {output}"
    orders = [OrderRow(*row) for row in sql(system.orders_url, _ORDERS)]
    only_expected_answers_came(memory)
    what_was_told_is_so(memory, orders)
    units_add_up(system, units)
    await each_order_was_charged_once(system, orders)
    # Otherwise nothing of this was put to the test.
    assert sum(order.status == "paid" for order in orders) > PAID_MIN
    assert all(killer.deaths[name] for name in system.parts)


def tell(killer: Killer | ClusterKiller, memory: Memory) -> None:
    """For those who look at the test's output."""
    print("killed:", dict(killer.deaths), "frozen:", dict(killer.freezes))
    for (what, status, code), count in sorted(memory.answers.items()):
        print(f"{what:6} {status} {code:24} {count}")
    print(f"answers lost: {memory.lost}")


async def until_settled(system: WholeSystem) -> None:
    """Nothing remains to be done for any order, and no deadline is about to pass."""
    began = time.monotonic()
    while unfinished := scalar(system.orders_url, _UNFINISHED):
        assert time.monotonic() < began + SETTLING_SECONDS, (
            unfinished,
            sql(system.orders_url, "SELECT * FROM intents LIMIT 9"),
        )
        await asyncio.sleep(0.1)
    print(f"settled in {time.monotonic() - began:.1f} s")


def only_expected_answers_came(memory: Memory) -> None:
    """Above all no 500, and no order that was there is not found."""
    strange = {
        answer: count
        for answer, count in memory.answers.items()
        if answer[1:] not in EXPECTED[answer[0]] and answer[1:] not in AWAY
    }
    assert not strange


def what_was_told_is_so(memory: Memory, orders: list[OrderRow]) -> None:
    by_id = {order.id: order for order in orders}
    by_address: defaultdict[str, list[OrderRow]] = defaultdict(list)
    for order in orders:
        by_address[order.address].append(order)
    for order_id, told in memory.statuses.items():
        order = by_id[order_id]
        if "paid" in told:
            assert order.status == "paid" or (order.status, order.payment) == ("cancelled", "refunded"), (order, told)
        if "cancelled" in told:
            assert (order.status, order.stock in ("free", "returned")) == ("cancelled", True), (order, told)
        if "rejected" in told:
            assert order.status == "rejected", (order, told)
    for wish in memory.wishes:
        made = by_address[wish.address]
        # An order whose stock could not be asked for is cancelled, and the same key makes another one.
        valid = [order for order in made if order.reason != "reservation_timeout"]
        assert len(valid) <= 1, (wish, made)
        assert wish.order_ids <= {order.id for order in made}, (wish, made)
        assert not (wish.was_refused and [order for order in valid if order.status in ("pending", "paid")]), (
            wish,
            made,
        )


def units_add_up(system: WholeSystem, units: dict[tuple[int, int], int]) -> None:
    """What the orders have, and what the warehouse says is held and free, are the units that were put in."""
    sold, promised = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for product, place, status, quantity in sql(system.orders_url, _UNITS):
        if status in ("paid", "pending"):
            (sold if status == "paid" else promised)[product, place] += int(quantity)
    query = "SELECT product_id, warehouse_id, on_hand, reserved FROM stock_levels"
    for product, place, on_hand, reserved in sql(system.warehouse_url, query):
        level = product, place
        assert (sold[level] + on_hand, reserved) == (units[level], promised[level]), level
        assert sold[level] + promised[level] <= units[level]


async def each_order_was_charged_once(system: WholeSystem, orders: list[OrderRow]) -> None:
    """At most once, under the one key of the order, which gives the same answer whenever it is asked."""
    token = scalar(system.orders_url, "SELECT token FROM installation")
    provider = PaymentSimulator(SimulatorSettings())
    for order in orders:
        assert order.charges <= 1, order
        assert order.refunds <= 1, order
        if order.status == "paid":
            assert order.charges == 1, order
        if order.charges:
            key = f"{token}-{order.id}-{order.request_key}-charge"
            answer = await provider.charge(Bill(order.id, key, order.amount, "USD", "card", None))
            assert answer == Charged(order.provider_reference or ""), order
