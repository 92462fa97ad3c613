"""A bounded micro-batcher: callers hand in items one by one, a worker takes them in batches.

While a batch is being processed, the items that arrive form the next one; bigger batches cost less per item. A lone
item leaves at once. Where several callers were seen together (in a batch, and waiting when it ended), the next batch
waits as long as callers keep coming: for `gather_min` of them at least, and for a share of those seen where that is
more. The other share is answered meanwhile, so that neither side of the batcher stands idle. The wait ends when
nobody has come for `gather_patience_seconds`, or, once the share is there, for the shorter `gather_pause_seconds`;
and after `gather_seconds` at most.

Why not only take what waits: a busy server lets its callers in one by one, between everything else it has to do. As
long as it is busy with batches of one, hardly two come in at a time, however many stand at the door. And why two
pauses: callers come in lumps, because they were answered in lumps; the silence before a lump is not the end of it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

import structlog
from pydantic import BaseModel, Field

from service_kit.database import Fault

log = structlog.get_logger(__name__)
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class BatcherFull(Exception):
    """More items wait than the batcher may hold; ask again a little later."""


class BatcherClosed(Exception):
    """The batcher is shutting down and takes no more items."""


class BatcherSettings(BaseModel, extra="forbid"):
    """Bounds of a batcher."""

    batch_size_max: int = Field(256, ge=1, le=4000, description="items processed together")
    queue_size_max: int = Field(8192, ge=1, le=1_000_000, description="items waiting; past it callers are turned away")
    gather_seconds: float = Field(0.025, ge=0, le=0.5, description="longest wait for a batch to fill under load")
    gather_pause_seconds: float = Field(0.001, gt=0, le=0.1, description="the wait ends when nobody came for so long")
    gather_patience_seconds: float = Field(
        0.005, gt=0, le=0.1, description="or for so long, while fewer than the share have come"
    )
    gather_min: int = Field(64, ge=1, le=4000, description="smaller batches wait while callers keep coming")
    gather_share: float = Field(0.25, ge=0, le=1, description="of the callers seen together, how many are waited for")


class Batcher(Generic[ItemT, ResultT]):
    """Calls `process` with at most `batch_size_max` items at a time, one batch in flight.

    Args:
        process: returns one result per item, in order; an exception instance as a result is raised for its caller
            only, an exception raised by `process` for all callers of the batch.
        settings: the bounds.
    """

    def __init__(
        self,
        process: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]],
        settings: BatcherSettings | None = None,
    ) -> None:
        self.settings = settings or BatcherSettings()
        self._process = process
        self._waiting: deque[tuple[ItemT, asyncio.Future[ResultT], float | None]] = deque()
        self._wakeup: asyncio.Future[None] | None = None
        self._wanted = 1
        self._closing = False
        self._worker: asyncio.Task[None] | None = None

    @property
    def depth(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to process; needs a running event loop."""
        # Whoever starts it may be a call: its log lines and spans must not pass for those of that call for ever.
        self._worker = asyncio.get_running_loop().create_task(self._run(), name="batcher", context=Context())

    def submit(self, item: ItemT, deadline: float | None = None) -> asyncio.Future[ResultT]:
        """Hand in an item; the future brings its result.

        Args:
            item: what to process.
            deadline: the loop time after which nobody waits for the result any more; an item still waiting then is
                dropped with TimeoutError, as is one whose future was cancelled. An item that was dropped has had
                no effect.

        Raises:
            BatcherFull, BatcherClosed: at once, without an effect.
        """
        if self._closing:
            raise BatcherClosed
        if len(self._waiting) >= self.settings.queue_size_max:
            raise BatcherFull
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, deadline))
        if self._wakeup is not None and len(self._waiting) >= self._wanted and not self._wakeup.done():
            self._wakeup.set_result(None)
        return future

    async def close(self) -> None:
        """Turn new items away, process those that wait, and stop."""
        self._closing = True
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)
        if self._worker is not None:
            await self._worker

    async def _run(self) -> None:
        callers = 0
        while True:
            if not self._waiting:
                if self._closing:
                    return
                await self._wait_for(1, None)
            if callers > 1:
                await self._gather(int(callers * self.settings.gather_share))
            batch = self._take()
            if batch:
                await self._process_batch(batch)
            # A lull is not the end of the load: what was seen is forgotten little by little.
            callers = max(len(batch) + len(self._waiting), callers * 7 // 8)

    async def _gather(self, share: int) -> None:
        """Until a share of the callers, and some more, wait, nobody comes any more, or it takes too long."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self.settings.gather_seconds
        share = min(share, self.settings.batch_size_max)
        wanted = min(max(share, self.settings.gather_min), self.settings.batch_size_max)
        before = 0
        while before < len(self._waiting) < wanted and loop.time() < give_up and not self._closing:
            before = len(self._waiting)
            if before < share:
                await self._wait_for(share, self.settings.gather_patience_seconds)
            else:
                await self._wait_for(wanted, self.settings.gather_pause_seconds)

    async def _wait_for(self, wanted: int, timeout_seconds: float | None) -> None:
        """Until `wanted` items wait, the time is over, or the batcher closes."""
        if len(self._waiting) >= wanted:
            return
        loop = asyncio.get_running_loop()
        self._wanted, self._wakeup = wanted, loop.create_future()
        wakeup = self._wakeup
        timer = loop.call_later(timeout_seconds, _wake, wakeup) if timeout_seconds is not None else None
        await wakeup
        if timer is not None:
            timer.cancel()
        self._wakeup = None

    def _take(self) -> list[tuple[ItemT, asyncio.Future[ResultT]]]:
        now = asyncio.get_running_loop().time()
        batch: list[tuple[ItemT, asyncio.Future[ResultT]]] = []
        while self._waiting and len(batch) < self.settings.batch_size_max:
            item, future, deadline = self._waiting.popleft()
            if future.done():
                continue
            if deadline is not None and deadline <= now:
                future.set_exception(TimeoutError("the caller's time was over before its turn came"))
                continue
            batch.append((item, future))
        return batch

    async def _process_batch(self, batch: list[tuple[ItemT, asyncio.Future[ResultT]]]) -> None:
        results: Sequence[ResultT | Exception]
        try:
            results = await self._process([item for item, _ in batch])
        except Fault as fault:
            log.warning("batch_failed", size=len(batch), error=repr(fault))
            results = [fault] * len(batch)
        except Exception as error:
            log.exception("batch_failed", size=len(batch))
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
