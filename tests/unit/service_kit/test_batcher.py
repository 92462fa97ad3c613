"""The micro-batcher: order, bounds, dropped callers, errors for the right caller."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_kit import background
from service_kit.batcher import Batcher, BatcherClosed, BatcherFull, BatcherSettings, BatchFailed, SetAside
from service_kit.database.database import Fault
from tests.kits.virtual_time import in_virtual_time


class Recorder:
    """Doubles numbers, remembers the batches, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def process(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        self.started.set()
        await self.go.wait()
        return [ValueError(item) if item < 0 else item * 2 for item in items]


@pytest.fixture
async def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def batcher(recorder: Recorder) -> AsyncIterator[Batcher[int, int]]:
    made: Batcher[int, int] = Batcher(recorder.process, BatcherSettings(batch_size_max=4, queue_size_max=6))
    made.start()
    yield made
    recorder.go.set()
    await made.close()


async def busy(recorder: Recorder, batcher: Batcher[int, int]) -> asyncio.Future[int]:
    """Let the batcher be in the middle of a batch of one."""
    recorder.go.clear()
    first = batcher.submit(0)
    await recorder.started.wait()
    return first


async def test_each_caller_gets_its_own_result(batcher: Batcher[int, int]) -> None:
    assert await asyncio.gather(*(batcher.submit(number) for number in range(6))) == [0, 2, 4, 6, 8, 10]


async def test_what_arrives_meanwhile_is_the_next_batch(recorder: Recorder, batcher: Batcher[int, int]) -> None:
    first = await busy(recorder, batcher)
    rest = [batcher.submit(number) for number in range(1, 7)]
    recorder.go.set()
    await asyncio.gather(first, *rest)
    assert recorder.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_past_its_bound_it_turns_callers_away_at_once(recorder: Recorder, batcher: Batcher[int, int]) -> None:
    first = await busy(recorder, batcher)
    rest = [batcher.submit(number) for number in range(6)]
    with pytest.raises(BatcherFull):
        batcher.submit(7)
    assert batcher.depth == 6
    recorder.go.set()
    await asyncio.gather(first, *rest)


async def test_callers_who_gave_up_or_are_out_of_time_are_dropped(
    recorder: Recorder, batcher: Batcher[int, int]
) -> None:
    first = await busy(recorder, batcher)
    gone, late, kept = batcher.submit(1), batcher.submit(2, deadline=0.0), batcher.submit(3)
    gone.cancel()
    recorder.go.set()
    assert await kept == 6
    await first
    with pytest.raises(TimeoutError):
        await late
    assert recorder.batches == [[0], [3]]


async def test_an_error_reaches_only_its_caller(batcher: Batcher[int, int]) -> None:
    good, bad = batcher.submit(1), batcher.submit(-1)
    assert await good == 2
    with pytest.raises(ValueError, match="-1"):
        await bad


async def test_a_failed_batch_fails_its_callers_and_no_others() -> None:
    async def process(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ConnectionError("gone")
        return list(items)

    batcher: Batcher[int, int] = Batcher(process, BatcherSettings(batch_size_max=1))
    batcher.start()
    outcomes = await asyncio.gather(*(batcher.submit(number) for number in (12, 13, 14)), return_exceptions=True)
    await batcher.close()
    assert [type(outcome) for outcome in outcomes] == [int, ConnectionError, int]


async def test_closing_finishes_what_waits_and_takes_no_more(recorder: Recorder, batcher: Batcher[int, int]) -> None:
    first = await busy(recorder, batcher)
    waiting = batcher.submit(1)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(BatcherClosed):
        batcher.submit(2)
    recorder.go.set()
    await closing
    assert (await first, await waiting) == (0, 2)


async def load(recorder: Recorder, batcher: Batcher[int, int]) -> float:
    """Let the batcher see twenty callers at once; what time it is when they are answered."""
    batcher.start()
    await asyncio.gather(*(batcher.submit(number) for number in range(20)))
    assert [len(batch) for batch in recorder.batches] == [20]
    return asyncio.get_running_loop().time()


def test_under_load_the_next_batch_waits_for_a_share_of_the_callers() -> None:
    async def run() -> None:
        recorder = Recorder()
        batcher: Batcher[int, int] = Batcher(recorder.process, BatcherSettings(gather_min=1, gather_share=0.5))
        await load(recorder, batcher)
        trickle = []
        for number in range(20):
            trickle.append(batcher.submit(number))
            await asyncio.sleep(0)
        await asyncio.gather(*trickle)
        await batcher.close()
        assert [len(batch) for batch in recorder.batches][:2] == [20, 10]

    in_virtual_time(run())


async def test_small_batches_wait_while_callers_keep_coming(recorder: Recorder, batcher: Batcher[int, int]) -> None:
    first = await busy(recorder, batcher)
    trickle = [batcher.submit(1)]
    recorder.go.set()
    await first
    for number in range(2, 4):
        await asyncio.sleep(0)
        trickle.append(batcher.submit(number))
    await asyncio.gather(*trickle)
    assert recorder.batches == [[0], [1, 2, 3]]


def test_the_wait_ends_when_nobody_comes() -> None:
    async def run() -> float:
        recorder = Recorder()
        bounds = BatcherSettings(gather_seconds=0.5, gather_pause_seconds=0.01, gather_patience_seconds=0.03)
        batcher: Batcher[int, int] = Batcher(recorder.process, bounds)
        began = await load(recorder, batcher)
        assert await batcher.submit(1) == 2
        waited = asyncio.get_running_loop().time() - began
        await batcher.close()
        return waited

    assert in_virtual_time(run()) == pytest.approx(0.03, abs=1e-6)


def test_a_silence_before_the_share_has_come_is_sat_out() -> None:
    async def run() -> None:
        recorder = Recorder()
        bounds = BatcherSettings(
            gather_share=0.5, gather_seconds=0.5, gather_pause_seconds=0.001, gather_patience_seconds=0.1
        )
        batcher: Batcher[int, int] = Batcher(recorder.process, bounds)
        await load(recorder, batcher)
        early = batcher.submit(1)
        await asyncio.sleep(0.02)  # longer than the pause, shorter than the patience
        late = [batcher.submit(number) for number in range(9)]
        await asyncio.gather(early, *late)
        await batcher.close()
        assert [len(batch) for batch in recorder.batches] == [20, 10]

    in_virtual_time(run())


def test_a_lone_caller_never_waits() -> None:
    async def run() -> float:
        recorder = Recorder()
        batcher: Batcher[int, int] = Batcher(
            recorder.process, BatcherSettings(gather_seconds=0.5, gather_pause_seconds=0.1)
        )
        batcher.start()
        for number in range(20):
            assert await batcher.submit(number) == number * 2
        waited = asyncio.get_running_loop().time()
        await batcher.close()
        return waited

    assert in_virtual_time(run()) == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 50), max_size=60), st.integers(1, 9))
def test_whatever_the_size_every_item_is_processed_once_and_in_order(items: list[int], size: int) -> None:
    async def run() -> None:
        recorder = Recorder()
        batcher: Batcher[int, int] = Batcher(recorder.process, BatcherSettings(batch_size_max=size, gather_seconds=0))
        batcher.start()
        outcomes = await asyncio.gather(*(batcher.submit(item) for item in items), return_exceptions=True)
        await batcher.close()
        assert [item for batch in recorder.batches for item in batch] == items
        assert all(len(batch) <= size for batch in recorder.batches)
        assert [o if isinstance(o, int) else None for o in outcomes] == [i * 2 if i >= 0 else None for i in items]

    asyncio.run(run())


@pytest.mark.parametrize(
    "broken", ["one result less", "one result more", "no list", "cancelled inside", "an error", "a fault"]
)
async def test_whatever_a_batch_ends_with_its_callers_get_an_end_and_the_next_batch_its_turn(broken: str) -> None:
    async def process(items: Sequence[int]) -> Sequence[int]:
        if 13 not in items:
            return list(items)
        if broken == "cancelled inside":
            raise asyncio.CancelledError
        if broken == "an error":
            raise ValueError
        if broken == "a fault":
            raise Fault
        if broken == "no list":
            return None  # type: ignore[return-value]
        return list(items)[:-1] if broken == "one result less" else [*items, 1]

    batcher: Batcher[int, int] = Batcher(process)
    batcher.start()
    outcomes = await asyncio.gather(*(batcher.submit(number) for number in (12, 13, 14)), return_exceptions=True)
    expected = {"an error": ValueError, "a fault": Fault, "no list": TypeError}.get(broken, BatchFailed)
    assert [type(outcome) for outcome in outcomes] == [expected] * 3
    assert await asyncio.wait_for(batcher.submit(1), 5) == 1
    assert (batcher.is_healthy, batcher.failures) == (True, 0)
    await batcher.close()


async def test_a_worker_that_breaks_is_seen_and_begun_again(
    recorder: Recorder, batcher: Batcher[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background.Kept, "_rest", lambda _: recorder.go.wait())
    take = batcher._take

    def broken() -> Any:
        taken = take()
        monkeypatch.setattr(batcher, "_take", take)
        batcher._taken = taken
        recorder.go.clear()
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(batcher, "_take", broken)
    lost = batcher.submit(1)
    while batcher.is_healthy:  # noqa: ASYNC110 - the worker has to get its turn
        await asyncio.sleep(0)
    waiting = batcher.submit(2)
    recorder.go.set()
    with pytest.raises(BatchFailed):
        await lost
    assert await waiting == 4
    assert batcher.failures == 1


class Aside:
    """Sets negative numbers aside until a given time, a tenth of a second at a time."""

    def __init__(self, free_at: float) -> None:
        self.free_at = free_at
        self.batches: list[list[int]] = []

    async def process(self, items: Sequence[int]) -> list[int | Exception | SetAside]:
        self.batches.append(list(items))
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(0.001)
        is_free = now >= self.free_at
        return [item if item >= 0 or is_free else SetAside(now + 0.1, Fault("locked")) for item in items]


def test_what_is_set_aside_comes_again_in_its_old_place_and_nobody_waits_for_it() -> None:
    async def run() -> None:
        aside = Aside(free_at=0.25)
        batcher: Batcher[int, int] = Batcher(aside.process, BatcherSettings(gather_seconds=0))
        batcher.start()
        done: list[int] = []
        first, second, free = batcher.submit(-1), batcher.submit(-2), batcher.submit(1)
        for future in (first, second, free):
            future.add_done_callback(lambda future: done.append(future.result()))
        await free
        assert (done, batcher.aside, batcher.depth) == ([1], 2, 0)
        await asyncio.sleep(0.24)
        last = batcher.submit(-3)
        await asyncio.gather(first, second, last)
        assert done[1:] == [-1, -2]
        assert aside.batches == [[-1, -2, 1], [-1, -2], [-1, -2], [-3], [-1, -2], [-3]]
        assert not batcher._aside_since
        await batcher.close()

    in_virtual_time(run())


@pytest.mark.parametrize(
    ("settings", "options", "told_at"),
    [
        ({}, {}, 5.0),
        ({"aside_seconds_max": 0.35}, {}, 0.3),
        ({}, {"deadline": 0.45}, 0.3),
        ({"aside_max": 0}, {}, 0.0),
        ({}, {"is_patient": False}, 0.0),
    ],
    ids=["by default", "as set", "before the deadline", "no room", "impatient"],
)
def test_a_caller_hears_in_time_why_it_can_not_be(
    settings: dict[str, Any], options: dict[str, Any], told_at: float
) -> None:
    async def run() -> float:
        batcher: Batcher[int, int] = Batcher(Aside(free_at=3600).process, BatcherSettings(**settings))
        batcher.start()
        with pytest.raises(Fault, match="locked"):
            await batcher.submit(-1, **options)
        told = asyncio.get_running_loop().time()
        assert batcher.aside == 0
        assert not batcher._aside_since
        await batcher.close()
        return told

    assert in_virtual_time(run()) == pytest.approx(told_at, abs=0.11)


def test_what_is_set_aside_is_told_of_a_close_at_once() -> None:
    async def run() -> None:
        batcher: Batcher[int, int] = Batcher(Aside(free_at=3600).process)
        batcher.start()
        aside = batcher.submit(-1)
        await asyncio.sleep(0.05)
        assert batcher.aside == 1
        await batcher.close()
        with pytest.raises(BatcherClosed):
            await aside

    in_virtual_time(run())
