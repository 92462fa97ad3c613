"""The database moves, or a part of the way to it dies: the sessions that are held for good follow within seconds."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from development.local_server import LocalServer
from order_gateway.storage.idempotency import Begun, IdempotencyStore, InProgress
from service_kit.database import migrating
from service_kit.database.database import Database, DatabaseSettings
from tests.kits.database_proxy import proxied
from tests.kits.orders_api import KEY, ORDER, Api, serving_orders
from tests.kits.plain_account import PLAIN, plain_url, read_only
from tests.kits.small_server import small_server
from tests.kits.warehouse_kit import fresh, reserve, scalar, serving, sql

pytestmark = pytest.mark.sql
MOVES_WITHIN_SECONDS = 5


@pytest.fixture(scope="module")
def other_server(database_template: Path) -> Iterator[LocalServer]:
    """A second small database server."""
    with small_server(database_template) as server:
        yield server


def two_urls(old: LocalServer, new: LocalServer, service: migrating.Service) -> tuple[str, str]:
    """A migrated database of the same name on both, for one plain account."""
    first = plain_url(old, service)
    name = make_url(first).database
    migrating.upgrade(f"{new.url}/{name}", service)
    account = f"'{PLAIN}'@'127.0.0.1'"
    sql(new.url, f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY 'secret'")
    sql(new.url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {account}")
    return first, make_url(first).set(port=new.port).render_as_string(hide_password=False)


async def until_it_works(call: Any) -> float:
    """The seconds until a call succeeds."""
    began = time.monotonic()
    while True:
        try:
            await call()
        except Exception:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.05)
        else:
            return time.monotonic() - began


async def test_the_warehouse_moves_to_the_new_primary(own_server: LocalServer, other_server: LocalServer) -> None:
    """Reads, too, which the old one would go on answering."""
    old, new = two_urls(own_server, other_server, "warehouse")
    async with proxied(old) as (proxy, url), serving(url) as calls:
        await calls.keep({(1, 1): 10})
        async with serving(new) as there:
            await there.keep({(1, 1): 500})
        async with read_only(own_server):
            proxy.url = new
            assert await until_it_works(lambda: calls.hold((1, 1, 1))) < MOVES_WITHIN_SECONDS
            assert await calls.level() == (500, 1)
            assert scalar(old, "SELECT on_hand FROM stock_levels") == 10


async def test_readers_move_though_nobody_writes(own_server: LocalServer, other_server: LocalServer) -> None:
    """The way leads elsewhere, and the old server goes on as if nothing had happened."""
    old, new = two_urls(own_server, other_server, "warehouse")
    async with proxied(old) as (proxy, url), serving(url) as calls:
        await calls.keep({(1, 1): 10})
        assert await calls.level() == (10, 0)
        async with serving(new) as there:
            await there.keep({(1, 1): 500})
        proxy.url = new
        began = time.monotonic()
        while await calls.level() != (500, 0):
            assert time.monotonic() - began < MOVES_WITHIN_SECONDS
            await asyncio.sleep(0.1)
        await calls.hold((1, 1, 1))
        assert await calls.level() == (500, 1)


async def test_a_proxy_that_spreads_connections_does_not_make_them_wander(
    own_server: LocalServer, other_server: LocalServer
) -> None:
    old, new = two_urls(own_server, other_server, "warehouse")
    async with proxied(old) as (proxy, url):
        database = Database(url, DatabaseSettings(follow_seconds=0))
        session = database.session()
        [[(first,)]] = await session.execute("SELECT CONNECTION_ID()", {})
        for number in range(60):
            proxy.url = (old, new)[number % 2]
            await database._pulse.look()
            [[(number,)]] = await session.execute("SELECT CONNECTION_ID()", {})
            assert number == first
        await session.close()
        await database.close()


async def test_orders_move_and_their_keys_do_not_wait(own_server: LocalServer, other_server: LocalServer) -> None:
    old, new = two_urls(own_server, other_server, "orders")
    async with proxied(old) as (proxy, url), serving_orders(url, claim_seconds=4) as api:
        await api.call("POST", "/api/v1/orders", ORDER, status=201)
        async with read_only(own_server):
            proxy.url = new
            headers = {**KEY, "Idempotency-Key": fresh("key")}
            assert await until_it_works(lambda: _place(api, headers)) < MOVES_WITHIN_SECONDS
    assert scalar(new, "SELECT COUNT(*) FROM orders") == 1


async def _place(api: Api, headers: dict[str, str]) -> None:
    await api.call("POST", "/api/v1/orders", ORDER, status=201, headers=headers)


async def test_a_key_whose_request_could_not_say_that_it_failed_is_soon_free(own_server: LocalServer) -> None:
    """The database turns read-only in the middle of a request: neither its answer nor its end can be written."""
    url = plain_url(own_server, "orders")
    async with serving_orders(url, claim_seconds=4) as api, contextlib.AsyncExitStack() as stack:
        reserve = api.outside.reserve

        async def meanwhile(*arguments: Any) -> Any:
            await stack.enter_async_context(read_only(own_server))
            return await reserve(*arguments)

        headers = {**KEY, "Idempotency-Key": fresh("key")}
        api.outside.reserve = meanwhile  # type: ignore[assignment, method-assign]
        error = await api.call("POST", "/api/v1/orders", ORDER, status=503, headers=headers)
        assert error["code"] == "DATABASE_UNAVAILABLE"
        await stack.aclose()
        api.outside.reserve = reserve  # type: ignore[method-assign]
        assert await until_it_works(lambda: _repeat(api, headers)) < MOVES_WITHIN_SECONDS
    assert scalar(url, "SELECT COUNT(*) FROM orders") == 1


async def _repeat(api: Api, headers: dict[str, str]) -> None:
    async with api.client.post("/api/v1/orders", json=ORDER, headers=headers) as response:
        body = await response.json()
        # 202: its step is left to the relay now.
        assert response.status in (201, 202), body


async def test_a_claim_lasts_as_long_as_its_request(orders_database_url: str) -> None:
    async with serving_orders(orders_database_url, claim_seconds=0.6) as api:
        reserve, goes_on = api.outside.reserve, asyncio.Event()

        async def slow(*arguments: Any) -> Any:
            await goes_on.wait()
            return await reserve(*arguments)

        headers = {**KEY, "Idempotency-Key": fresh("key")}
        api.outside.reserve = slow  # type: ignore[assignment, method-assign]
        first = asyncio.ensure_future(_place(api, headers))
        await asyncio.sleep(1.5)
        error = await api.call("POST", "/api/v1/orders", ORDER, status=409, headers=headers)
        assert error["code"] == "REQUEST_IN_PROGRESS"
        goes_on.set()
        await first
        await _place(api, headers)
    assert scalar(orders_database_url, "SELECT COUNT(*) FROM orders") == 1


async def test_a_request_that_is_broken_off_gives_up_its_claim(orders_database_url: str) -> None:
    database = Database(orders_database_url)
    answers = IdempotencyStore(database, lease_seconds=60)
    begun = await answers.begin("me", "key", "hash")
    assert isinstance(begun, Begun)

    async def work() -> None:
        async with answers.held("me", "key", begun.claim):
            await asyncio.sleep(60)

    working = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    assert await answers.begin("me", "key", "hash") == InProgress()
    working.cancel()
    deadline = time.monotonic() + 5
    while not isinstance(again := await answers.begin("me", "key", "hash"), Begun):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert again.resumed
    await database.close()


async def test_one_dead_connection_lets_nobody_wait_for_the_others(warehouse_database_url: str) -> None:
    """All connections swallow what is sent on them, new ones are good; calls come at all times."""
    bounds = DatabaseSettings(transaction_timeout_seconds=3, retry_for_seconds=2.5, settle_seconds=0.5)
    async with proxied(warehouse_database_url) as (proxy, url), serving(url, database=bounds) as calls:
        await calls.keep({(1, 1): 1000})
        held = await calls.hold((1, 1, 1))
        await asyncio.gather(*(calls.state(held.reservation_id) for _ in range(20)))
        proxy.swallow()
        began = time.monotonic()
        writing = asyncio.ensure_future(_ended(calls.holds.Reserve(reserve((1, 1, 1)))))
        await asyncio.sleep(bounds.transaction_timeout_seconds - 0.5)
        # Shortly before the first one is found out, others begin on connections as dead as that one.
        others = [
            asyncio.ensure_future(_ended(calls.level())),
            asyncio.ensure_future(_ended(calls.state(held.reservation_id))),
        ]
        await writing
        first = time.monotonic()
        assert first - began < bounds.transaction_timeout_seconds + 2
        await asyncio.gather(*others)
        assert time.monotonic() - first < 2
        assert [other.result() for other in others] == [None, None]
        assert await calls.level() in {(1000, 1), (1000, 2)}
        await calls.hold((1, 1, 1))
        assert time.monotonic() - first < MOVES_WITHIN_SECONDS


async def _ended(call: Any) -> str | None:
    """Why a call was not answered; None if it was."""
    try:
        await call
    except Exception as error:
        return repr(error)
    return None
