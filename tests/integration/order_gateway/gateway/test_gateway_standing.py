"""How the gateway stands with its warehouse: its key, and how far the two databases' clocks are apart."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from development.free_ports import free_port
from order_gateway.gateway.grpc.adapter import GrpcGateway
from order_gateway.gateway.port import Call, Hold, StockLine
from order_gateway.gateway.standing import Standing, database_clock
from service_kit.database.database import Database
from stockwarden_client import ClientSettings, WarehouseClient
from tests.kits.secrets_used import hashed, key_of
from tests.kits.warehouse_kit import Calls, serving
from warehouse.auth import ApiKey, Role

pytestmark = pytest.mark.sql
CALL = Call("r-1", "c-1")
KEYS = tuple(ApiKey(name=f"the-{role}", role=role, sha256=hashed(key_of(role))) for role in Role)
OFF = timedelta(minutes=6)
NEAR = timedelta(seconds=5)
Clock = Callable[[], Awaitable[datetime]]


@asynccontextmanager
async def before(url: str) -> AsyncIterator[tuple[Calls, WarehouseClient]]:
    target = f"127.0.0.1:{free_port()}"
    async with serving(url, listen=target) as calls, WarehouseClient(ClientSettings(target=target)) as client:
        yield calls, client


@pytest.fixture
async def clock(orders_database_url: str) -> AsyncIterator[Clock]:
    database = Database(orders_database_url)
    yield database_clock(database)
    await database.close()


@pytest.mark.parametrize(
    ("key", "role", "problem"),
    [
        (key_of("admin"), "admin", None),
        (key_of("order"), "order", None),
        (key_of("reader"), "reader", "the key 'the-reader' of this service has the role reader in the warehouse"),
        ("no such key", None, "the warehouse does not know this service's key: set ORDERS_WAREHOUSE_API_KEY"),
        ("", None, "does not know this service's key"),
    ],
    ids=["admin", "order", "reader", "unknown", "none"],
)
async def test_what_is_wrong_with_a_key_is_said(
    warehouse_database_url: str, clock: Clock, key: str, role: str | None, problem: str | None
) -> None:
    target = f"127.0.0.1:{free_port()}"
    async with WarehouseClient(ClientSettings(target=target, api_key=key)) as client:
        standing = Standing(GrpcGateway(client), clock, every_seconds=10)
        assert await standing.is_good()
        async with serving(warehouse_database_url, listen=target, api_keys=KEYS):
            # A client that was refused tries again only after a pause.
            async with asyncio.timeout(20):
                while (standing.role, standing.problem) == (None, None):
                    await standing.is_good()
            assert await standing.is_good() is (problem is None)
            assert standing.role == role
            assert (problem or "") in (standing.problem or "")
        # A warehouse that is away says nothing about the key.
        assert await standing.is_good() is (problem is None)


async def test_clocks_within_a_second_are_one(warehouse_database_url: str, clock: Clock) -> None:
    async with before(warehouse_database_url) as (_calls, client):
        gateway = GrpcGateway(client)
        standing = Standing(gateway, clock, gateway.set_clock_ahead, every_seconds=10)
        await standing.look_at_both()
        assert (standing.clock_ahead, gateway.clock_ahead) == (timedelta(0), timedelta(0))


@pytest.mark.parametrize("off", [OFF, -OFF])
async def test_a_hold_is_told_by_our_own_databases_clock(
    warehouse_database_url: str, clock: Clock, off: timedelta
) -> None:
    """So that the time to pay, which our database watches, ends before the hold does."""

    async def ours() -> datetime:
        return await clock() - off

    async with before(warehouse_database_url) as (calls, client):
        await calls.keep({(1, 1): 10})
        gateway = GrpcGateway(client)
        standing = Standing(gateway, ours, gateway.set_clock_ahead, every_seconds=10)
        await standing.look_at_both()
        assert abs(standing.clock_ahead - off) < NEAR
        hold = await gateway.reserve("1", [StockLine(1, 1, 1)], 900, CALL)
        assert isinstance(hold, Hold)
        assert abs(hold.created_at - await ours()) < NEAR
        assert hold.expires_at - hold.created_at == timedelta(seconds=900)
        assert hold.created_at.tzinfo is UTC
        await gateway.close()
