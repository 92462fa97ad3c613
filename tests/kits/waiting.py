"""Waiting for what others make so: asked again and again, and an error when it never comes to be."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 20.0
"""After so long it will not come any more. No test measures this: what comes is noticed at once."""
PAUSE_SECONDS = 0.02


async def until(holds: Callable[[], Awaitable[bool] | bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as it is so, without keeping the event loop from anything.

    Raises: AssertionError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not await _answer(holds()):
        assert time.monotonic() < deadline, f"it did not come to be within {seconds:g} s"
        await asyncio.sleep(PAUSE_SECONDS)


def block_until(holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """As `until`, where there is no event loop. Raises: AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not come to be within {seconds:g} s"
        time.sleep(PAUSE_SECONDS)


async def _answer(given: Awaitable[bool] | bool) -> bool:
    return await given if inspect.isawaitable(given) else given
