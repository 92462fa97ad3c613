"""Nothing that can be sent is answered with INTERNAL, and bad fields are named."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.warehouse_kit import (
    Calls,
    No,
    assert_clean,
    lines,
    outcome,
    refused,
    serving,
    sql,
)

pytestmark = pytest.mark.sql
GREATEST = 2**63 - 1
LEAST = -(2**63)
BAD_IDS = ("", "x" * 65, " a", "a ", "a\0", "a\n", "\x7f", "\u0085")
ODD_IDS = ("\N{GRINNING FACE}" * 64, "'\"`;--", "\\", "%s%(a)s%", "a\u2028b", "é", "NULL", "{}[]\\u0041")
BAD_NUMBERS = (0, -1, LEAST)


@pytest_asyncio.fixture
async def calls(warehouse_database_url: str) -> AsyncIterator[Calls]:
    async with serving(warehouse_database_url) as made:
        await made.keep({(1, 1): 10})
        yield made


def token(filters: list[Any], cursor: list[Any]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([filters, cursor])).decode()


BASES: dict[str, Message] = {
    "CheckStock": pb.CheckStockRequest(items=lines((1, 1, 1))),
    "Reserve": pb.ReserveRequest(request_id="R", order_id="17", lines=lines((1, 1, 1))),
    "Commit": pb.CommitRequest(request_id="C", order_id="17", lines=lines((1, 1, 1))),
    "Cancel": pb.CancelRequest(request_id="X", order_id="17"),
    "Extend": pb.ExtendRequest(request_id="E", reservation_id="17", ttl=Duration(seconds=1)),
    "GetCaller": pb.GetCallerRequest(),
    "GetReservation": pb.GetReservationRequest(reservation_id="17"),
    "ListReservations": pb.ListReservationsRequest(order_id="17"),
    "CreateProduct": stock.CreateProductRequest(request_id="P", sku="S", name="N"),
    "CreateWarehouse": stock.CreateWarehouseRequest(request_id="W", code="C", name="N"),
    "BatchGetProducts": stock.BatchGetProductsRequest(product_ids=[1]),
    "ListProducts": stock.ListProductsRequest(),
    "GetInventory": stock.GetInventoryRequest(product_id=1, warehouse_id=1),
    "BatchGetInventory": stock.BatchGetInventoryRequest(keys=[stock.StockLevelKey(product_id=1, warehouse_id=1)]),
    "ListInventory": stock.ListInventoryRequest(product_id=1),
    "AddStock": stock.AddStockRequest(request_id="A", product_id=1, warehouse_id=1, quantity=1),
    "RemoveStock": stock.RemoveStockRequest(request_id="D", product_id=1, warehouse_id=1, quantity=1),
    "UpdateInventory": stock.UpdateInventoryRequest(request_id="U", product_id=1, warehouse_id=1, on_hand=1),
    "ListMovements": stock.ListMovementsRequest(product_id=1),
}
"""A good request for each method."""

IDS = {
    "Reserve": ("request_id", "order_id"),
    "Commit": ("request_id", "order_id", "reservation_id"),
    "Cancel": ("request_id", "order_id", "reservation_id", "reserve_request_id"),
    "Extend": ("request_id", "reservation_id"),
    "GetReservation": ("reservation_id",),
    "CreateProduct": ("request_id", "sku"),
    "CreateWarehouse": ("request_id", "code"),
    "AddStock": ("request_id",),
    "RemoveStock": ("request_id",),
    "UpdateInventory": ("request_id",),
}
NUMBERS = {
    "GetInventory": ("product_id", "warehouse_id"),
    "ListInventory": ("product_id",),
    "AddStock": ("product_id", "warehouse_id", "quantity"),
    "RemoveStock": ("product_id", "warehouse_id", "quantity"),
    "UpdateInventory": ("product_id", "warehouse_id"),
    "ListMovements": ("product_id",),
}
_A_LOT = [pb.Line(product_id=1, warehouse_id=1, quantity=1)] * 101
Cases = list[tuple[str, dict[str, Any], str]]


def _lines_cases() -> Cases:
    cases: Cases = []
    for method, name in (("CheckStock", "items"), ("Reserve", "lines"), ("Commit", "lines")):
        cases.append((method, {name: _A_LOT}, name))
        for number, field in enumerate(("product_id", "warehouse_id", "quantity")):
            for bad in BAD_NUMBERS:
                triple = [1, 1, 1]
                triple[number] = bad
                cases.append((method, {name: lines((triple[0], triple[1], triple[2]))}, f"{name}[0].{field}"))
        cases += [(method, {name: lines((1, 1, bad))}, f"{name}[0].quantity") for bad in (1_000_001, GREATEST)]
    return [*cases, ("CheckStock", {"items": []}, "items"), ("Reserve", {"lines": []}, "lines")]


def _cases() -> Cases:
    cases = _lines_cases()
    cases += [(method, {field: bad}, field) for method, fields in IDS.items() for field in fields for bad in BAD_IDS]
    cases += [(method, {f: bad}, f) for method, fields in NUMBERS.items() for f in fields for bad in BAD_NUMBERS]
    for method in ("AddStock", "RemoveStock", "UpdateInventory"):
        cases += [(method, {"notes": "x" * 256}, "notes"), (method, {"reference": "x" * 65}, "reference")]
    for method in ("AddStock", "RemoveStock"):
        cases += [(method, {"quantity": bad}, "quantity") for bad in (1_000_001, GREATEST)]
        cases += [(method, {"type": bad}, "type") for bad in (3, 7, 99, -1)]
    for method in ("Reserve", "Extend"):
        ttls = ((0, 0), (-1, 0), (GREATEST, 0), (0, 999), (604_801, 0))
        cases += [(method, {"ttl": Duration(seconds=seconds, nanos=nanos)}, "ttl") for seconds, nanos in ttls]
        cases += [(method, {"ttl": Duration(seconds=9, nanos=bad)}, "ttl.nanos") for bad in (-1, 2**31 - 1)]
    for method in ("ListReservations", "ListProducts", "ListMovements"):
        cases += [(method, {"page_size": bad}, "page_size") for bad in (-1, 1001, -(2**31))]
        cases += [(method, {"page_token": bad}, "page_token") for bad in ("x", "é", "W10=", "e30=", "\0", "%")]
    prices = {
        "list_price": (("USD", -1, 0), ("USD", 10**10, 0), ("USD", 0, -1), ("USD", GREATEST, 0)),
        "list_price.nanos": (("USD", 1, 1), ("USD", 1, 10**9), ("JPY", 1, 500_000_000)),
        "list_price.currency_code": (("usd", 1, 0), ("", 1, 0), ("EURO", 1, 0), ("É\0A", 1, 0)),
    }
    for field, values in prices.items():
        for code, units, nanos in values:
            price = Money(currency_code=code, units=units, nanos=nanos)
            cases.append(("CreateProduct", {"list_price": price}, field))
    return [
        *cases,
        ("Reserve", {"correlation_id": "x" * 65}, "correlation_id"),
        ("Commit", {"if_expired": 9}, "if_expired"),
        ("Cancel", {"reason": "x" * 256}, "reason"),
        ("Cancel", {"reason": "\x07"}, "reason"),
        ("Cancel", {"reserve_request_id": "X"}, "reserve_request_id"),
        ("ListReservations", {"order_id": ""}, "order_id"),
        ("ListReservations", {"product_id": -1}, "product_id"),
        ("ListReservations", {"state": 9}, "state"),
        ("ListMovements", {"type": 99}, "type"),
        ("ListMovements", {"warehouse_id": -1}, "warehouse_id"),
        *(("ListMovements", {"since": Timestamp(seconds=bad)}, "since") for bad in (LEAST, GREATEST)),
        ("ListMovements", {"since": Timestamp(seconds=1, nanos=-1)}, "since"),
        ("CreateProduct", {"product_id": GREATEST}, "product_id"),
        ("CreateProduct", {"product_id": -1}, "product_id"),
        ("CreateProduct", {"name": " "}, "name"),
        ("CreateProduct", {"name": "x" * 256}, "name"),
        ("CreateProduct", {"description": "x" * 4001}, "description"),
        ("CreateWarehouse", {"warehouse_id": GREATEST}, "warehouse_id"),
        ("CreateWarehouse", {"priority": -1}, "priority"),
        ("CreateWarehouse", {"priority": 2**31 - 1}, "priority"),
        ("UpdateInventory", {"on_hand": -1}, "on_hand"),
        ("UpdateInventory", {"on_hand": GREATEST}, "on_hand"),
        ("UpdateInventory", {"reserved": -1}, "reserved"),
        ("BatchGetProducts", {"product_ids": []}, "product_ids"),
        ("BatchGetProducts", {"product_ids": [1] * 1001}, "product_ids"),
        ("BatchGetProducts", {"product_ids": [0]}, "product_ids[0]"),
        ("BatchGetInventory", {"keys": []}, "keys"),
        ("BatchGetInventory", {"keys": [stock.StockLevelKey()]}, "keys[0].product_id"),
    ]


def altered(method: str, changes: dict[str, Any]) -> Message:
    """The good request of `method`, with `changes`."""
    request = type(BASES[method])()
    request.CopyFrom(BASES[method])
    for field, value in changes.items():
        request.ClearField(field)
        if isinstance(value, list):
            getattr(request, field).extend(value)
        elif isinstance(value, Message):
            getattr(request, field).CopyFrom(value)
        else:
            setattr(request, field, value)
    return request


def call(calls: Calls, method: str, request: Message) -> Any:
    """Call the method of either service."""
    stub = calls.holds if hasattr(calls.holds, method) else calls.stock
    return getattr(stub, method)(request)


async def test_every_bad_field_is_named(calls: Calls) -> None:
    wrong = []
    for method, changes, field in _cases():
        no = await outcome(call(calls, method, altered(method, changes)))
        named = isinstance(no, No) and no.code == "INVALID_ARGUMENT" and field in no.fields
        if not named:
            wrong.append((method, str(changes)[:80], field, str(no)[:200]))
    assert wrong == []


async def test_a_target_is_needed(calls: Calls) -> None:
    for request in (pb.CommitRequest(request_id="R"), pb.CancelRequest(request_id="R")):
        no = await refused(call(calls, type(request).__name__.removesuffix("Request"), request))
        assert (no.code, no.fields) == ("INVALID_ARGUMENT", ("target",))
    no = await refused(calls.holds.Extend(pb.ExtendRequest(request_id="R", reservation_id="x")))
    assert "ttl" in no.fields


async def test_odd_texts_come_back_as_they_were(calls: Calls) -> None:
    for number, odd in enumerate(ODD_IDS):
        request = pb.ReserveRequest(request_id=odd, order_id=odd, correlation_id=odd, lines=lines((1, 1, 1)))
        held = (await calls.holds.Reserve(request)).reservation
        assert (held.order_id, held.correlation_id) == (odd, odd)
        assert (await calls.holds.Reserve(request)).reservation == held
        listed = await calls.holds.ListReservations(pb.ListReservationsRequest(order_id=odd))
        assert [item.reservation_id for item in listed.reservations] == [held.reservation_id]
        [ended] = (
            await calls.holds.Cancel(pb.CancelRequest(request_id=f"X{number}", order_id=odd, reason=odd))
        ).reservations
        assert ended.reason == odd
        changed = stock.UpdateInventoryRequest(
            request_id=f"U{number}", product_id=1, warehouse_id=1, on_hand=10, notes=odd * 3, reference=odd
        )
        told = (await calls.stock.UpdateInventory(changed)).movement
        assert (told.notes, told.reference) == (odd * 3, odd)
        product = stock.CreateProductRequest(
            request_id=f"P{number}",
            sku=odd,
            name=odd,
            description=odd * 60,
            list_price=Money(currency_code="USD", units=9_999_999_999, nanos=990_000_000),
        )
        made = (await calls.stock.CreateProduct(product)).product
        assert (made.sku, made.name, made.description, made.list_price) == (odd, odd, odd * 60, product.list_price)


@pytest.mark.parametrize(
    ("method", "changes", "filters", "cursors"),
    [
        (
            "ListReservations",
            {"order_id": "17"},
            ["17", 0, 0],
            [["é\0'"], ["\N{GRINNING FACE}" * 500], [5], [1, 2], ["\\"], []],
        ),
        (
            "ListReservations",
            {"order_id": "", "state": 1},
            ["", 0, 1],
            [[10**18, "é"], [-1, "x"], [GREATEST, ""], [2**64 - 1, "x"], ["x", 1], [None, "x"]],
        ),
        ("ListProducts", {}, ["products"], [[GREATEST], [LEAST], [2**64 - 1], ["x"], [1.5]]),
        ("ListMovements", {}, [1, 0, 0, 0], [[GREATEST, LEAST], [1, 2**64 - 1], [1], [True, 1]]),
    ],
)
async def test_forged_page_tokens_do_no_harm(
    calls: Calls, method: str, changes: dict[str, Any], filters: list[Any], cursors: list[list[Any]]
) -> None:
    await calls.hold((1, 1, 1), order_id="17")
    for cursor in cursors:
        ended = await outcome(call(calls, method, altered(method, {**changes, "page_token": token(filters, cursor)})))
        assert not isinstance(ended, No) or (ended.code, ended.fields) == ("INVALID_ARGUMENT", ("page_token",))


async def test_the_last_ids_can_be_chosen_and_more_drawn_after_them(calls: Calls) -> None:
    for number in (2**53 - 1, 0, 0):
        made = await calls.stock.CreateProduct(
            stock.CreateProductRequest(request_id=f"P{number}", product_id=number, sku=f"S{number}", name="N")
        )
        assert made.product.product_id >= 2**53 - 1
        await calls.stock.CreateWarehouse(
            stock.CreateWarehouseRequest(request_id=f"W{number}", warehouse_id=number, code=f"S{number}")
        )


async def test_a_message_that_is_too_long_or_no_message_is_refused(calls: Calls) -> None:
    long = pb.BatchReserveRequest(requests=[pb.ReserveRequest(order_id="x" * 5_000_000)])
    assert (await refused(calls.holds.BatchReserve(long))).code == "RESOURCE_EXHAUSTED"
    raw: Any = calls.channel.unary_unary("/warehouse.v1.WarehouseService/Reserve")
    no = await refused(raw(b"\xff\xff\xff"))
    assert (no.code, no.fields) == ("INVALID_ARGUMENT", ("request",))
    unknown: Any = calls.channel.unary_unary("/warehouse.v1.WarehouseService/Steal")
    assert (await refused(unknown(b""))).code == "UNIMPLEMENTED"


async def test_a_bad_correlation_id_is_named_and_a_good_one_travels(calls: Calls) -> None:
    request = pb.ReserveRequest(request_id="R", order_id="17", lines=lines((1, 1, 1)))
    no = await refused(calls.holds.Reserve(request, metadata=(("x-correlation-id", "x" * 65),)))
    assert (no.code, no.fields) == ("INVALID_ARGUMENT", ("x-correlation-id",))
    held = (await calls.holds.Reserve(request, metadata=(("x-correlation-id", "abc"),))).reservation
    assert held.correlation_id == "abc"
    movements = await calls.stock.ListMovements(stock.ListMovementsRequest(product_id=1, page_size=1))
    assert (movements.movements[0].correlation_id, movements.movements[0].actor) == ("abc", "anonymous")


# ---------------------------------------------------------------- any sequence of calls

small = st.integers(1, 3)
order_ids = st.sampled_from(["A", "B", "C"])
request_ids = st.integers(0, 30).map("r{}".format)
some_lines = st.lists(st.builds(pb.Line, product_id=small, warehouse_id=small, quantity=small), max_size=3)
targets = st.one_of(
    st.fixed_dictionaries({"order_id": order_ids}),
    st.fixed_dictionaries({"reserve_request_id": request_ids}),
    st.fixed_dictionaries({"reservation_id": st.integers(0, 5).map(str)}),
)


def made_of(message: type[Message], **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    """Requests with a request id and `parts`, each of which may be a dictionary of several fields."""
    return st.fixed_dictionaries({"request_id": request_ids, **parts}).map(
        lambda values: message(**{**values.pop("target", {}), **values})
    )


keys = {"product_id": small, "warehouse_id": small}
any_request = st.one_of(
    made_of(
        pb.ReserveRequest,
        order_id=order_ids,
        lines=some_lines,
        allow_partial=st.booleans(),
        ttl=st.sampled_from([None, Duration(nanos=1000), Duration(seconds=9)]),
    ),
    made_of(
        pb.CommitRequest,
        target=targets.filter(lambda target: "reserve_request_id" not in target),
        lines=some_lines,
        if_expired=st.integers(0, 2),
    ),
    made_of(pb.CancelRequest, target=targets),
    made_of(pb.ExtendRequest, reservation_id=st.integers(0, 5).map(str), ttl=st.just(Duration(seconds=5))),
    made_of(stock.AddStockRequest, quantity=small, **keys),
    made_of(stock.RemoveStockRequest, quantity=small, **keys),
    made_of(stock.UpdateInventoryRequest, on_hand=st.integers(0, 5), **keys),
    made_of(stock.CreateProductRequest, product_id=st.integers(0, 3), sku=order_ids, name=order_ids),
    made_of(stock.CreateWarehouseRequest, warehouse_id=st.integers(0, 3), code=order_ids),
    st.just(pb.SweepExpiredRequest()),
)


@given(st.lists(st.lists(any_request, min_size=1, max_size=6), min_size=4, max_size=14))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_sequence_of_calls_breaks_a_constraint(warehouse_database_url: str, rounds: list[list[Message]]) -> None:
    asyncio.run(_play(warehouse_database_url, rounds))


async def _play(url: str, rounds: list[list[Message]]) -> None:
    """Each round's calls at once; a reservation id is the number of one seen so far."""
    for table in ("outbox", "request_ids", "movements", "reservation_lines", "reservations", "stock_levels"):
        sql(url, f"DELETE FROM {table}")
    for table in ("products", "warehouses"):
        sql(url, f"DELETE FROM {table}")
    seen: list[str] = []
    async with serving(url) as calls:
        await calls.keep({(1, 1): 5, (2, 1): 5, (2, 2): 5})
        for requests in rounds:
            for request in requests:
                number = getattr(request, "reservation_id", "")
                if number.isdigit() and int(number) < len(seen):
                    request.reservation_id = seen[int(number)]  # type: ignore[attr-defined]
            ends = await asyncio.gather(
                *(outcome(call(calls, type(request).__name__.removesuffix("Request"), request)) for request in requests)
            )
            codes = {ended.code for ended in ends if isinstance(ended, No)}
            assert codes <= {
                code.name
                for code in (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    grpc.StatusCode.NOT_FOUND,
                    grpc.StatusCode.ALREADY_EXISTS,
                    grpc.StatusCode.INVALID_ARGUMENT,
                )
            }
            seen += [ended.reservation.reservation_id for ended in ends if isinstance(ended, pb.ReserveResponse)]
    await assert_clean(url)
