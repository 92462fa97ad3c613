"""What became of calls, by their request ids: one's own and nobody else's, as of one moment, in answers that fit."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.warehouse_kit import (
    CANCELLED,
    COMMITTED,
    RESERVED,
    Calls,
    cancel,
    commit,
    fresh,
    refused,
    reserve,
    serving,
    sql,
)

pytestmark = pytest.mark.sql


@pytest.fixture
async def calls(warehouse_database_url: str) -> AsyncIterator[Calls]:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 100_000, (2, 1): 100_000})
        yield calls


async def look_up(calls: Calls, *request_ids: str) -> list[pb.RequestOutcome]:
    answer = await calls.holds.BatchGetRequests(pb.BatchGetRequestsRequest(request_ids=request_ids))
    return list(answer.outcomes)


async def test_what_calls_led_to_as_it_is_now(calls: Calls) -> None:
    held, sold, freed = [fresh("mine") for _ in range(3)]
    holds = [await calls.hold((2, 1, 3), (1, 1, 2), request_id=one, order_id="17") for one in (held, sold, freed)]
    await calls.holds.Commit(commit(request_id="sell-1", reservation_id=holds[1].reservation_id))
    await calls.holds.Cancel(cancel(request_id="free-1", reserve_request_id=freed))
    outcomes = await look_up(calls, freed, held, sold, "sell-1")
    assert [one.request_id for one in outcomes] == [freed, held, sold, "sell-1"]
    states = [[reservation.state for reservation in one.reservations] for one in outcomes]
    assert states == [[CANCELLED], [RESERVED], [COMMITTED], [COMMITTED]]
    found = outcomes[1].reservations[0]
    assert found == holds[0]
    assert outcomes[1].answered_at == found.created_at
    assert not any(one.fenced for one in outcomes)


async def test_what_carries_the_same_order_id_is_not_found(calls: Calls) -> None:
    mine = fresh("mine")
    await calls.hold((1, 1, 1), request_id=mine, order_id="17")
    await calls.hold((1, 1, 5), order_id="17")
    [outcome] = await look_up(calls, mine)
    assert [line.quantity for reservation in outcome.reservations for line in reservation.lines] == [1]


async def test_calls_that_never_had_an_effect(calls: Calls) -> None:
    short = reserve((1, 1, 999_999), request_id=fresh("short"))
    assert (await refused(calls.holds.Reserve(short))).reason == "INSUFFICIENT_STOCK"
    fenced = fresh("fenced")
    await calls.holds.Cancel(cancel(reserve_request_id=fenced))
    never, refusal, fence = await look_up(calls, "never-made", short.request_id, fenced)
    seen = [(one.HasField("answered_at"), one.fenced, len(one.reservations)) for one in (never, refusal, fence)]
    assert seen == [(False, False, 0), (False, False, 0), (True, True, 0)]


async def test_an_answer_ends_before_it_is_too_large(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url, limits={"outcomes_bytes_max": 2000}) as calls:
        await calls.keep({(product, 1): 100 for product in range(1, 41)})
        ids = [fresh("wide") for _ in range(5)]
        lines = [(product, 1, 1) for product in range(1, 41)]
        await asyncio.gather(*(calls.hold(*lines, request_id=one) for one in ids))
        first = await look_up(calls, *ids)
        assert 1 <= len(first) < 5
        assert [one.request_id for one in first] == ids[: len(first)]
        rest = await look_up(calls, *ids[len(first) :])
        assert rest[0].request_id == ids[len(first)]
        assert {len(one.reservations[0].lines) for one in (*first, *rest)} == {40}


@pytest.mark.parametrize(
    ("request_ids", "field"),
    [([], "request_ids"), (["a"] * 1001, "request_ids"), (["a", "a"], "request_ids"), (["a", " b"], "request_ids[1]")],
)
async def test_malformed(calls: Calls, request_ids: list[str], field: str) -> None:
    no = await refused(calls.holds.BatchGetRequests(pb.BatchGetRequestsRequest(request_ids=request_ids)))
    assert (no.code, field in no.fields) == ("INVALID_ARGUMENT", True)


async def test_reservations_made_since_an_instant(calls: Calls, warehouse_database_url: str) -> None:
    old, new = await calls.hold((1, 1, 1)), await calls.hold((1, 1, 1))
    long_ago = "01900000" + old.reservation_id[8:]
    for table in ("reservations", "reservation_lines"):
        sql(
            warehouse_database_url,
            f"UPDATE {table} SET reservation_id = %s WHERE reservation_id = %s",
            long_ago,
            old.reservation_id,
        )
    since = Timestamp(seconds=new.created_at.seconds - 60)
    request = pb.ListReservationsRequest(created_since=since, page_size=1)
    page = await calls.holds.ListReservations(request)
    assert [one.reservation_id for one in page.reservations] == [new.reservation_id]
    assert page.next_page_token == ""
    beginning = pb.ListReservationsRequest(created_since=Timestamp(seconds=1), page_size=1)
    first = await calls.holds.ListReservations(beginning)
    beginning.page_token = first.next_page_token
    second = await calls.holds.ListReservations(beginning)
    seen = [one.reservation_id for page in (first, second) for one in page.reservations]
    assert seen == [new.reservation_id, long_ago]
