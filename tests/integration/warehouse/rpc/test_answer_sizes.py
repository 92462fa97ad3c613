"""No answer is larger than a message may be: lists end their pages by bytes, batches bound what they tell, and what
could not be answered is refused before it has an effect.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from order_gateway.gateway.grpc.adapter import GrpcGateway
from stockwarden_client import ClientSettings, MessageTooLarge, WarehouseClient
from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.conftest import MakeDatabase
from tests.kits.warehouse_kit import (
    Calls,
    calling,
    cancel,
    commit,
    fresh,
    lines,
    no_of_status,
    refused,
    reserve,
    scalar,
    serving,
    sql,
)
from warehouse.server import running
from warehouse.settings import WarehouseSettings
from warehouse.stock.sizes import MESSAGE_BYTES_LEAST

pytestmark = pytest.mark.sql
FACE = "\N{GRINNING FACE}"
PRODUCTS = 575
LEVELS = 1_050
MOVEMENTS = 1_000
HOLDS = 800
LINES = 100
ORDER = FACE * 64
NUMBERS = (
    "(SELECT 1 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS n FROM {digits} a, {digits} b, {digits} c, {digits} e) x"
).replace("{digits}", "(SELECT 0 AS d UNION " + " UNION ".join(f"SELECT {digit}" for digit in range(1, 10)) + ")")
NOW = "UTC_TIMESTAMP(6)"
STOCK_LEVEL = "product_id, warehouse_id, on_hand, reserved, version, created_at, updated_at"
LONG_LIFE = (
    (
        "products (product_id, sku, name, description, created_at, updated_at)",
        f"SELECT n, CONCAT('sku-', n), REPEAT('{FACE}', 255), REPEAT('{FACE}', 4000), {NOW}, {NOW}",
        f"FROM {NUMBERS} WHERE n <= {PRODUCTS}",
    ),
    (
        "warehouses (warehouse_id, code, name, priority, created_at, updated_at)",
        f"SELECT n, CONCAT('wh-', n), REPEAT('{FACE}', 255), n % 3, {NOW}, {NOW}",
        f"FROM {NUMBERS} WHERE n <= {LEVELS}",
    ),
    (
        f"stock_levels ({STOCK_LEVEL})",
        f"SELECT 1, n, 1000000000, IF(n = 1, {HOLDS}, 0), IF(n = 1, {MOVEMENTS}, 0), {NOW}, {NOW}",
        f"FROM {NUMBERS} WHERE n <= {LEVELS}",
    ),
    (
        f"stock_levels ({STOCK_LEVEL})",
        f"SELECT n, 1, 1000000000, {HOLDS}, 0, {NOW}, {NOW}",
        f"FROM {NUMBERS} WHERE n BETWEEN 2 AND {LINES}",
    ),
    (
        "movements (product_id, warehouse_id, sequence, type, quantity, on_hand_before, on_hand_after,",
        "reserved_before, reserved_after, reference, notes, actor, correlation_id, event_id, created_at)",
        f"SELECT 1, 1, n, 'STOCK_IN', 1, n - 1, n, 0, 0, REPEAT('{FACE}', 64), REPEAT('{FACE}', 255),",
        f"REPEAT('{FACE}', 64), REPEAT('{FACE}', 64), UUID(), {NOW} FROM {NUMBERS} WHERE n <= {MOVEMENTS}",
    ),
    (
        "reservations (reservation_id, order_id, order_sequence, state, expires_at, created_at, correlation_id)",
        f"SELECT CONCAT('10000000-0000-7000-8000-', LPAD(n, 12, '0')), '{ORDER}', n, 'RESERVED',",
        f"{NOW} + INTERVAL 1 DAY, {NOW}, REPEAT('{FACE}', 64) FROM {NUMBERS} WHERE n <= {HOLDS}",
    ),
    (
        "reservation_lines (reservation_id, product_id, warehouse_id, quantity, requested_quantity,",
        "committed_quantity) SELECT reservation_id, n, 1, 1, 1, 0",
        f"FROM reservations, {NUMBERS} WHERE n <= {LINES}",
    ),
)


@pytest.fixture(scope="module")
def url(make_database: MakeDatabase) -> str:
    """A warehouse in which everything is as long as it may be."""
    made = make_database("warehouse")
    for parts in LONG_LIFE:
        sql(made, f"INSERT INTO {' '.join(parts)}")
    return made


@pytest_asyncio.fixture
async def calls(url: str) -> AsyncIterator[Calls]:
    async with serving(url, message_bytes_max=MESSAGE_BYTES_LEAST) as made:
        yield made


def _lists() -> dict[str, tuple[Callable[[Calls], Any], Callable[[str], Message], str, int]]:
    """Of each list: the call, a request for its longest page, the field of the answer, and how many there are."""
    reservations, movements = pb.ListReservationsRequest, stock.ListMovementsRequest
    return {
        "ListProducts": (
            lambda calls: calls.stock.ListProducts,
            lambda token: stock.ListProductsRequest(page_size=1000, page_token=token),
            "products",
            PRODUCTS,
        ),
        "ListInventory": (
            lambda calls: calls.stock.ListInventory,
            lambda token: stock.ListInventoryRequest(product_id=1, page_token=token),
            "stock_levels",
            LEVELS,
        ),
        "ListMovements": (
            lambda calls: calls.stock.ListMovements,
            lambda token: movements(product_id=1, page_size=1000, page_token=token),
            "movements",
            MOVEMENTS,
        ),
        "ListReservations": (
            lambda calls: calls.holds.ListReservations,
            lambda token: reservations(order_id=ORDER, page_size=1000, page_token=token),
            "reservations",
            HOLDS,
        ),
        "ListReservations by state": (
            lambda calls: calls.holds.ListReservations,
            lambda token: reservations(state=pb.RESERVATION_STATE_RESERVED, page_size=1000, page_token=token),
            "reservations",
            HOLDS,
        ),
    }


LISTS = _lists()
BATCHES = {
    *("BatchGetProducts", "BatchGetInventory", "BatchGetRequests", "CheckStock", "BatchReserve", "Commit", "Cancel"),
}
ONE_THING = {
    *("Reserve", "Extend", "GetReservation", "SweepExpired", "CreateProduct", "CreateWarehouse", "GetInventory"),
    *("AddStock", "RemoveStock", "UpdateInventory", "GetCaller"),
}


def test_every_call_was_thought_of() -> None:
    services = (pb.DESCRIPTOR.services_by_name["WarehouseService"], stock.DESCRIPTOR.services_by_name["StockService"])
    methods = {method.name for service in services for method in service.methods}
    assert methods == {name.partition(" ")[0] for name in LISTS} | BATCHES | ONE_THING


def _key(element: Any) -> tuple[Any, ...]:
    names = ("reservation_id", "product_id", "warehouse_id", "sequence")
    return tuple(getattr(element, name) for name in names if hasattr(element, name))


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_ends_its_pages_by_bytes(calls: Calls, name: str) -> None:
    method, request, field, count = LISTS[name]
    found: list[Any] = []
    pages, token = 0, ""
    while True:
        answer = await method(calls)(request(token))
        assert answer.ByteSize() <= MESSAGE_BYTES_LEAST
        assert len(getattr(answer, field)) > 0
        found += getattr(answer, field)
        pages, token = pages + 1, answer.next_page_token
        if not token:
            break
    assert pages > 1
    assert len({_key(element) for element in found}) == len(found) == count


async def test_products_by_id_are_left_out_by_name(calls: Calls) -> None:
    wanted = [*range(1, PRODUCTS + 1), *range(10**15, 10**15 + 1000 - PRODUCTS)]
    answer = await calls.stock.BatchGetProducts(stock.BatchGetProductsRequest(product_ids=wanted))
    assert answer.ByteSize() <= MESSAGE_BYTES_LEAST
    told = [product.product_id for product in answer.products]
    assert told == list(range(1, len(told) + 1))
    assert len(told) > 10
    assert list(answer.left_out_product_ids) == list(range(len(told) + 1, PRODUCTS + 1))
    assert list(answer.missing_product_ids) == wanted[PRODUCTS:]


async def test_what_is_bounded_by_count_fits(calls: Calls) -> None:
    keys = [stock.StockLevelKey(product_id=2**62 + number, warehouse_id=2**62) for number in range(1000 - LINES)]
    keys += [stock.StockLevelKey(product_id=1, warehouse_id=number) for number in range(1, LINES + 1)]
    levels = await calls.stock.BatchGetInventory(stock.BatchGetInventoryRequest(keys=keys))
    assert len(levels.missing) + len(levels.stock_levels) == 1000
    items = lines(*((2**62 + number, 2**62, 10**6) for number in range(100)))
    assert len((await calls.holds.CheckStock(pb.CheckStockRequest(items=items))).items) == 100


async def test_a_batch_of_refusals_names_as_many_lines_as_fit(url: str) -> None:
    wanted = [reserve(*((number, 1, 10**6) for number in range(1, 21))) for _ in range(1000)]
    for product_id in range(1, 21):
        sql(url, "UPDATE stock_levels SET on_hand = reserved WHERE product_id = %s AND warehouse_id = 1", product_id)
    try:
        async with serving(url, message_bytes_max=2 * MESSAGE_BYTES_LEAST, refusal_lines_per_second_max=0) as calls:
            answer = await calls.holds.BatchReserve(pb.BatchReserveRequest(requests=wanted))
    finally:
        sql(url, "UPDATE stock_levels SET on_hand = 1000000000")
    assert answer.ByteSize() <= 2 * MESSAGE_BYTES_LEAST
    assert len(answer.results) == 1000
    for result in answer.results:
        no = no_of_status(result.error, "FAILED_PRECONDITION")
        assert no.reason == "INSUFFICIENT_STOCK"
        assert 1 <= len(no.lines) < 20
        assert len(no.lines) + int(no.metadata["left_out"]) == 20
        assert no.metadata["shortages"].count("product_id") == len(no.lines)


async def test_a_few_refusals_name_every_line(calls: Calls, url: str) -> None:
    wanted = reserve(*((number, 2, 1) for number in range(1, LINES + 1)), allow_partial=True)
    answer = await calls.holds.BatchReserve(pb.BatchReserveRequest(requests=[wanted]))
    assert answer.results[0].HasField("error")
    wanted = reserve(*((1, number, 10**6) for number in range(1, LINES + 1)))
    sql(url, "UPDATE stock_levels SET on_hand = reserved WHERE product_id = 1")
    try:
        answer = await calls.holds.BatchReserve(pb.BatchReserveRequest(requests=[wanted]))
        alone = await refused(calls.holds.Reserve(wanted))
    finally:
        sql(url, "UPDATE stock_levels SET on_hand = 1000000000")
    no = no_of_status(answer.results[0].error, "FAILED_PRECONDITION")
    assert (no.reason, len(no.lines), "left_out" in no.metadata) == ("INSUFFICIENT_STOCK", LINES, False)
    # By itself the refusal travels as a header, which has less room.
    assert (alone.reason, len(alone.lines), alone.metadata["left_out"]) == ("INSUFFICIENT_STOCK", 20, "80")


async def test_a_batch_whose_answer_could_not_fit_has_no_effect(calls: Calls, url: str) -> None:
    wanted = [reserve(*((number, 1, 1) for number in range(1, LINES + 1)), correlation_id=ORDER) for _ in range(500)]
    request = pb.BatchReserveRequest(requests=wanted)
    assert request.ByteSize() < MESSAGE_BYTES_LEAST
    before = scalar(url, "SELECT SUM(reserved) FROM stock_levels")
    no = await refused(calls.holds.BatchReserve(request))
    assert (no.code, no.fields) == ("INVALID_ARGUMENT", ("requests",))
    assert "send fewer at a time" in no.message
    assert scalar(url, "SELECT SUM(reserved) FROM stock_levels") == before
    assert scalar(url, "SELECT COUNT(*) FROM reservations") == HOLDS


@pytest.mark.parametrize("name", ["Commit", "Cancel"])
async def test_an_order_with_too_many_holds_for_one_answer_is_refused_first(calls: Calls, url: str, name: str) -> None:
    before = sql(url, "SELECT state, COUNT(*) FROM reservations GROUP BY state")
    call: Any = (
        calls.holds.Commit(commit(order_id=ORDER)) if name == "Commit" else calls.holds.Cancel(cancel(order_id=ORDER))
    )
    no = await refused(call)
    assert (no.code, no.reason, no.metadata["reservations"]) == ("FAILED_PRECONDITION", "ANSWER_TOO_LARGE", str(HOLDS))
    assert "by reservation_id" in no.message
    assert sql(url, "SELECT state, COUNT(*) FROM reservations GROUP BY state") == before


async def test_the_client_asks_in_parts(url: str) -> None:
    async with (
        warehouse_at(url, message_bytes_max=MESSAGE_BYTES_LEAST) as target,
        client_of(target, message_size_max_bytes=MESSAGE_BYTES_LEAST) as client,
    ):
        found, missing = await client.get_products([*range(1, PRODUCTS + 1), 10**9])
        assert (sorted(found), missing) == (list(range(1, PRODUCTS + 1)), [10**9])
        assert len(await client.list_inventory(1)) == LEVELS
        known = await gathered(GrpcGateway(client).catalogue())
        assert known == set(range(1, PRODUCTS + 1))
        wanted = [
            pb.ReserveRequest(
                request_id=fresh("part"), order_id=fresh("part"), lines=lines((1, 2, 1)), correlation_id=ORDER
            )
            for _ in range(1500)
        ]
        results = await client.batch_reserve(iter(wanted))
        assert [result.order_id for result in results if isinstance(result, pb.Reservation)] == [
            request.order_id for request in wanted
        ]


async def test_the_whole_catalogue_is_known_when_the_client_takes_less_than_the_server_sends(url: str) -> None:
    async with warehouse_at(url) as target, client_of(target, message_size_max_bytes=128 * 1024) as client:
        with pytest.raises(MessageTooLarge):
            await client.list_products(page_size=1000)
        assert await gathered(GrpcGateway(client).catalogue()) == set(range(1, PRODUCTS + 1))


async def test_what_a_call_ends_with_fits_into_the_headers_that_everybody_takes(url: str) -> None:
    """gRPC's own soft limit is 8 KiB, base64 and all; here with half of that, on the client's side."""
    many = [(2**62 + number, 2**62 + number, 0) for number in range(100)]
    async with (
        warehouse_at(url) as target,
        calling(target, options=[("grpc.max_metadata_size", 6144), *CLIENT_OPTIONS]) as strict,
    ):
        no = await refused(strict.holds.Reserve(reserve(*many)))
        assert no.code == "INVALID_ARGUMENT"
        assert len(no.fields) + int(no.metadata["left_out"]) == 100
        sql(url, "UPDATE stock_levels SET on_hand = reserved WHERE product_id = 1")
        try:
            no = await refused(strict.holds.Reserve(reserve(*((1, number, 10**6) for number in range(1, 101)))))
        finally:
            sql(url, "UPDATE stock_levels SET on_hand = 1000000000")
        assert no.reason == "INSUFFICIENT_STOCK"
        no = await refused(strict.holds.Commit(commit(order_id=FACE * 63)))
        assert no.reason in ("RESERVATION_NOT_FOUND", "ORDER_NOT_FOUND")


CLIENT_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.absolute_max_metadata_size", 8192))


@contextlib.asynccontextmanager
async def warehouse_at(url: str, **settings: Any) -> AsyncIterator[str]:
    known = {"listen": "127.0.0.1:0", "sweep_seconds": 3600, "stop_grace_seconds": 1, **settings}
    async with running(WarehouseSettings(database_url=url, **known)) as port:
        yield f"127.0.0.1:{port}"


def client_of(target: str, **settings: Any) -> WarehouseClient:
    return WarehouseClient(ClientSettings(target=target, deadline_seconds=60, attempt_timeout_seconds=60, **settings))


async def gathered(pages: AsyncIterator[Any]) -> set[int]:
    found: set[int] = set()
    async for page in pages:
        found |= set(page.products)
    return found
