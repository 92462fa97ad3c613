"""A bounded micro-batcher: callers hand in items one by one, a worker takes them in batches.

While a batch is being processed, the items that arrive form the next one; bigger batches cost less per item. A lone
item leaves at once. Where several callers were seen together (in a batch, and waiting when it ended), the next batch
waits as long as callers keep coming: for `gather_min` of them at least, and for a share of those seen where that is
more. The other share is answered meanwhile, so that neither side of the batcher stands idle. The wait ends when
nobody has come for `gather_patience_seconds`, or, once the share is there, for the shorter `gather_pause_seconds`;
and after `gather_seconds` at most.

An item whose time has not come, because somebody else keeps what it needs, can be set aside (`SetAside`): it comes
again, in its old position before all that came later, and the batches go on meanwhile.

Why not only take what waits: a busy server lets its callers in one by one, between everything else it has to do. As
long as it is busy with batches of one, hardly two come in at a time, however many wait to be let in. And why two
pauses: callers come in lumps, because they were answered in lumps; the silence before a lump is not the end of it.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from typing import Generic, NamedTuple, TypeVar

import msgspec
import structlog
from pydantic import BaseModel, Field

from service_kit.background import Kept, is_foreign_cancellation, keep
from service_kit.database.database import Fault

log = structlog.get_logger(__name__)
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class BatcherFull(Exception):
    """More items wait than the batcher may hold; ask again a little later."""


class BatcherClosed(Exception):
    """The batcher is shutting down and takes no more items."""


class BatchFailed(Fault):
    """A batch ended in a way that nobody foresaw: what became of its items is not known."""


class SetAside(NamedTuple):
    """Stands for an item's result: nothing was done, let it come again at `until` (the loop's time).

    Attributes:
        until: when; the item is then before all that came after it.
        fault: what its caller is told where nothing may be set aside, or no longer.
    """

    until: float
    fault: Fault


class BatcherSettings(BaseModel, extra="forbid"):
    """Bounds of a batcher."""

    batch_size_max: int = Field(256, ge=1, le=4000, description="items processed together")
    queue_size_max: int = Field(8192, ge=1, le=1_000_000, description="items waiting; past it callers are turned away")
    aside_seconds_max: float = Field(5, ge=0, le=300, description="longest time that an item is set aside, in all")
    aside_margin_seconds: float = Field(
        0.1, ge=0, le=10, description="so long before its deadline a caller is told that its item stays aside"
    )
    aside_max: int = Field(4096, ge=0, le=1_000_000, description="items set aside at the same time")
    gather_seconds: float = Field(0.025, ge=0, le=0.5, description="longest wait for a batch to fill under load")
    gather_pause_seconds: float = Field(0.001, gt=0, le=0.1, description="the wait ends when nobody came for so long")
    gather_patience_seconds: float = Field(
        0.005, gt=0, le=0.1, description="or for so long, while fewer than the share have come"
    )
    gather_min: int = Field(64, ge=1, le=4000, description="smaller batches wait while callers keep coming")
    gather_share: float = Field(0.25, ge=0, le=1, description="of the callers seen together, how many are waited for")


class _Entry(msgspec.Struct, Generic[ItemT, ResultT], frozen=True):
    """An item on its way; `number` is its position among all."""

    number: int
    item: ItemT
    future: asyncio.Future[ResultT]
    deadline: float | None
    is_patient: bool


class Batcher(Generic[ItemT, ResultT]):
    """Calls `process` with at most `batch_size_max` items at a time, one batch in flight.

    Whatever `process` does, the next batch has its turn, and no caller of the last one is left without an end.

    Args:
        process: returns one result per item, in order; an exception instance as a result is raised for its caller
            only, an exception raised by `process` for all callers of the batch. A `SetAside` as a result: see there.
        settings: the bounds.
        name: what logs, health and metrics call it.
    """

    def __init__(
        self,
        process: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception | SetAside]]],
        settings: BatcherSettings | None = None,
        name: str = "batcher",
    ) -> None:
        self.name = name
        self.settings = settings or BatcherSettings()
        self._process = process
        self._numbers = itertools.count()
        self._waiting: deque[_Entry[ItemT, ResultT]] = deque()
        self._aside: list[tuple[float, _Entry[ItemT, ResultT]]] = []
        self._aside_since: dict[int, float] = {}
        self._taken: list[_Entry[ItemT, ResultT]] = []
        self._wakeup: asyncio.Future[None] | None = None
        self._wanted = 1
        self._callers = 0
        self._closing = False
        self._worker: Kept | None = None

    @property
    def depth(self) -> int:
        """Items that wait for a batch."""
        return len(self._waiting)

    @property
    def aside(self) -> int:
        """Items that are set aside."""
        return len(self._aside)

    @property
    def is_healthy(self) -> bool:
        """Whether its worker runs, or is not needed yet."""
        return self._worker is None or self._worker.is_healthy

    @property
    def failures(self) -> int:
        """How often its worker ended although it should not."""
        return 0 if self._worker is None else self._worker.failures

    def start(self) -> None:
        """Begin to process; needs a running event loop."""
        # It may be started from within a call: its log lines and spans must not pass for that call's forever.
        self._worker = keep(self.name, self._run, lambda: self._closing, Context())

    def submit(self, item: ItemT, deadline: float | None = None, *, is_patient: bool = True) -> asyncio.Future[ResultT]:
        """Hand in an item; the future brings its result.

        Args:
            item: what to process.
            deadline: the loop time after which nobody waits for the result any more; an item still waiting then is
                dropped with TimeoutError, as is one whose future was cancelled. An item that was dropped has had
                no effect.
            is_patient: whether it may be set aside; otherwise its caller hears at once that it would have to be.

        Raises:
            BatcherFull, BatcherClosed: at once, without an effect.
        """
        if self._closing:
            raise BatcherClosed
        if len(self._waiting) >= self.settings.queue_size_max:
            raise BatcherFull
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(next(self._numbers), item, future, deadline, is_patient))
        if self._wakeup is not None and len(self._waiting) >= self._wanted and not self._wakeup.done():
            self._wakeup.set_result(None)
        return future

    async def close(self) -> None:
        """Turn new items away, process those that wait, and stop; what is set aside is not waited for."""
        self._closing = True
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)
        if self._worker is not None:
            await self._worker.finish()
        for entry in (*self._waiting, *(entry for _, entry in self._aside)):
            if not entry.future.done():
                entry.future.set_exception(BatcherClosed())
        self._waiting.clear()
        self._aside.clear()

    async def _run(self) -> None:
        # What an earlier run was at when it broke; it can't be told what became of it.
        self._fail(self._taken)
        while True:
            if not self._waiting:
                if self._closing:
                    return
                await self._wait_for(1, self._until_something_is_due())
            if self._callers > 1:
                await self._gather(int(self._callers * self.settings.gather_share))
            batch = self._taken = self._take()
            if batch:
                await self._process_batch(batch)
            # A lull is not the end of the load: what was seen is forgotten little by little.
            self._callers = max(len(batch) + len(self._waiting), self._callers * 7 // 8)

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

    def _take(self) -> list[_Entry[ItemT, ResultT]]:
        now = asyncio.get_running_loop().time()
        if self._aside:
            self._bring_back(now)
        batch: list[_Entry[ItemT, ResultT]] = []
        while self._waiting and len(batch) < self.settings.batch_size_max:
            entry = self._waiting.popleft()
            if entry.future.done():
                self._aside_since.pop(entry.number, None)
                continue
            if entry.deadline is not None and entry.deadline <= now:
                self._aside_since.pop(entry.number, None)
                entry.future.set_exception(TimeoutError("the caller's time was over before its turn came"))
                continue
            batch.append(entry)
        return batch

    async def _process_batch(self, batch: list[_Entry[ItemT, ResultT]]) -> None:
        for entry, result in zip(batch, await self._results(batch), strict=True):
            if isinstance(result, SetAside):
                self._set_aside(entry, result)
                continue
            if self._aside_since:
                self._aside_since.pop(entry.number, None)
            if entry.future.done():
                continue
            if isinstance(result, Exception):
                entry.future.set_exception(result)
            else:
                entry.future.set_result(result)

    async def _results(self, batch: list[_Entry[ItemT, ResultT]]) -> Sequence[ResultT | Exception | SetAside]:
        """One per item, whatever happens."""
        error: Exception
        try:
            results = await self._process([entry.item for entry in batch])
            if len(results) != len(batch):
                log.error("batch_miscounted", batcher=self.name, size=len(batch), results=len(results))
                return [_unknown()] * len(batch)
        except Fault as fault:
            log.warning("batch_failed", batcher=self.name, size=len(batch), error=repr(fault))
            error = fault
        except asyncio.CancelledError:
            if not is_foreign_cancellation():
                raise
            log.exception("batch_failed", batcher=self.name, size=len(batch))
            error = _unknown()
        except Exception as unforeseen:
            log.exception("batch_failed", batcher=self.name, size=len(batch))
            error = unforeseen
        else:
            return results
        return [error] * len(batch)

    def _set_aside(self, entry: _Entry[ItemT, ResultT], told: SetAside) -> None:
        """Let an item come again later, or tell its caller why it can't, while there is time to."""
        now = asyncio.get_running_loop().time()
        give_up = self._aside_since.setdefault(entry.number, now) + self.settings.aside_seconds_max
        if entry.deadline is not None:
            give_up = min(give_up, entry.deadline - self.settings.aside_margin_seconds)
        has_room = len(self._aside) < self.settings.aside_max and entry.is_patient and not self._closing
        if has_room and told.until < give_up and not entry.future.done():
            self._aside.append((told.until, entry))
            return
        del self._aside_since[entry.number]
        if not entry.future.done():
            entry.future.set_exception(told.fault)

    def _bring_back(self, now: float) -> None:
        """Put what was set aside until now back to its position."""
        due = [entry for until, entry in self._aside if until <= now]
        if due:
            self._aside = [(until, entry) for until, entry in self._aside if until > now]
            self._waiting = deque(sorted((*due, *self._waiting), key=_number))

    def _until_something_is_due(self) -> float | None:
        """Seconds; None if nothing is set aside."""
        if not self._aside:
            return None
        return max(0.0, min(until for until, _ in self._aside) - asyncio.get_running_loop().time())

    def _fail(self, entries: Iterable[_Entry[ItemT, ResultT]]) -> None:
        """Give callers an end who have none yet."""
        for entry in entries:
            if not entry.future.done():
                entry.future.set_exception(_unknown())


def _number(entry: _Entry[ItemT, ResultT]) -> int:
    return entry.number


def _unknown() -> BatchFailed:
    return BatchFailed("what became of this is not known; ask again with the same request id")


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
