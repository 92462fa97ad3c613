"""The same time limit for many tasks: it ends what takes too long, at its time, and nothing else."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.deadlines import Deadlines
from tests.kits.virtual_time import in_virtual_time

SECONDS = 10.0


async def work(deadlines: Deadlines, begin: float, length: float) -> tuple[str, float]:
    """What became of something that begins at a time and takes so long, and when."""
    await asyncio.sleep(begin)
    clock = asyncio.get_running_loop().time
    try:
        with deadlines.deadline() as limit:
            await asyncio.sleep(length)
    except TimeoutError:
        assert limit.has_passed
        return "ended", clock()
    assert not limit.has_passed
    return "done", clock()


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20).filter(lambda length: length != SECONDS)), max_size=20)
)
def test_what_takes_too_long_ends_at_its_time(tasks: list[tuple[int, int]]) -> None:
    async def all_of_them() -> list[tuple[str, float]]:
        deadlines = Deadlines(SECONDS)
        found = await asyncio.gather(*(work(deadlines, begin, length) for begin, length in tasks))
        assert not deadlines._open
        return found

    expected = [("done", begin + length) if length < SECONDS else ("ended", begin + SECONDS) for begin, length in tasks]
    found = in_virtual_time(all_of_them())
    assert [how for how, _ in found] == [how for how, _ in expected]
    assert [when for _, when in found] == pytest.approx([when for _, when in expected])


def test_one_that_is_lifted_never_passes() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(SECONDS)
        with deadlines.deadline() as limit:
            limit.lift()
            await asyncio.sleep(5 * SECONDS)
        assert not limit.has_passed

    in_virtual_time(scenario())


@pytest.mark.parametrize("is_over", [False, True], ids=["in time", "when time is over"])
def test_who_is_cancelled_by_others_is_not_told_that_time_is_over(is_over: bool) -> None:
    """As `asyncio.timeout` does: otherwise whoever ends a service would wait for what goes on as if nothing was."""

    async def scenario() -> None:
        deadlines = Deadlines(SECONDS)
        task = asyncio.create_task(work(deadlines, 0, 2 * SECONDS))
        await asyncio.sleep(1)
        if is_over:
            [limit] = deadlines._open
            limit.pass_()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_virtual_time(scenario())


def test_what_has_failed_by_itself_fails_as_it_did() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(SECONDS)
        with pytest.raises(ZeroDivisionError), deadlines.deadline():
            raise ZeroDivisionError
        assert not deadlines._open

    in_virtual_time(scenario())


def test_a_task_goes_on_as_if_never_cancelled() -> None:
    async def scenario() -> None:
        with pytest.raises(TimeoutError), Deadlines(SECONDS).deadline():
            await asyncio.sleep(2 * SECONDS)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        async with asyncio.timeout(1):
            await asyncio.sleep(0.5)

    in_virtual_time(scenario())
