"""Slots and answers that many callers share."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.cached_answer import CachedAnswer
from service_kit.fair_semaphore import FairSemaphore
from service_kit.shares import ALL, Budget, NoSlot


def filled(budget: Budget, *names: str | None) -> int:
    """Take until there is a no; how many there were."""
    count = 0
    while True:
        try:
            budget.take(*names)
        except NoSlot:
            return count
        count += 1


@pytest.mark.parametrize(("slots", "share", "alone"), [(1000, 0.8, 800), (1000, 0.1, 100), (1, 0.1, 1), (7, 1, 7)])
def test_one_alone_gets_its_share(slots: int, share: float, alone: int) -> None:
    assert filled(Budget(slots, (share,)), "greedy") == alone


def test_the_next_greedy_one_gets_less_and_something_is_left() -> None:
    budget = Budget(1000, (0.8,))
    assert [filled(budget, str(number)) for number in range(4)] == [800, 160, 32, 7]
    assert budget.taken < 1000


def test_a_person_counts_for_itself_and_for_its_key() -> None:
    budget = Budget(100, (0.5, 0.1))
    assert filled(budget, "shop", "7") == 10
    with pytest.raises(NoSlot) as no:
        budget.take("shop", "7")
    assert no.value.share == 1
    assert filled(budget, "shop", None) == 40
    with pytest.raises(NoSlot) as no:
        budget.take("shop", "8")
    assert no.value.share == 0
    budget.take("other", "8")


def test_what_is_full_is_full_for_everybody() -> None:
    budget = Budget(2, (1,))
    assert filled(budget, "one") == 2
    with pytest.raises(NoSlot) as no:
        budget.take("other")
    assert no.value.share == ALL


@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(1, 20), st.floats(0.05, 1))
def test_what_is_given_back_is_free_again(names: list[str], slots: int, share: float) -> None:
    budget, taken = Budget(slots, (share,)), []
    for name in names:
        try:
            budget.take(name)
        except NoSlot:
            # Whoever has none yet gets one, as long as there is any.
            assert budget.taken == slots or name in taken
            continue
        taken.append(name)
    assert budget.taken == len(taken) <= slots
    for name in taken:
        budget.give_back(name)
    assert budget.taken == 0
    assert [budget.taken_by(0, name) for name in "abc"] == [0, 0, 0]


async def test_who_waits_comes_in_owner_by_owner() -> None:
    slots, order, go_on = FairSemaphore(1), [], asyncio.Event()

    async def one(owner: str) -> None:
        async with slots.slot(owner):
            order.append(owner)
            await go_on.wait()

    names = [*["greedy"] * 5, "anna", "bert"]
    tasks = [asyncio.create_task(one(name)) for name in names]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(*tasks)
    assert order == ["greedy", "greedy", "anna", "bert", "greedy", "greedy", "greedy"]


@pytest.mark.parametrize("is_called", [False, True])
async def test_who_gives_up_waiting_takes_no_turn(is_called: bool) -> None:
    slots, go_on = FairSemaphore(1), asyncio.Event()

    async def one() -> None:
        async with slots.slot("x"):
            await go_on.wait()

    inside, waiting = asyncio.create_task(one()), asyncio.create_task(one())
    await asyncio.sleep(0)
    if is_called:
        # The slot is handed over, and given up, before it is taken.
        inside.add_done_callback(lambda _: waiting.cancel())
        go_on.set()
    else:
        waiting.cancel()
    await asyncio.wait([waiting])
    go_on.set()
    await asyncio.wait_for(one(), 5)
    await inside


async def test_an_answer_is_looked_for_once_for_all_who_ask() -> None:
    looks = 0

    async def look() -> int:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        return looks

    kept, fleeting = CachedAnswer(look, 60), CachedAnswer(look, 0)
    gone = asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    gone.cancel()
    assert await asyncio.gather(*(kept.get() for _ in range(50))) == [1] * 50
    assert await kept.get() == 1
    assert [await fleeting.get(), await fleeting.get()] == [2, 3]
