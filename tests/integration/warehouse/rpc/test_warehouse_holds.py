"""What holds promise, through the real API on a real database."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.warehouse_kit import (
    CANCELLED,
    COMMITTED,
    EXPIRED,
    RESERVED,
    Calls,
    No,
    assert_clean,
    cancel,
    commit,
    extend,
    fresh,
    lines,
    make_overdue,
    no_of_status,
    outcome,
    refused,
    reserve,
    serving,
    sql,
)

pytestmark = pytest.mark.sql
REACQUIRE = pb.IF_EXPIRED_REACQUIRE


@pytest_asyncio.fixture
async def calls(warehouse_database_url: str) -> AsyncIterator[Calls]:
    async with serving(warehouse_database_url) as made:
        await made.keep({(1, 1): 10, (2, 1): 10, (2, 2): 5})
        yield made
        await assert_clean(warehouse_database_url)


async def test_reserve_commit_and_what_is_left(calls: Calls) -> None:
    held = await calls.hold((1, 1, 4), (2, 2, 5), order_id="17", correlation_id="c-1")
    assert (held.state, held.order_id, held.correlation_id) == (RESERVED, "17", "c-1")
    assert [(line.product_id, line.warehouse_id, line.quantity) for line in held.lines] == [(1, 1, 4), (2, 2, 5)]
    assert await calls.level(1, 1) == (10, 4)
    [sold] = (await calls.holds.Commit(commit(reservation_id=held.reservation_id))).reservations
    assert sold.state == COMMITTED
    assert [line.committed_quantity for line in sold.lines] == [4, 5]
    assert (await calls.level(1, 1), await calls.level(2, 2)) == ((6, 0), (0, 0))
    assert (await calls.holds.GetReservation(pb.GetReservationRequest(reservation_id=held.reservation_id))) == (
        pb.GetReservationResponse(reservation=sold)
    )


async def test_lines_for_the_same_level_are_added_up(calls: Calls) -> None:
    no = await refused(calls.holds.Reserve(reserve((1, 1, 6), (1, 1, 6))))
    assert (no.code, no.reason) == ("FAILED_PRECONDITION", "INSUFFICIENT_STOCK")
    assert no.lines == ("products/1/warehouses/1",)
    assert '"requested":12,"available":10' in no.metadata["shortages"]
    held = await calls.hold((1, 1, 5), (1, 1, 5))
    assert [(line.quantity, line.requested_quantity) for line in held.lines] == [(10, 10)]


async def test_all_or_nothing_names_each_line_that_is_short(calls: Calls) -> None:
    no = await refused(calls.holds.Reserve(reserve((1, 1, 11), (2, 1, 1), (2, 2, 6))))
    assert no.lines == ("products/1/warehouses/1", "products/2/warehouses/2")
    assert await calls.level(2, 1) == (10, 0)


async def test_a_refusal_with_very_many_lines_reaches_the_caller(calls: Calls, warehouse_database_url: str) -> None:
    """Long metadata does not: a caller would see RESOURCE_EXHAUSTED, and try again and again."""
    far = 2**62
    numbers = [far + number for number in range(100)]
    for table, columns, values in (
        ("products", "product_id, sku, name, created_at, updated_at", "n, CONCAT('many', n), 'n', now(6), now(6)"),
        (
            "stock_levels",
            "product_id, warehouse_id, on_hand, reserved, version, created_at, updated_at",
            "n, 1, 0, 0, 0, now(6), now(6)",
        ),
    ):
        source = f"JSON_TABLE('{numbers}', '$[*]' COLUMNS (n BIGINT PATH '$')) AS j"
        sql(warehouse_database_url, f"INSERT INTO {table} ({columns}) SELECT {values} FROM {source}")
    no = await refused(calls.holds.Reserve(reserve(*((number, 1, 1_000_000) for number in numbers))))
    assert (no.code, no.reason) == ("FAILED_PRECONDITION", "INSUFFICIENT_STOCK")
    assert no.lines[0] == f"products/{far}/warehouses/1"
    assert no.message.endswith("(and 99 more)")
    bad = await refused(calls.holds.Reserve(reserve(*((-number, -number, -number) for number in numbers))))
    assert (bad.code, bad.fields[0]) == ("INVALID_ARGUMENT", "lines[0].product_id")
    sql(warehouse_database_url, "DELETE FROM stock_levels WHERE product_id >= %s", far)


async def test_partial_reserve_takes_what_there_is(calls: Calls) -> None:
    held = await calls.hold((1, 1, 4), (2, 2, 9), allow_partial=True)
    assert [(line.quantity, line.requested_quantity) for line in held.lines] == [(4, 4), (5, 9)]
    held = await calls.hold((1, 1, 1), (2, 2, 1), allow_partial=True)
    assert [(line.product_id, line.quantity) for line in held.lines] == [(1, 1)]
    no = await refused(calls.holds.Reserve(reserve((2, 2, 1), allow_partial=True)))
    assert no.reason == "INSUFFICIENT_STOCK"


@pytest.mark.parametrize(
    ("triple", "reason", "details"),
    [
        ((99, 1, 1), "PRODUCT_NOT_FOUND", {"product_id": "99"}),
        ((1, 99, 1), "WAREHOUSE_NOT_FOUND", {"warehouse_id": "99"}),
        ((1, 2, 1), "STOCK_LEVEL_NOT_FOUND", {"product_id": "1", "warehouse_id": "2"}),
    ],
)
async def test_what_does_not_exist_is_named(
    calls: Calls, triple: tuple[int, int, int], reason: str, details: dict[str, str]
) -> None:
    no = await refused(calls.holds.Reserve(reserve(triple, (2, 1, 1), allow_partial=True)))
    assert (no.code, no.reason, no.metadata) == ("NOT_FOUND", reason, details)
    assert await calls.level(2, 1) == (10, 0)


async def test_commit_of_a_part_releases_the_rest(calls: Calls) -> None:
    held = await calls.hold((1, 1, 4), (2, 1, 3))
    too_much = commit(reservation_id=held.reservation_id, lines=lines((1, 1, 3), (1, 1, 2)))
    assert (await refused(calls.holds.Commit(too_much))).reason == "INSUFFICIENT_STOCK"
    part = commit(reservation_id=held.reservation_id, lines=lines((1, 1, 1), (1, 1, 2)))
    [sold] = (await calls.holds.Commit(part)).reservations
    assert [line.committed_quantity for line in sold.lines] == [3, 0]
    assert (await calls.level(1, 1), await calls.level(2, 1)) == ((7, 0), (10, 0))


async def test_by_order_all_holds_at_once(calls: Calls) -> None:
    order = fresh("order")
    first = await calls.hold((1, 1, 4), order_id=order)
    second = await calls.hold((1, 1, 3), (2, 1, 2), order_id=order)
    sold = (await calls.holds.Commit(commit(order_id=order, lines=lines((1, 1, 5), (2, 1, 1))))).reservations
    assert [item.reservation_id for item in sold] == [first.reservation_id, second.reservation_id]
    assert [[line.committed_quantity for line in item.lines] for item in sold] == [[4], [1, 1]]
    assert (await calls.level(1, 1), await calls.level(2, 1)) == ((5, 0), (9, 0))
    assert (await refused(calls.holds.Cancel(cancel(order_id=order)))).reason == "RESERVATION_COMMITTED"


async def test_repeating_an_end_is_safe_and_the_wrong_end_is_refused(calls: Calls) -> None:
    sold, given_back = await calls.hold((1, 1, 1)), await calls.hold((1, 1, 2))
    first = await calls.holds.Commit(commit(reservation_id=sold.reservation_id))
    assert await calls.holds.Commit(commit(reservation_id=sold.reservation_id)) == first
    done = await calls.holds.Cancel(cancel(reservation_id=given_back.reservation_id, reason="changed my mind"))
    assert (done.reservations[0].state, done.reservations[0].reason) == (CANCELLED, "changed my mind")
    assert await calls.holds.Cancel(cancel(reservation_id=given_back.reservation_id)) == done
    no = await refused(calls.holds.Cancel(cancel(reservation_id=sold.reservation_id)))
    assert (no.reason, no.metadata["state"]) == ("RESERVATION_COMMITTED", "COMMITTED")
    no = await refused(calls.holds.Commit(commit(reservation_id=given_back.reservation_id)))
    assert (no.reason, no.metadata["state"]) == ("RESERVATION_CANCELLED", "CANCELLED")
    assert "closed_at" in no.metadata
    assert await calls.level() == (9, 0)


@pytest.mark.parametrize("unknown", ["00000000-0000-7000-8000-000000000000", "é" * 36, "x" * 64, "'; DROP TABLE x; --"])
async def test_an_unknown_reservation_is_not_found(calls: Calls, unknown: str) -> None:
    for call in (
        calls.holds.Commit(commit(reservation_id=unknown)),
        calls.holds.Cancel(cancel(reservation_id=unknown)),
        calls.holds.Extend(extend(unknown, 5)),
        calls.holds.GetReservation(pb.GetReservationRequest(reservation_id=unknown)),
    ):
        no = await refused(call)
        assert (no.code, no.reason, no.metadata) == ("NOT_FOUND", "RESERVATION_NOT_FOUND", {"reservation_id": unknown})
    held = await calls.hold((1, 1, 1))
    longer = held.reservation_id + "x" * 28
    assert (await refused(calls.holds.Cancel(cancel(reservation_id=longer)))).reason == "RESERVATION_NOT_FOUND"


async def test_extend_never_shortens(calls: Calls) -> None:
    held = await calls.hold((1, 1, 1), ttl_seconds=600)
    same = (await calls.holds.Extend(extend(held.reservation_id, 5))).reservation
    assert same.expires_at == held.expires_at
    later = (await calls.holds.Extend(extend(held.reservation_id, 1200))).reservation
    assert 590 < later.expires_at.seconds - held.expires_at.seconds < 620
    await calls.holds.Cancel(cancel(reservation_id=held.reservation_id))
    no = await refused(calls.holds.Extend(extend(held.reservation_id, 5)))
    assert no.reason == "RESERVATION_CANCELLED"


async def test_batch_reserve_answers_each_in_order(calls: Calls) -> None:
    twin = reserve((1, 1, 3))
    requests = [
        reserve((1, 1, 6)),
        reserve((1, 1, 6)),
        reserve((1, 1, 0)),
        reserve((99, 1, 1)),
        twin,
        twin,
        reserve((2, 2, 1), request_id=twin.request_id),
        reserve((1, 1, 1)),
    ]
    results = (await calls.holds.BatchReserve(pb.BatchReserveRequest(requests=requests))).results
    told = [
        no_of_status(item.error, "").reason if item.HasField("error") else item.reservation.lines[0].quantity
        for item in results
    ]
    assert told == [
        6,
        "INSUFFICIENT_STOCK",
        "INVALID_ARGUMENT",
        "PRODUCT_NOT_FOUND",
        3,
        3,
        "REQUEST_ID_REUSED",
        1,
    ]
    assert results[4] == results[5]
    assert await calls.level() == (10, 10)


async def test_a_batch_of_very_many_lines_is_cut(warehouse_database_url: str) -> None:
    """Everything as long as it may be: in one transaction it would not fit into a packet."""
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(2**52 + number, 2**52): 1_000_000 for number in range(100)})
        long = "\N{GRINNING FACE}" * 60
        triples = [(2**52 + number, 2**52, 1000) for number in range(100)]
        requests = [
            reserve(*triples, correlation_id=long, order_id=f"{long}{number:04}", request_id=f"{number:04}{long}")
            for number in range(60)
        ]
        answer = await calls.holds.BatchReserve(pb.BatchReserveRequest(requests=requests), timeout=60)
        assert [item for item in answer.results if item.HasField("error")] == []


@pytest.mark.parametrize("act", ["Commit by reservation_id", "Commit by order_id", "Extend"])
async def test_a_dead_hold_is_refused_before_any_sweep_and_freed_by_that(
    calls: Calls, warehouse_database_url: str, act: str
) -> None:
    held = await calls.hold((1, 1, 10))
    await make_overdue(warehouse_database_url, held.reservation_id)
    if act == "Extend":
        no = await refused(calls.holds.Extend(extend(held.reservation_id, 9)))
    else:
        way = act.removeprefix("Commit by ")
        no = await refused(calls.holds.Commit(commit(**{way: getattr(held, way)})))
    assert (no.code, no.reason) == ("FAILED_PRECONDITION", "RESERVATION_EXPIRED")
    assert no.metadata["expires_at"].endswith("Z")
    assert await calls.level() == (10, 0)
    assert await calls.state(held.reservation_id) == EXPIRED
    [shown] = (await calls.holds.Cancel(cancel(reservation_id=held.reservation_id))).reservations
    assert shown.state == EXPIRED


async def test_cancel_of_a_dead_hold_ends_it_as_expired(calls: Calls, warehouse_database_url: str) -> None:
    held = await calls.hold((1, 1, 10))
    await make_overdue(warehouse_database_url)
    [ended] = (await calls.holds.Cancel(cancel(order_id=held.order_id, reason="late"))).reservations
    assert (ended.state, ended.reason) == (EXPIRED, "")
    assert await calls.level() == (10, 0)


@pytest.mark.parametrize("swept", [False, True])
async def test_reacquire(calls: Calls, warehouse_database_url: str, swept: bool) -> None:
    held = await calls.hold((1, 1, 10))
    await make_overdue(warehouse_database_url)
    if swept:
        assert (await calls.holds.SweepExpired(pb.SweepExpiredRequest())).expired == 1
    other = await calls.hold((1, 1, 3)) if swept else None
    if other:
        late = commit(reservation_id=held.reservation_id, if_expired=REACQUIRE)
        assert (await refused(calls.holds.Commit(late))).reason == "RESERVATION_EXPIRED"
        await calls.holds.Cancel(cancel(reservation_id=other.reservation_id))
    late = commit(order_id=held.order_id, if_expired=REACQUIRE)
    [sold] = (await calls.holds.Commit(late)).reservations
    assert (sold.state, sold.lines[0].committed_quantity) == (COMMITTED, 10)
    assert await calls.level() == (0, 0)


async def test_the_database_clock_decides_at_the_microsecond(calls: Calls, warehouse_database_url: str) -> None:
    """Many holds end during a run of commits; each commit agrees with the clock that stamped it."""
    await calls.keep({(3, 3): 1000})
    held = [await calls.hold((3, 3, 1), ttl_seconds=60) for _ in range(40)]
    for number, item in enumerate(held):
        sql(
            warehouse_database_url,
            "UPDATE reservations SET expires_at = UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND WHERE reservation_id = %s",
            number * 2000,
            item.reservation_id,
        )
    ends = await asyncio.gather(*(outcome(calls.holds.Commit(commit(order_id=item.order_id))) for item in held))
    for item, ended in zip(held, ends, strict=True):
        [(state, early)] = sql(
            warehouse_database_url,
            "SELECT state, closed_at < expires_at FROM reservations WHERE reservation_id = %s",
            item.reservation_id,
        )
        assert (state, early) == (("EXPIRED", 0) if isinstance(ended, No) else ("COMMITTED", 1))


@pytest.mark.parametrize("way", ["order_id", "reserve_request_id"])
async def test_cancel_before_reserve_leaves_a_tombstone(calls: Calls, way: str) -> None:
    request = reserve((1, 1, 1))
    value = request.order_id if way == "order_id" else request.request_id
    first = await calls.holds.Cancel(cancel(**{way: value}, reason="gave up"))
    assert [item.state for item in first.reservations] == ([CANCELLED] if way == "order_id" else [])
    assert await calls.holds.Cancel(cancel(**{way: value})) == first
    no = await refused(calls.holds.Reserve(request))
    assert (no.code, no.reason, no.metadata["order_id"]) == (
        "FAILED_PRECONDITION",
        "RESERVE_CANCELLED",
        request.order_id,
    )
    assert no.metadata["cancelled_at"].endswith("Z")
    assert await calls.level() == (10, 0)
    if way == "reserve_request_id":
        again = reserve((1, 1, 1), order_id=request.order_id)
        assert (await calls.holds.Reserve(again)).reservation.state == RESERVED
    else:
        no = await refused(calls.holds.Commit(commit(order_id=request.order_id)))
        assert no.reason == "RESERVATION_CANCELLED"


async def test_cancel_by_the_request_id_of_reserve(calls: Calls) -> None:
    request = reserve((1, 1, 1))
    held = (await calls.holds.Reserve(request)).reservation
    [ended] = (await calls.holds.Cancel(cancel(reserve_request_id=request.request_id))).reservations
    assert (ended.reservation_id, ended.state) == (held.reservation_id, CANCELLED)
    assert await calls.level() == (10, 0)


async def test_listing_in_pages(calls: Calls) -> None:
    order = fresh("order")
    made = [await calls.hold((1 + number % 2, 1, 1), order_id=order) for number in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = await calls.holds.ListReservations(
            pb.ListReservationsRequest(order_id=order, page_size=2, page_token=token)
        )
        seen += [item.reservation_id for item in page.reservations]
        token = page.next_page_token
        if not token:
            break
    assert seen == [item.reservation_id for item in reversed(made)]
    by_state = pb.ListReservationsRequest(state=RESERVED, page_size=3)
    first = await calls.holds.ListReservations(by_state)
    by_state.page_token = first.next_page_token
    second = await calls.holds.ListReservations(by_state)
    assert [item.reservation_id for item in (*first.reservations, *second.reservations)] == [
        item.reservation_id for item in made
    ]
    both = await calls.holds.ListReservations(pb.ListReservationsRequest(product_id=2, state=RESERVED))
    assert len(both.reservations) == 2
