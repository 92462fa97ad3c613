"""Lost answers of the order database: what a customer was told is what happened, and the outside is asked once."""

import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from development.free_ports import free_port
from order_gateway.lifecycle import Illegal, Payment, Reason, Status, Stock
from service_kit.starting import Exit
from tests.kits.database_proxy import DatabaseProxy, proxied
from tests.kits.processes import ROOT, clean_environment
from tests.kits.scripted_orders import World

pytestmark = pytest.mark.sql


@pytest.fixture
async def proxy_and_world(orders_database_url: str) -> AsyncIterator[tuple[DatabaseProxy, World]]:
    async with proxied(orders_database_url) as (proxy, url):
        world = World(url)
        await world.store.token()
        yield proxy, world
        await world.close()


async def test_a_payment_whose_commit_was_not_answered_goes_on(proxy_and_world: tuple[DatabaseProxy, World]) -> None:
    """Neither PAYMENT_IN_PROGRESS for the request that began it, nor a second charge."""
    proxy, world = proxy_and_world
    for number in range(1, 7):
        order = await world.create_order()
        proxy.lose_answers = 3  # of the wish to pay, of the charge's outcome, of the sale's outcome
        paid = await world.saga.pay(order.id, "test")
        assert not isinstance(paid.result, Illegal)
        assert (paid.order.state.status, paid.order.state.stock) == (Status.PAID, Stock.COMMITTED)
        assert proxy.lost == 3 * number
    assert world.outside.names() == ["reserve", "authorise", "charge", "commit"] * 6
    assert await world.open_steps() == []


async def test_every_other_change_survives_a_lost_answer(proxy_and_world: tuple[DatabaseProxy, World]) -> None:
    proxy, world = proxy_and_world
    proxy.lose_answers = 2  # of the new order, of its hold
    order = await world.create_order()
    assert order.state.status is Status.PENDING
    assert [held.is_active for held in order.reservations] == [True, True]
    await world.saga.pay(order.id, "test")
    proxy.lose_answers = 3  # of the wish to cancel, of the refund, of the returned stock
    cancelled = (await world.saga.cancel(order.id, "test", Reason.CUSTOMER, None)).order
    assert (cancelled.state.stock, cancelled.state.payment) == (Stock.RETURNED, Payment.REFUNDED)
    assert proxy.lost == 5
    names = ["reserve", "authorise", "charge", "commit", "refund", "give_back", "give_back"]
    assert world.outside.names() == names
    assert await world.open_steps() == []
    async with world.database.engine.connect() as connection:
        events = (await connection.exec_driver_sql("SELECT event FROM history ORDER BY version")).scalars().all()
    assert events == ["created", "reserved", "pay", "charged", "committed", "cancel", "refunded", "returned"]


def test_a_gateway_without_its_database_says_so_and_ends() -> None:
    settings = {"ORDERS_DATABASE_URL": f"mysql://u:p@127.0.0.1:{free_port()}/orders", "ORDERS_PROFILE": "development"}
    command = [sys.executable, "-m", "order_gateway", "serve"]
    ended = subprocess.run(
        command, cwd=ROOT, env=clean_environment(settings), capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == Exit.NEEDED
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("ORDERS_DATABASE_URL: the database at 127.0.0.1:")
    assert "can't be reached" in last
