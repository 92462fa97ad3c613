"""Holds that end at an instant of the caller's, lists of what has changed, by the database's clock; lists that wait."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.warehouse_kit import (
    assert_clean,
    fresh,
    nobody_reads,
    refused,
    reserve,
    scalar,
    serving,
    sql,
)

pytestmark = pytest.mark.sql


def database_time(url: str) -> datetime:
    now: datetime = scalar(url, "SELECT UTC_TIMESTAMP(6)")
    return now.replace(tzinfo=UTC)


def until(instant: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(instant)
    return made


async def test_a_hold_ends_at_the_instant_asked_for(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 10})
        end = until(database_time(warehouse_database_url) + timedelta(hours=1))
        request = reserve((1, 1, 1), expires_at=end)
        held = (await calls.holds.Reserve(request)).reservation
        assert held.expires_at == end
        results = (await calls.holds.BatchReserve(pb.BatchReserveRequest(requests=[request]))).results
        assert results[0].reservation == held
        other = reserve((1, 1, 1), expires_at=until(end.ToDatetime(UTC) + timedelta(seconds=1)))
        other.request_id = request.request_id
        assert (await refused(calls.holds.Reserve(other))).reason == "REQUEST_ID_REUSED"
    await assert_clean(warehouse_database_url)


async def test_an_instant_that_is_over_or_too_far_is_refused(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url, limits={"ttl_max_seconds": 1000}) as calls:
        await calls.keep({(1, 1): 10})
        now = database_time(warehouse_database_url)
        for instant in (
            now - timedelta(milliseconds=1),
            now + timedelta(seconds=1100),
            datetime(9999, 12, 31, tzinfo=UTC),
        ):
            no = await refused(calls.holds.Reserve(reserve((1, 1, 1), expires_at=until(instant))))
            assert (no.code, no.reason, no.fields) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT", ("expires_at",))
        both = reserve((1, 1, 1), ttl_seconds=9, expires_at=until(now + timedelta(seconds=9)))
        assert (await refused(calls.holds.Reserve(both))).fields == ("expires_at",)
        none = reserve((1, 1, 1), expires_at=Timestamp(seconds=2**62))
        assert "expires_at" in (await refused(calls.holds.Reserve(none))).fields
        assert await calls.level() == (10, 0)


async def test_a_repetition_is_answered_when_the_instant_is_over(warehouse_database_url: str) -> None:
    """The answer got lost, and the caller asks again when the hold has ended: it did happen."""
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 10})
        end = until(database_time(warehouse_database_url) + timedelta(seconds=0.3))
        request = reserve((1, 1, 1), expires_at=end)
        held = await calls.holds.Reserve(request)
        sql(warehouse_database_url, "SELECT SLEEP(0.4)")
        assert await calls.holds.Reserve(request) == held
        again = await refused(calls.holds.Reserve(reserve((1, 1, 1), expires_at=end)))
        assert again.fields == ("expires_at",)


async def test_the_catalogue_tells_what_has_changed_since(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(number, 1): 1 for number in range(1, 6)})
        everything = await calls.stock.ListProducts(stock.ListProductsRequest(page_size=2))
        assert everything.total_size == 5
        uncounted = await calls.stock.ListProducts(stock.ListProductsRequest(page_size=2, without_total=True))
        assert (uncounted.total_size, uncounted.products) == (0, everything.products)
        since = uncounted.read_at
        nothing = await calls.stock.ListProducts(stock.ListProductsRequest(changed_since=since))
        assert not nothing.products
        for number in (8, 7, 9):
            await calls.stock.CreateProduct(
                stock.CreateProductRequest(request_id=fresh("p"), product_id=number, sku=f"N-{number}", name="New")
            )
        asked = stock.ListProductsRequest(changed_since=since, page_size=2)
        first = await calls.stock.ListProducts(asked)
        assert [product.product_id for product in first.products] == [7, 8]
        asked.page_token = first.next_page_token
        assert [product.product_id for product in (await calls.stock.ListProducts(asked)).products] == [9]
        asked.ClearField("changed_since")
        assert (await refused(calls.stock.ListProducts(asked))).fields == ("page_token",)


async def test_the_warehouse_works_while_lists_wait(warehouse_database_url: str) -> None:
    """Lists that don't get on leave connections for others."""
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 10})
        async with nobody_reads(warehouse_database_url, "movements"):
            request = stock.ListMovementsRequest(product_id=1, warehouse_id=1)
            lists = [asyncio.ensure_future(calls.stock.ListMovements(request)) for _ in range(20)]
            await asyncio.wait(lists, timeout=0.5)
            async with asyncio.timeout(2):
                assert (await calls.holds.GetCaller(pb.GetCallerRequest())).role == "admin"
                assert (await calls.stock.BatchGetProducts(stock.BatchGetProductsRequest(product_ids=[1]))).products
            assert not any(task.done() for task in lists)
        answers = await asyncio.gather(*lists)
        assert {len(answer.movements) for answer in answers} == {1}
