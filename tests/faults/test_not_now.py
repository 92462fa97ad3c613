"""What the database refuses for a reason of its own: callers hear "ask again", nothing is halved, and it heals."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestClient
from grpc_health.v1 import health_pb2

from development.local_server import LocalServer
from service_kit.database.database import Database, DatabaseAway, DatabaseSettings
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.orders_api import KEY, ORDER, Api, serving_orders
from tests.kits.plain_account import PLAIN, plain_url, read_only
from tests.kits.warehouse_kit import (
    Calls,
    No,
    assert_clean,
    outcome,
    refused,
    reserve,
    serving,
    sql,
)
from warehouse.writing.store import StockStore

pytestmark = pytest.mark.sql
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
READ_ONLY = "the server is running with the --read-only option"
SIGNALS = {
    **dict.fromkeys((1213, 3101), "ABORTED"),
    **dict.fromkeys((1290, 1792, 1836), "UNAVAILABLE"),
    **dict.fromkeys((1317, 1969, 3024, 4151), "UNAVAILABLE"),
    **dict.fromkeys((1045, 1226, 1040, 1047, 1053), "UNAVAILABLE"),
    **dict.fromkeys((1021, 1114, 1180, 1206), "UNAVAILABLE"),
}
"""What a caller is told when every try meets this number."""
QUICK = DatabaseSettings(tries=3, follow_seconds=0.2)


@contextlib.asynccontextmanager
async def signalling(url: str, table: str, number: int) -> AsyncIterator[None]:
    """Every row that is inserted into `table` meets this error."""
    text = f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = '{READ_ONLY}'"
    # In a thread: it waits for transactions of this process that use the table.
    await asyncio.to_thread(sql, url, f"CREATE TRIGGER not_now BEFORE INSERT ON {table} FOR EACH ROW {text}")
    try:
        yield
    finally:
        await asyncio.to_thread(sql, url, "DROP TRIGGER not_now")


@pytest.fixture
def halvings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of batches that were taken apart."""
    sizes: list[int] = []
    halve = StockStore._halve

    async def noted(self: StockStore, commands: Sequence[Any]) -> Any:
        sizes.append(len(commands))
        return await halve(self, commands)

    monkeypatch.setattr(StockStore, "_halve", noted)
    return sizes


async def test_no_number_halves_a_batch_or_is_an_internal_error(
    warehouse_database_url: str, halvings: list[int]
) -> None:
    async with serving(warehouse_database_url, database=QUICK) as calls:
        await calls.keep({(1, 1): 1000})
        for number, code in SIGNALS.items():
            requests = [reserve((1, 1, 1)) for _ in range(16)]
            async with signalling(warehouse_database_url, "movements", number):
                with structlog.testing.capture_logs() as lines:
                    ends = await asyncio.gather(*(refused(calls.holds.Reserve(request)) for request in requests))
            assert {(no.code, no.retry_seconds is not None) for no in ends} == {(code, True)}, number
            assert [line for line in lines if "exc_info" in line] == [], number
            for request in requests:
                await calls.holds.Reserve(request)
        assert halvings == []
        assert await calls.level() == (1000, 16 * len(SIGNALS))
    await assert_clean(warehouse_database_url)


async def test_a_number_that_passes_goes_unnoticed(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 1000})
        for number in SIGNALS:
            async with signalling(warehouse_database_url, "movements", number):
                pending = asyncio.ensure_future(outcome(calls.holds.Reserve(reserve((1, 1, 1)))))
                await asyncio.sleep(0.01)
            held = await pending
            assert not isinstance(held, No), (number, held)


async def test_the_order_service_answers_503_for_each_number(orders_database_url: str) -> None:
    async with serving_orders(orders_database_url) as api:
        api.world.database.settings.tries = 3
        for number in SIGNALS:
            for table in ("items", "history"):
                async with signalling(orders_database_url, table, number):
                    with structlog.testing.capture_logs() as lines:
                        answers = await asyncio.gather(*(_post(api.client) for _ in range(4)))
                assert answers == [(503, "DATABASE_UNAVAILABLE", True)] * 4, number
                assert [line for line in lines if "exc_info" in line] == [], number
        order = await api.call("POST", "/api/v1/orders", ORDER, status=201)
        cancel = f"/api/v1/orders/{order['id']}/cancel"
        for number in SIGNALS:
            async with signalling(orders_database_url, "history", number):
                with structlog.testing.capture_logs() as lines:
                    assert (await api.call("POST", cancel, status=503))["code"] == "DATABASE_UNAVAILABLE"
            assert [line for line in lines if "exc_info" in line] == [], number
        assert (await api.call("POST", cancel, status=200))["status"] == "cancelled"


async def _post(client: "TestClient[Any, Any]") -> tuple[int, str, bool]:
    async with client.post("/api/v1/orders", json=ORDER, headers=KEY) as response:
        body = await response.json()
        return response.status, body["error"]["code"], "Retry-After" in response.headers


async def until_health_is(calls: Calls, wanted: int, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while await calls.status() != wanted:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_read_only_server_is_told_and_survived(own_server: LocalServer, halvings: list[int]) -> None:
    url = plain_url(own_server, "warehouse")
    async with serving(url, database=QUICK, health_check_seconds=0.2) as calls:
        await calls.keep({(1, 1): 100})
        await until_health_is(calls, SERVING)
        requests = [reserve((1, 1, 1)) for _ in range(16)]
        async with read_only(own_server):
            ends = await asyncio.gather(*(refused(calls.holds.Reserve(request)) for request in requests))
            assert {(no.code, no.reason, no.retry_seconds is not None) for no in ends} == {
                ("UNAVAILABLE", "DATABASE_AWAY", True)
            }
            await until_health_is(calls, NOT_SERVING)
            assert await calls.level() == (100, 0)
        healed = time.monotonic()
        await asyncio.gather(*(calls.holds.Reserve(request) for request in requests))
        await until_health_is(calls, SERVING)
        assert time.monotonic() - healed < 5
        assert halvings == []
        assert await calls.level() == (100, 16)


async def test_the_order_service_is_not_ready_on_a_read_only_server(own_server: LocalServer) -> None:
    url = plain_url(own_server, "orders")
    async with serving_orders(url) as api:
        await api.call("GET", "/ready", status=200)
        api.world.database.settings.tries = 3
        async with read_only(own_server):
            error = await api.call("GET", "/ready", status=503)
            assert error["code"] == "NOT_READY"
            assert await _post(api.client) == (503, "DATABASE_UNAVAILABLE", True)
        healed = time.monotonic()
        await _until_ready(api)
        await api.call("POST", "/api/v1/orders", ORDER, status=201)
        assert time.monotonic() - healed < 5


async def _until_ready(api: Api) -> None:
    while True:
        async with api.client.get("/ready") as response:
            if response.status == 200:
                return
        await asyncio.sleep(0.05)


async def test_an_account_that_may_write_to_a_read_only_server_is_well(own_server: LocalServer) -> None:
    """It is asked for what the server would really refuse, not for a variable."""
    own_server.start()
    database = Database(f"{own_server.url}/mysql")
    async with read_only(own_server):
        await database.ping()
    await database.close()


async def test_a_login_that_is_refused_is_away_and_passes(own_server: LocalServer) -> None:
    url = plain_url(own_server, "warehouse")
    account = f"'{PLAIN}'@'127.0.0.1'"
    async with serving(url, database=QUICK, health_check_seconds=0.2) as calls:
        await calls.keep({(1, 1): 10})
        sql(own_server.url, f"ALTER USER {account} IDENTIFIED BY 'another'")
        try:
            for (number,) in sql(
                own_server.url, "SELECT id FROM information_schema.processlist WHERE user = %s", PLAIN
            ):
                sql(own_server.url, f"KILL CONNECTION {number}")
            for call in (
                calls.holds.Reserve(reserve((1, 1, 1))),
                calls.holds.GetReservation(pb.GetReservationRequest(reservation_id="x")),
            ):
                no = await refused(call)
                assert (no.code, no.reason, no.retry_seconds is not None) == ("UNAVAILABLE", "DATABASE_AWAY", True)
                assert PLAIN not in no.message
            await until_health_is(calls, NOT_SERVING)
        finally:
            sql(own_server.url, f"ALTER USER {account} IDENTIFIED BY 'secret'")
        await calls.hold((1, 1, 1))
        await until_health_is(calls, SERVING)


async def test_too_many_connections_are_away_and_pass(own_server: LocalServer) -> None:
    url = plain_url(own_server, "warehouse")
    account = f"'{PLAIN}'@'127.0.0.1'"
    sql(own_server.url, f"ALTER USER {account} WITH MAX_USER_CONNECTIONS 1")
    try:
        database, other = Database(url, QUICK), Database(url, QUICK)
        await database.ping()
        with pytest.raises(DatabaseAway):
            await other.run_in_transaction(lambda connection: connection.exec_driver_sql("SELECT 1"))
        await database.close()
        await other.run_in_transaction(lambda connection: connection.exec_driver_sql("SELECT 1"))
        await other.close()
    finally:
        sql(own_server.url, f"ALTER USER {account} WITH MAX_USER_CONNECTIONS 0")
