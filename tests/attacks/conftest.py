"""The services under attack, one pair per module of tests, and what must be so after each test."""

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from sqlalchemy.engine import make_url

from tests.attacks.gateways import Gateway, Start
from tests.conftest import MakeDatabase
from tests.kits.attacked import Attacked, attacked, public_keys
from tests.kits.processes import Processes
from warehouse.demo import load_demo

SURPRISE = re.compile(r'unforeseen|Traceback|call_failed|failed_outside|Unhandled|never retrieved|"status":500')


@pytest.fixture(scope="module")
def shop(make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """Both services, with the demo's stock, a JWK set of three keys, and a secret for tokens of their own."""
    folder = tmp_path_factory.mktemp("attacked")
    keys = folder / "jwks.json"
    keys.write_text(json.dumps(public_keys()))
    settings = {"ORDERS_JWT_JWKS_FILE": str(keys)}
    with attacked(Processes(folder), make_database("warehouse"), make_database("orders"), settings) as made:
        yield made


@pytest.fixture
def unsurprised(shop: Attacked) -> Iterator[None]:
    """Whatever a test does, both services are well after it, and nothing in their logs was unforeseen."""
    before = len(shop.logs())
    yield
    with urllib.request.urlopen(f"{shop.base_url}/health") as answer:
        assert answer.status == 200
    surprises = [line for line in shop.logs()[before:].splitlines() if SURPRISE.search(line)]
    assert not surprises, surprises[0][-3000:]


@pytest.fixture(scope="module")
def warehouse_target(make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A warehouse with the demo's stock, one per module of tests: what is attacked is the order service before it."""
    processes = Processes(tmp_path_factory.mktemp("warehouse"))
    _process, target = processes.warehouse(make_database("warehouse"))
    asyncio.run(load_demo(target, ""))
    yield target
    processes.stop_all()


@pytest.fixture
async def start(
    processes: Processes, warehouse_target: str, warehouse_database_url: str, orders_database_url: str
) -> AsyncIterator[Start]:
    """Starts an order service with these settings; `is_queued`: whose orders wait for a warehouse that is away."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def run(*, is_queued: bool = False, **settings: object) -> Gateway:
            given = {f"ORDERS_{name.upper()}": str(value) for name, value in settings.items()}
            given["ORDERS_METRICS__REFRESH_SECONDS"] = "0"
            if not is_queued:
                return await begin(warehouse_target, given)
            given["ORDERS_GATEWAY"] = "queued"
            # One of its own, as it has to go.
            warehouse, target = await asyncio.to_thread(processes.warehouse, warehouse_database_url)
            await load_demo(target, "")
            gateway = await begin(target, given)
            # So that its products are known.
            await gateway.create_order("1")
            await asyncio.to_thread(warehouse.stop)
            return gateway

        async def begin(target: str, given: dict[str, str]) -> Gateway:
            _process, base_url = await asyncio.to_thread(
                lambda: processes.order_gateway(orders_database_url, target, settings=given)
            )
            return Gateway(make_url(base_url).port or 0, session)

        yield run
