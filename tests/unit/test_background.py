"""The end of background tasks."""

import asyncio
import contextlib

import structlog

from service_kit.background import end


async def test_a_task_that_misses_its_end_is_told_again() -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(end(task), 5)
    assert task.cancelled()


async def test_what_a_task_died_of_is_logged() -> None:
    async def broken() -> None:
        raise RuntimeError("of old age")

    task = asyncio.create_task(broken(), name="old")
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as lines:
        await end(task)
    assert [(line["event"], line["task"]) for line in lines] == [("background_task_died", "old")]
