"""What README and the client's documents promise is what happens: the example, and every exception there is."""

import asyncio
import contextlib
import inspect
import re
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import stockwarden_client as client
from development.free_ports import free_port
from service_kit.database.database import DatabaseSettings
from stockwarden_client import ClientSettings, WarehouseClient, WarehouseError, line
from stockwarden_client.v1 import stock_pb2 as stock
from tests.conftest import MakeDatabase
from tests.kits.processes import ROOT
from tests.kits.secrets_used import hashed, key_of
from tests.kits.warehouse_kit import connection, make_overdue, plain_logs, scalar, sql
from warehouse.auth import ApiKey, Role
from warehouse.demo import load_demo
from warehouse.server import running
from warehouse.settings import WarehouseSettings

pytestmark = pytest.mark.sql
KEYS = tuple(ApiKey(name=role, role=role, sha256=hashed(key_of(role))) for role in (Role.READER, Role.ADMIN))
GROUPS = {client.WarehouseError, client.WarehouseFault, client.NotFound}
"""Only their subclasses are raised. (Refused itself stands for reasons of servers to come.)"""
OF_SIZES = {client.AnswerTooLarge, client.MessageTooLarge}
"""It takes megabytes to see these; see test_answer_sizes."""
Example = Callable[[], Awaitable[None]]


def examples(target: str) -> list[Example]:
    """The Python examples of the README and of the client library, as functions; they call the server at `target`."""
    of_readme, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    of_library = re.search(r"\n\n((?:    .*\n|\n)+)", inspect.getdoc(client) or "")
    assert of_library is not None
    found: list[Example] = []
    for code in (of_readme, f"from stockwarden_client import *\n{textwrap.dedent(of_library[1])}"):
        assert "127.0.0.1:50051" in code
        imports, _, body = code.replace("127.0.0.1:50051", target).partition("\nasync with")
        names: dict[str, object] = {}
        exec(f"{imports}\nasync def example():\n" + textwrap.indent(f"async with{body}", "    "), names)
        example = names["example"]
        assert inspect.iscoroutinefunction(example)
        found.append(example)
    return found


@contextlib.asynccontextmanager
async def warehouse_at(url: str, **settings: object) -> AsyncIterator[str]:
    known = {"database_url": url, "listen": "127.0.0.1:0", "sweep_seconds": 3600, "stop_grace_seconds": 1, **settings}
    async with plain_logs(), running(WarehouseSettings.model_validate(known)) as port:
        yield f"127.0.0.1:{port}"


async def test_an_example_that_is_run_twice_holds_once(warehouse_database_url: str) -> None:
    async with warehouse_at(warehouse_database_url) as target:
        await load_demo(target, "")
        for number, example in enumerate(examples(target), start=1):
            await example()
            await example()
            held = sql(warehouse_database_url, "SELECT order_id, state FROM reservations")
            assert len(held) == number
            assert scalar(warehouse_database_url, "SELECT MAX(reserved) FROM stock_levels") == 2 * number


async def refusals(warehouse: WarehouseClient, url: str) -> list[Awaitable[object]]:
    """A call for each way to be refused."""
    lines = [line(1, 1, 1)]
    await warehouse.create_product(stock.CreateProductRequest(request_id="p4", product_id=4, sku="FOUR", name="Four"))
    sold, freed, late = [
        await warehouse.reserve(name, lines, request_id=name, ttl_seconds=600) for name in ("sold", "freed", "late")
    ]
    await warehouse.commit(order_id="sold")
    await warehouse.cancel(order_id="freed")
    await warehouse.cancel(order_id="before")
    await make_overdue(url, late.reservation_id)
    other_count = stock.UpdateInventoryRequest(request_id="c", product_id=1, warehouse_id=1, on_hand=50, reserved=7)
    same_sku = stock.CreateProductRequest(request_id="p", product_id=99, sku="MUG", name="Mug")
    same_code = stock.CreateWarehouseRequest(request_id="w", warehouse_id=99, code="MAIN")
    return [
        warehouse.reserve("o", [line(1, 1, 10_000)], request_id="r1"),
        warehouse.reserve("o", [line(404, 1, 1)], request_id="r2"),
        warehouse.reserve("o", [line(1, 404, 1)], request_id="r3"),
        warehouse.reserve("o", [line(4, 1, 1)], request_id="r4"),
        warehouse.get_reservation("none"),
        warehouse.commit(order_id="none"),
        warehouse.commit(reservation_id=late.reservation_id),
        warehouse.cancel(reservation_id=sold.reservation_id),
        warehouse.extend(freed.reservation_id, 60),
        warehouse.reserve("before", lines, request_id="r5"),
        warehouse.reserve("sold", [line(1, 1, 2)], request_id="sold"),
        warehouse.update_inventory(other_count),
        warehouse.create_product(same_sku),
        warehouse.create_warehouse(same_code),
        warehouse.reserve("", lines, request_id="r6"),
        warehouse.remove_stock(stock.RemoveStockRequest(product_id=1, warehouse_id=1, quantity=1)),
    ]


async def raised(call: Awaitable[object]) -> type[WarehouseError]:
    try:
        answer = await call
    except WarehouseError as error:
        return type(error)
    raise AssertionError(f"answered: {answer}")


async def test_every_exception_is_raised_by_a_real_server(
    warehouse_database_url: str, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pauses between repetitions are as long as they may be: what a call ends with is its first answer.
    monkeypatch.setattr("stockwarden_client.patience.random.random", lambda: 1.0)
    promised = {one for one in vars(client).values() if isinstance(one, type) and issubclass(one, WarehouseError)}
    seen: set[type[WarehouseError]] = set()
    async with warehouse_at(warehouse_database_url, api_keys=KEYS) as target:
        await load_demo(target, key_of("admin"))
        async with WarehouseClient(ClientSettings(target=target, api_key=key_of("admin"))) as warehouse:
            seen |= {await raised(call) for call in await refusals(warehouse, warehouse_database_url)}
        for key in ("wrong", key_of("reader")):
            async with WarehouseClient(ClientSettings(target=target, api_key=key)) as warehouse:
                seen.add(await raised(warehouse.reserve("o", [line(1, 1, 1)], request_id="r")))
    async with WarehouseClient(ClientSettings(target=f"127.0.0.1:{free_port()}", absent_seconds=0.1)) as warehouse:
        seen.add(await raised(warehouse.get_reservation("none")))
    seen |= await while_a_row_is_locked(warehouse_database_url)
    seen.add(await of_a_broken_database(make_database("warehouse")))
    assert promised - GROUPS - {client.Refused} - OF_SIZES == seen


async def while_a_row_is_locked(url: str) -> set[type[WarehouseError]]:
    """Too slow, too many, and too long."""
    bounds = DatabaseSettings(lock_wait_timeout_seconds=1, tries=1)
    async with warehouse_at(url, calls_max=1, database=bounds) as target:
        settings = ClientSettings(target=target, deadline_seconds=9, retry_wait_initial_seconds=10)
        async with WarehouseClient(settings) as warehouse:
            with connection(url) as rival, rival.cursor() as cursor:
                rival.begin()
                cursor.execute("SELECT * FROM stock_levels FOR UPDATE")
                waiting = asyncio.ensure_future(raised(warehouse.reserve("o", [line(1, 1, 1)], request_id="r7")))
                await asyncio.wait([waiting], timeout=0.2)
                too_many = await raised(warehouse.get_reservation("none", deadline_seconds=5))
                busy = await waiting
                # A whole table, that is not got round.
                cursor.execute("LOCK TABLES stock_levels WRITE")
                late = await raised(warehouse.get_inventory(1, 1, deadline_seconds=0.3))
                cursor.execute("UNLOCK TABLES")
    return {too_many, busy, late}


async def of_a_broken_database(url: str) -> type[WarehouseError]:
    async with warehouse_at(url) as target:
        sql(url, "ALTER TABLE products DROP COLUMN name")
        async with WarehouseClient(ClientSettings(target=target)) as warehouse:
            return await raised(warehouse.list_products())
