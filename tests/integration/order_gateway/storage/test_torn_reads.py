"""A read that joins facts of several statements sees them as of one moment, whatever is committed in between."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.lifecycle import Status
from order_gateway.storage import changing, statements
from order_gateway.storage.reading import Filter, Listing
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.scripted_orders import World
from tests.kits.warehouse_kit import COMMITTED, RESERVED, Calls, commit, fresh, serving

pytestmark = pytest.mark.sql
Meanwhile = Callable[[], Awaitable[Any]]


@pytest.fixture
def after_statement(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Meanwhile], None]:
    """Lets something happen once, right after the first statement with these words, before the next one."""

    def arrange(words: str, meanwhile: Meanwhile) -> None:
        waiting = [meanwhile]

        def watched(name: str) -> Any:
            original = getattr(AsyncConnection, name)

            async def execute(self: AsyncConnection, query: Any, *rest: Any, **options: Any) -> Any:
                result = await original(self, query, *rest, **options)
                if waiting and words in str(query):
                    await waiting.pop()()
                return result

            return execute

        for name in ("execute", "exec_driver_sql"):
            monkeypatch.setattr(AsyncConnection, name, watched(name))

    return arrange


Read = Callable[[Calls, pb.Reservation], Awaitable[list[pb.Reservation]]]


async def one(calls: Calls, held: pb.Reservation) -> list[pb.Reservation]:
    request = pb.GetReservationRequest(reservation_id=held.reservation_id)
    return [(await calls.holds.GetReservation(request)).reservation]


async def of_an_order(calls: Calls, held: pb.Reservation) -> list[pb.Reservation]:
    request = pb.ListReservationsRequest(order_id=held.order_id)
    return list((await calls.holds.ListReservations(request)).reservations)


async def of_a_product(calls: Calls, held: pb.Reservation) -> list[pb.Reservation]:
    return list((await calls.holds.ListReservations(pb.ListReservationsRequest(product_id=1))).reservations)


async def by_state(calls: Calls, held: pb.Reservation) -> list[pb.Reservation]:
    return list((await calls.holds.ListReservations(pb.ListReservationsRequest(state=RESERVED))).reservations)


READS: dict[str, tuple[str, Read]] = {
    "one": ("FROM reservations", one),
    "of an order": ("FROM reservations", of_an_order),
    "of a product": ("FROM reservation_lines", of_a_product),
    "by state": ("FROM reservations", by_state),
}
"""Each with words of its first statement."""


@pytest.mark.parametrize("name", READS)
async def test_a_reservation_is_never_half_committed(
    warehouse_database_url: str, after_statement: Callable[[str, Meanwhile], None], name: str
) -> None:
    words, read = READS[name]
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 100})
        held = await calls.hold((1, 1, 5))
        happened: list[Any] = []

        async def sell() -> None:
            happened.append(await calls.holds.Commit(commit(reservation_id=held.reservation_id)))

        after_statement(words, sell)
        [seen] = await read(calls, held)
        assert len(happened) == 1
        assert (seen.state, [line.committed_quantity for line in seen.lines]) == (RESERVED, [0])
        after = await one(calls, held)
        assert [(now.state, now.lines[0].committed_quantity) for now in after] == [(COMMITTED, 5)]


async def test_reservations_under_a_stream_of_commits(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 10_000})
        order_id, selling = fresh("order"), True
        wrong: list[tuple[int, ...]] = []

        async def sell() -> None:
            for _ in range(25):
                held = await calls.hold((1, 1, 5), order_id=order_id)
                await calls.holds.Commit(commit(reservation_id=held.reservation_id))

        async def look() -> None:
            while selling:
                listed = await calls.holds.ListReservations(pb.ListReservationsRequest(order_id=order_id))
                facts = {
                    (item.state, *(line.committed_quantity for line in item.lines)) for item in listed.reservations
                }
                wrong.extend(facts - {(RESERVED, 0), (COMMITTED, 5)})

        looking = [asyncio.ensure_future(look()) for _ in range(3)]
        await asyncio.gather(sell(), sell())
        selling = False
        await asyncio.gather(*looking)
        assert wrong == []


async def test_an_order_is_read_with_the_holds_it_has(
    orders_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading its items takes a while here, and its holds are gone meanwhile."""
    world = World(orders_database_url)
    order = await world.create_order()
    slowly = f"SELECT * FROM ({statements.READ_ITEMS}) AS slowly WHERE SLEEP(0.25) = 0"
    monkeypatch.setattr(changing, "_READS", (slowly, *changing._READS[1:]))
    reading_ = asyncio.ensure_future(world.store.read(order.id))
    await asyncio.sleep(0.1)
    await world.execute("DELETE FROM reservations")
    seen = await reading_
    assert (seen.state.status, len(seen.reservations)) == (Status.PENDING, 2)
    await world.close()


async def test_a_list_shows_orders_as_its_filter_found_them(
    orders_database_url: str, after_statement: Callable[[str, Meanwhile], None]
) -> None:
    world = World(orders_database_url)
    order = await world.create_order()
    await world.create_order()

    async def pay() -> None:
        await world.saga.pay(order.id, "test")

    after_statement("LIMIT", pay)
    listed, total = await Listing(world.database, 100).page(Filter(status=Status.PENDING), 1, 10)
    assert total == 2
    assert [(one_.state.status, len(one_.reservations)) for one_ in listed] == [(Status.PENDING, 2)] * 2
    listed, total = await Listing(world.database, 100).page(Filter(status=Status.PENDING), 1, 10)
    assert (total, len(listed)) == (1, 1)
    await world.close()
