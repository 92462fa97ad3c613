"""Order gateways at several nodes of a cluster: an order, a key and a step belong to one of them at a time."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from random import Random

import pytest
import pytest_asyncio

from order_gateway.lifecycle import NewItem, NewOrder, Reason, Status, Way
from order_gateway.storage.creating import ClaimLost, KeyClaim
from order_gateway.storage.idempotency import Begun, IdempotencyStore
from tests.faults.conftest import PATIENT, MakeUrls
from tests.kits.scripted_orders import World
from tests.kits.warehouse_kit import scalar, sql

pytestmark = pytest.mark.galera
CLUSTER_SECONDS = float(os.environ.get("CLUSTER_SECONDS") or 15)
CALLERS_PER_NODE = 3
OWNER = "shop"
_SUMS = """
    SELECT o.id, o.status, o.stock, o.payment, o.version, (SELECT COUNT(*) FROM history AS h WHERE h.order_id = o.id),
      (SELECT MAX(h.version) FROM history AS h WHERE h.order_id = o.id),
      (SELECT COUNT(*) FROM items AS i WHERE i.order_id = o.id),
      (SELECT COUNT(*) FROM payments AS p WHERE p.order_id = o.id)
    FROM orders AS o ORDER BY o.id"""


@pytest.fixture
def urls(make_urls: MakeUrls) -> list[str]:
    """The orders' database, at each node."""
    return make_urls("orders")


@pytest_asyncio.fixture
async def worlds(urls: list[str]) -> AsyncIterator[list[World]]:
    """An order service at each node, all with the same outside."""
    first = World(urls[0], settings=PATIENT)
    made = [first, *(World(url, first.outside, settings=PATIENT) for url in urls[1:])]
    yield made
    for world in made:
        await world.close()


async def test_the_installation_has_one_token(worlds: list[World]) -> None:
    """Each may have drawn one; a single one is kept."""
    assert len(set(await asyncio.gather(*(world.store.token() for world in worlds)))) == 1


async def test_an_order_moves_on_all_nodes_as_if_on_one(worlds: list[World], urls: list[str]) -> None:
    """Paid, cancelled and finished by relays at any node: each event is once in its history, and was told truly."""
    await worlds[0].store.token()
    end, paid, seen = time.monotonic() + CLUSTER_SECONDS, set[int](), Counter[Status]()

    async def shop(number: int) -> None:
        chance = Random(number)
        while time.monotonic() < end:
            order = await worlds[number % 3].create_order(chance.choice((Way.GRPC, Way.QUEUED)))
            wishes = [chance.choice(worlds).saga.pay(order.id, "test") for _ in range(chance.choice((1, 2)))]
            if chance.random() < 0.5:
                wishes.append(chance.choice(worlds).saga.cancel(order.id, "test", Reason.CUSTOMER, None))
            for applied in await asyncio.gather(*wishes):
                seen[applied.order.state.status] += 1
                if applied.order.state.status is Status.PAID:
                    paid.add(order.id)

    async def relay(world: World) -> None:
        while time.monotonic() < end:
            for intent in await world.intents.claim(20, 30):
                await world.relay.do(intent)
            await asyncio.sleep(0.02)

    await asyncio.gather(*(shop(number) for number in range(3 * CALLERS_PER_NODE)), *map(relay, worlds))
    for _ in range(3):
        await worlds[0].relay_all()
    print(f"{seen}")
    assert len(paid) > CLUSTER_SECONDS
    await each_order_adds_up(urls, paid)


async def each_order_adds_up(urls: list[str], paid: set[int]) -> None:
    """At every node; `paid` are those that somebody was told so."""
    rows = sql(urls[0], _SUMS)
    assert all(sql(url, _SUMS) == rows for url in urls[1:])
    for order_id, status, stock, payment, version, happenings, last, items, payments in rows:
        assert version == happenings == last, order_id
        assert items == 2
        ended = (status, stock, payment, payments)
        assert ended in {
            ("paid", "committed", "charged", 1),
            ("pending", "held", "none", 0),
            ("cancelled", "free", "none", 0),
            ("cancelled", "free", "refunded", 1),
            ("cancelled", "returned", "refunded", 1),
        }, (order_id, ended)
        assert order_id not in paid or "paid" in ended or "refunded" in ended, (order_id, ended)


async def test_a_key_is_claimed_once(worlds: list[World]) -> None:
    answers = [IdempotencyStore(world.database, 30) for world in worlds]
    for number in range(30):
        begun = await asyncio.gather(*(one.begin(OWNER, f"key-{number}", "0" * 64) for one in answers))
        assert sorted(type(one).__name__ for one in begun) == ["Begun", "InProgress", "InProgress"]


async def test_who_has_lost_its_claim_makes_no_order(worlds: list[World], urls: list[str]) -> None:
    """The other node has just taken over: what this one reads must not be older than that."""
    await worlds[0].store.token()
    short, long = IdempotencyStore(worlds[0].database, 0), IdempotencyStore(worlds[1].database, 30)
    for number in range(50):
        key = f"key-{number}"
        slow = await short.begin(OWNER, key, "0" * 64)
        taken = await long.begin(OWNER, key, "0" * 64)
        assert isinstance(slow, Begun)
        assert isinstance(taken, Begun)
        assert taken.resumed
        with pytest.raises(ClaimLost):
            await _place(worlds[0], (OWNER, key, slow.claim))
        await _place(worlds[1], (OWNER, key, taken.claim))
    assert scalar(urls[1], "SELECT COUNT(*) FROM orders") == 50


async def test_two_with_the_same_key_at_once_make_one_order(worlds: list[World], urls: list[str]) -> None:
    """One places its order while another one takes the key over: either sees the other, or is undone by it."""
    await worlds[0].store.token()
    short, long = IdempotencyStore(worlds[0].database, 0), IdempotencyStore(worlds[1].database, 30)
    outcomes = Counter[str]()
    for number in range(60):
        key = f"key-{number}"
        slow = await short.begin(OWNER, key, "0" * 64)
        assert isinstance(slow, Begun)
        placed, taken = await asyncio.gather(
            _place(worlds[0], (OWNER, key, slow.claim)), long.begin(OWNER, key, "0" * 64), return_exceptions=True
        )
        assert isinstance(taken, Begun)
        made = not isinstance(placed, ClaimLost)
        # Who takes over knows of the order that was made.
        assert (taken.order_id is not None) == made, (placed, taken)
        outcomes["made" if made else "lost"] += 1
    print(outcomes)
    assert scalar(urls[0], "SELECT COUNT(*) FROM orders") == outcomes["made"]


async def test_relays_share_the_steps(worlds: list[World], urls: list[str]) -> None:
    """Locks are not seen at other nodes: two may read the same steps, and one of them starts over."""
    for world in worlds:
        await world.create_order(Way.QUEUED)
    await asyncio.gather(*(worlds[0].create_order(Way.QUEUED) for _ in range(57)))
    await worlds[0].execute("UPDATE intents SET due_at = NOW(6)")
    taken: Counter[int] = Counter()

    async def take(world: World) -> None:
        while intents := await world.intents.claim(7, 30):
            taken.update(intent.order_id for intent in intents)

    await asyncio.gather(*map(take, worlds))
    assert sorted(taken.values()) == [1] * 60


async def _place(world: World, key: KeyClaim) -> None:
    new = NewOrder("u", "Street 1", "card", (NewItem(1, 1, 2, Decimal("1.00")),), "c-1", "test", Way.QUEUED)
    await world.saga.create_order(new, key)
