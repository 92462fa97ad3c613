"""Slots for few, for which many wait: those who wait come in owner by owner, however many wait for one of them."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

slot_owner: ContextVar[str] = ContextVar("slot_owner", default="")
"""On whose behalf the current task works, where that is not said otherwise."""


class FairSemaphore:
    """A semaphore that is fair to owners, not only to those who came first.

    Args:
        at_once_max: how many may be inside.
    """

    def __init__(self, at_once_max: int) -> None:
        self._free = at_once_max
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, owner: str) -> AsyncIterator[None]:
        """Wait for a slot, and have it for the time of the `with`."""
        await self._enter(owner)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, owner: str) -> None:
        if self._free:
            self._free -= 1
            return
        called = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(called)
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                # It was given its slot at that very moment.
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            owner, queue = self._waiting.popitem(last=False)
            called = queue.popleft()
            if queue:
                # Back to the end: first everybody else.
                self._waiting[owner] = queue
            if not called.done():
                called.set_result(None)
                return
        self._free += 1
