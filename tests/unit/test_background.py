"""Background tasks begin again when they fail, and end when they are told to."""

import asyncio
import contextlib

import pytest
import structlog

from service_kit import background
from service_kit.background import end, keep


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


async def test_work_that_fails_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "BEGIN_AGAIN_SECONDS", 0)
    tries, third = 0, asyncio.Event()

    async def stumbling() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RuntimeError("stumbled")
        third.set()
        await asyncio.sleep(60)

    with structlog.testing.capture_logs() as lines:
        task = keep("stumbling", stumbling)
        await asyncio.wait_for(third.wait(), 5)
        await end(task)
    assert [(line["event"], line["task"]) for line in lines] == [("background_task_failed", "stumbling")] * 2
    assert task.cancelled()
