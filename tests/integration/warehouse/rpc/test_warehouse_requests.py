"""One request id, one effect: replays of every call, on one server and on two, alone and racing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from service_kit.database.database import Database
from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.warehouse_kit import (
    CANCELLED,
    RESERVED,
    Calls,
    No,
    assert_clean,
    cancel,
    connection,
    fresh,
    no_of_status,
    outcome,
    refused,
    reserve,
    scalar,
    serving,
)
from warehouse.stock.commands import Answer, Cancel, Line, Reserve
from warehouse.writing import statements
from warehouse.writing.store import StockStore

pytestmark = pytest.mark.sql
TABLES = ("products", "warehouses", "reservations", "reservation_lines", "movements", "outbox", "request_ids")
Call = Callable[[Calls, str, int], Awaitable[Any]]


@pytest_asyncio.fixture
async def two(warehouse_database_url: str) -> AsyncIterator[tuple[Calls, Calls]]:
    """Two servers on the same database."""
    async with serving(warehouse_database_url) as one, serving(warehouse_database_url) as other:
        await one.keep({(1, 1): 100, (2, 1): 100})
        yield one, other
        await assert_clean(warehouse_database_url)


def _reserve(calls: Calls, request_id: str, variant: int) -> Awaitable[Any]:
    return calls.holds.Reserve(reserve((1, 1, 1 + variant), request_id=request_id, order_id="17"))


async def _batch_reserve(calls: Calls, request_id: str, variant: int) -> Any:
    request = reserve((1, 1, 1 + variant), request_id=request_id, order_id="17")
    [result] = (await calls.holds.BatchReserve(pb.BatchReserveRequest(requests=[request]))).results
    return no_of_status(result.error, "ALREADY_EXISTS") if result.HasField("error") else result.reservation


def _commit(calls: Calls, request_id: str, variant: int) -> Awaitable[Any]:
    request = pb.CommitRequest(request_id=request_id, order_id="held", if_expired=2 * variant)  # type: ignore[arg-type]
    return calls.holds.Commit(request)


def _cancel(calls: Calls, request_id: str, variant: int) -> Awaitable[Any]:
    return calls.holds.Cancel(pb.CancelRequest(request_id=request_id, order_id="held", reason=f"reason {variant}"))


def _cancel_unseen(calls: Calls, request_id: str, variant: int) -> Awaitable[Any]:
    return calls.holds.Cancel(pb.CancelRequest(request_id=request_id, order_id=f"unseen {variant}"))


def _fence(calls: Calls, request_id: str, variant: int) -> Awaitable[Any]:
    return calls.holds.Cancel(pb.CancelRequest(request_id=request_id, reserve_request_id=f"unseen {variant}"))


async def _extend(calls: Calls, request_id: str, variant: int) -> Any:
    [held] = (await calls.holds.ListReservations(pb.ListReservationsRequest(order_id="held"))).reservations
    ttl = Duration(seconds=5000 + variant)
    return await calls.holds.Extend(
        pb.ExtendRequest(request_id=request_id, reservation_id=held.reservation_id, ttl=ttl)
    )


def _add(calls: Calls, request_id: str, variant: int) -> Awaitable[Any]:
    return calls.stock.AddStock(
        stock.AddStockRequest(request_id=request_id, product_id=1 + variant, warehouse_id=1, quantity=5)
    )


def _remove(calls: Calls, request_id: str, variant: int) -> Awaitable[Any]:
    return calls.stock.RemoveStock(
        stock.RemoveStockRequest(request_id=request_id, product_id=1, warehouse_id=1, quantity=5 + variant)
    )


def _update(calls: Calls, request_id: str, variant: int) -> Awaitable[Any]:
    return calls.stock.UpdateInventory(
        stock.UpdateInventoryRequest(request_id=request_id, product_id=1, warehouse_id=1, on_hand=50 + variant)
    )


def _create_product(calls: Calls, request_id: str, variant: int) -> Awaitable[Any]:
    return calls.stock.CreateProduct(
        stock.CreateProductRequest(request_id=request_id, sku="NEW", name=f"Name {variant}")
    )


def _create_warehouse(calls: Calls, request_id: str, variant: int) -> Awaitable[Any]:
    return calls.stock.CreateWarehouse(
        stock.CreateWarehouseRequest(request_id=request_id, code="NEW", priority=variant)
    )


MUTATING: tuple[Call, ...] = (
    _reserve,
    _batch_reserve,
    _commit,
    _cancel,
    _cancel_unseen,
    _fence,
    _extend,
    _add,
    _remove,
    _update,
    _create_product,
    _create_warehouse,
)
every_mutating_call = pytest.mark.parametrize("call", MUTATING, ids=lambda call: call.__name__.strip("_"))


def counts(url: str) -> dict[str, int]:
    return {table: scalar(url, f"SELECT COUNT(*) FROM {table}") for table in TABLES}


@every_mutating_call
async def test_a_replay_has_no_new_effect(two: tuple[Calls, Calls], warehouse_database_url: str, call: Call) -> None:
    one, other = two
    await one.hold((1, 1, 5), order_id="held")
    first = await call(one, "R", 0)
    after = counts(warehouse_database_url)
    assert [await call(one, "R", 0), await call(other, "R", 0)] == [first, first]
    for server in two:
        ended = await outcome(call(server, "R", 1))
        assert isinstance(ended, No)
        assert (ended.code, ended.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        assert ended.metadata == {"request_id": "R"}
    assert counts(warehouse_database_url) == after


@every_mutating_call
async def test_many_at_once_on_two_servers_have_one_effect(
    two: tuple[Calls, Calls], warehouse_database_url: str, call: Call
) -> None:
    await two[0].hold((1, 1, 5), order_id="held")
    answers = await asyncio.gather(*(call(two[number % 2], "R", 0) for number in range(12)))
    assert all(answer == answers[0] for answer in answers)
    assert scalar(warehouse_database_url, "SELECT COUNT(*) FROM request_ids WHERE request_id = 'R'") == 1
    ended = await asyncio.gather(*(outcome(call(two[number % 2], "S", number % 4 // 2)) for number in range(12)))
    reasons = {item.reason for item in ended if isinstance(item, No)}
    assert reasons <= {"REQUEST_ID_REUSED", "PRODUCT_EXISTS", "WAREHOUSE_EXISTS", "RESERVATION_CANCELLED"}


@every_mutating_call
async def test_a_request_id_counts_across_methods(two: tuple[Calls, Calls], call: Call) -> None:
    await two[0].hold((1, 1, 5), order_id="held")
    used_by = _remove if call is _add else _add
    await used_by(two[0], "R", 0)
    ended = await outcome(call(two[1], "R", 0))
    assert isinstance(ended, No)
    assert ended.reason == "REQUEST_ID_REUSED"


async def test_a_repeat_waits_for_the_first_that_is_still_under_way(
    two: tuple[Calls, Calls], warehouse_database_url: str
) -> None:
    """Both servers stand before the same locked row; whoever comes second finds the answer of the first."""
    with connection(warehouse_database_url) as blocker, blocker.cursor() as cursor:
        blocker.begin()
        cursor.execute("SELECT * FROM stock_levels FOR UPDATE")
        request = reserve((1, 1, 3), request_id="R")
        pending = [asyncio.ensure_future(_coroutine(calls.holds.Reserve(request))) for calls in two]
        done, _ = await asyncio.wait(pending, timeout=0.3)
        assert not done
        blocker.rollback()
        first, second = await asyncio.gather(*pending)
    assert first == second
    assert await two[0].level() == (100, 3)


async def _coroutine(call: Awaitable[Any]) -> Any:
    return await call


async def test_a_refusal_is_not_kept(two: tuple[Calls, Calls]) -> None:
    request = reserve((1, 1, 101), request_id="R")
    assert (await refused(two[0].holds.Reserve(request))).reason == "INSUFFICIENT_STOCK"
    await _add(two[0], "more", 0)
    assert (await two[1].holds.Reserve(request)).reservation.state == RESERVED


async def test_who_asks_and_in_which_conversation_does_not_make_it_another_request(two: tuple[Calls, Calls]) -> None:
    request = reserve((1, 1, 1), request_id="R", order_id="17", correlation_id="first try")
    first = await two[0].holds.Reserve(request)
    request.correlation_id = "second try"
    assert await two[1].holds.Reserve(request) == first


@pytest.mark.parametrize("way", ["order_id", "reserve_request_id"])
async def test_cancel_and_reserve_racing_never_leak_a_hold(two: tuple[Calls, Calls], way: str) -> None:
    for number in range(60):
        request = reserve((1, 1, 1))
        value = request.order_id if way == "order_id" else request.request_id
        racers: list[Awaitable[Any]] = [
            outcome(two[number % 2].holds.Reserve(request)),
            outcome(two[1 - number % 2].holds.Cancel(cancel(**{way: value}))),
        ]
        held, cancelled = await asyncio.gather(*racers)
        assert not isinstance(cancelled, No), cancelled
        if isinstance(held, No):
            assert held.reason == "RESERVE_CANCELLED"
        else:
            state = await two[0].state(held.reservation.reservation_id)
            assert state == CANCELLED, (number, cancelled)
    assert await two[0].level() == (100, 0)


async def test_a_reserve_that_is_answered_while_its_cancel_looks_for_it_is_cancelled(
    two: tuple[Calls, Calls], warehouse_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(warehouse_database_url)
    canceller, reserver = StockStore(database), StockStore(database)
    execute = canceller._session.execute
    pending = [Reserve("R", "17", (Line(1, 1, 1),), 60_000_000)]

    async def overtaken(text: str, values: dict[str, Any]) -> Any:
        rows = await execute(text, values)
        if pending and text.startswith(statements.BEGIN):
            await reserver.process([pending.pop()])
        return rows

    monkeypatch.setattr(canceller._session, "execute", overtaken)
    [answer] = await canceller.process([Cancel("C", reserve_request_id="R")])
    assert isinstance(answer, Answer)
    assert [item.state for item in answer.reservations] == ["CANCELLED"]
    await asyncio.gather(canceller.close(), reserver.close())
    await database.close()
    assert await two[0].level() == (100, 0)


async def test_crossing_orders_of_many_lines_are_never_lost(warehouse_database_url: str) -> None:
    """Lines named in opposite order, on two servers, with commits and cancels of the same levels in between."""
    async with serving(warehouse_database_url) as one, serving(warehouse_database_url) as other:
        products = range(1, 9)
        await one.keep({(product, 1): 10_000 for product in products})

        async def shop(calls: Calls, number: int) -> None:
            for turn in range(8):
                chosen = [(product, 1, 1) for product in products if (product * 7 + number + turn) % 3]
                held = await calls.hold(*(chosen if number % 2 else chosen[::-1]), order_id=fresh("order"))
                if turn % 3 == 0:
                    await other.holds.Cancel(cancel(order_id=held.order_id))
                elif turn % 3 == 1:
                    await one.holds.Commit(
                        pb.CommitRequest(request_id=fresh("request"), reservation_id=held.reservation_id)
                    )

        await asyncio.gather(*(shop((one, other)[number % 2], number) for number in range(32)))
    assert scalar(warehouse_database_url, "SELECT COUNT(*) FROM reservations") == 32 * 8
    await assert_clean(warehouse_database_url)
