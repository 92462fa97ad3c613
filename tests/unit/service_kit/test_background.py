"""Background tasks: whatever ends one, it is logged, counted, seen from outside, and begun again until told to end."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
import structlog
from prometheus_client.core import Metric

from service_kit import background
from service_kit.background import Background, end, keep


@pytest.fixture
def lines() -> Iterator[list[structlog.typing.EventDict]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


async def test_a_task_that_misses_its_end_is_told_again() -> None:
    told = []

    async def stubborn() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            told.append(1)
        await asyncio.sleep(60)

    kept = keep("stubborn", stubborn)
    await asyncio.sleep(0)
    await asyncio.wait_for(end(kept), 5)
    assert kept.task.cancelled()
    assert len(told) == 2


async def test_an_interruption_that_became_an_error_ends_a_task_all_the_same(
    lines: list[structlog.typing.EventDict],
) -> None:
    async def like_a_driver() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as interruption:
            raise RuntimeError("interrupted") from interruption

    kept = keep("driver", like_a_driver)
    await asyncio.sleep(0)
    await asyncio.wait_for(end(kept), 5)
    assert kept.failures == 0
    assert lines == []


async def _raise() -> None:
    raise RuntimeError("stumbled")


async def _return() -> None:
    return


async def _cancelled_from_inside() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("ending", "event"),
    [
        (_raise, "background_task_failed"),
        (_return, "background_task_ended"),
        (_cancelled_from_inside, "background_task_failed"),
    ],
)
async def test_whatever_ends_it_it_is_begun_again(
    monkeypatch: pytest.MonkeyPatch,
    lines: list[structlog.typing.EventDict],
    ending: Callable[[], Awaitable[None]],
    event: str,
) -> None:
    monkeypatch.setattr(background, "BEGIN_AGAIN_SECONDS", 0)
    tries, third = 0, asyncio.Event()

    async def stumbling() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            await ending()
            return
        third.set()
        await asyncio.sleep(60)

    kept = keep("stumbling", stumbling)
    await asyncio.wait_for(third.wait(), 5)
    assert kept.failures == 2
    await end(kept)
    assert [(line["event"], line["task"]) for line in lines] == [(event, "stumbling")] * 2
    assert kept.task.cancelled()


async def test_one_that_is_down_is_named_until_it_is_at_work_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def resting(_kept: background.Kept) -> None:
        await go_on.wait()

    monkeypatch.setattr(background.Kept, "_rest", resting)
    tries = 0

    async def once_broken() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("broken")
        begun.set()
        await asyncio.sleep(60)

    async def sound() -> None:
        await asyncio.sleep(60)

    everything = Background()
    kept = [everything.keep("broken", once_broken), everything.keep("sound", sound)]
    assert list(everything.unhealthy) == []
    await asyncio.sleep(0)
    assert list(everything.unhealthy) == ["broken"]
    go_on.set()
    await begun.wait()
    # It may break again at once, and look well in between to whoever asks at the right moments.
    assert list(everything.unhealthy) == ["broken"]
    clock[0] += background.BEGIN_AGAIN_SECONDS
    assert list(everything.unhealthy) == []
    assert _values(everything) == {
        "x_background_task_well": {"broken": 1, "sound": 1},
        "x_background_task_failures": {"broken": 1, "sound": 0},
    }
    await end(*kept)


def _values(everything: Background) -> dict[str, dict[str, float]]:
    families: list[Metric] = [family for measure in everything.measures("x") for family in measure.read()]
    return {family.name: {sample.labels["task"]: sample.value for sample in family.samples} for family in families}


async def test_work_that_was_told_to_stop_may_return_and_gets_a_last_turn_while_it_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "BEGIN_AGAIN_SECONDS", 3600)
    is_over, turns = False, []

    async def work() -> None:
        turns.append(is_over)
        if not is_over:
            raise RuntimeError("broken")

    kept = keep("work", work, lambda: is_over)
    await asyncio.sleep(0)
    is_over = True
    await asyncio.wait_for(kept.finish(), 5)
    assert turns == [False, True]
    assert kept.is_healthy


async def test_work_that_fails_while_it_is_told_to_stop_is_not_tried_for_ever() -> None:
    kept = keep("broken", _raise, lambda: True)
    await asyncio.sleep(0)
    await asyncio.wait_for(kept.finish(), 5)
    assert kept.failures == 2
