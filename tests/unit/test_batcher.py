"""The micro-batcher: order, bounds, dropped callers, errors for the right caller."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_kit.batcher import Batcher, BatcherClosed, BatcherFull, BatcherSettings


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


async def test_under_load_the_next_batch_waits_for_a_share_of_the_callers(recorder: Recorder) -> None:
    batcher: Batcher[int, int] = Batcher(
        recorder.process, BatcherSettings(gather_min=1, gather_share=0.5, gather_seconds=0.5, gather_pause_seconds=0.1)
    )
    batcher.start()
    await asyncio.gather(*(batcher.submit(number) for number in range(20)))
    trickle = []
    for number in range(20):
        trickle.append(batcher.submit(number))
        await asyncio.sleep(0)
    await asyncio.gather(*trickle)
    await batcher.close()
    assert [len(batch) for batch in recorder.batches][:2] == [20, 10]


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


async def test_the_wait_ends_when_nobody_comes(recorder: Recorder) -> None:
    batcher: Batcher[int, int] = Batcher(
        recorder.process, BatcherSettings(gather_seconds=0.5, gather_pause_seconds=0.01)
    )
    batcher.start()
    await asyncio.gather(*(batcher.submit(number) for number in range(20)))
    async with asyncio.timeout(0.4):
        assert await batcher.submit(1) == 2
    await batcher.close()


async def test_a_silence_before_the_share_has_come_is_sat_out(recorder: Recorder) -> None:
    batcher: Batcher[int, int] = Batcher(
        recorder.process,
        BatcherSettings(gather_share=0.5, gather_seconds=0.5, gather_pause_seconds=0.001, gather_patience_seconds=0.1),
    )
    batcher.start()
    await asyncio.gather(*(batcher.submit(number) for number in range(20)))
    early = batcher.submit(1)
    # Longer than the pause, shorter than the patience.
    await asyncio.sleep(0.02)
    late = [batcher.submit(number) for number in range(9)]
    await asyncio.gather(early, *late)
    await batcher.close()
    assert [len(batch) for batch in recorder.batches] == [20, 10]


async def test_a_lone_caller_never_waits(recorder: Recorder) -> None:
    batcher: Batcher[int, int] = Batcher(
        recorder.process, BatcherSettings(gather_seconds=0.5, gather_pause_seconds=0.1)
    )
    batcher.start()
    async with asyncio.timeout(0.1):
        for number in range(20):
            assert await batcher.submit(number) == number * 2
    await batcher.close()


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
