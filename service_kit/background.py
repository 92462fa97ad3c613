"""Background tasks that go on for as long as the service does: kept alive, seen from outside, and ended for sure.

None may end unnoticed. What ends without having been told to, whatever ended it, is logged, counted, begun again, and
meanwhile named by `Background.unhealthy`, which health and metrics read.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextvars import Context
from typing import Protocol

import structlog

from service_kit.metrics import Gauge, Labels, Measure

log = structlog.get_logger(__name__)
CANCEL_AGAIN_SECONDS = 0.2
BEGIN_AGAIN_SECONDS = 1.0
"""Before work that ended is begun again; twice as long each time it ends soon after that, up to the next one."""
BEGIN_AGAIN_SECONDS_MAX = 30.0


class Kept:
    """Work that never ends by itself; made by `keep`.

    Attributes:
        name: what logs, health and metrics call it.
        failures: how often it ended without having been told to.
    """

    def __init__(
        self, name: str, work: Callable[[], Awaitable[None]], is_over: Callable[[], bool], context: Context | None
    ) -> None:
        self.name = name
        self.failures = 0
        self._work = work
        self._is_over = is_over
        self._pause_seconds = BEGIN_AGAIN_SECONDS
        self._begun_at: float | None = time.monotonic()
        self._hurry = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(), name=name, context=context)

    @property
    def is_healthy(self) -> bool:
        """Whether it runs, and, if it ever failed, has run for as long as its last pause was."""
        if self.task.done():
            return self._is_over() or self.task.cancelled()
        if self._begun_at is None:
            return False
        return not self.failures or time.monotonic() - self._begun_at >= self._pause_seconds

    async def finish(self) -> None:
        """Wait until work that was told to stop has done so; it gets one more turn at once if it is having a rest."""
        self._hurry.set()
        await self.task

    async def _run(self) -> None:
        while True:
            self._begun_at = begun_at = time.monotonic()
            if await self._end_of_work():
                return
            self.failures += 1
            self._begun_at = None
            if self._hurry.is_set():
                return
            soon = time.monotonic() - begun_at < self._pause_seconds
            longer = self._pause_seconds * 2 if soon and self.failures > 1 else BEGIN_AGAIN_SECONDS
            self._pause_seconds = min(longer, BEGIN_AGAIN_SECONDS_MAX)
            await self._rest()

    async def _end_of_work(self) -> bool:
        """Do the work; whether it ended as it was told to."""
        try:
            await self._work()
        except asyncio.CancelledError:
            if _is_told_to_end():
                raise
            log.exception("background_task_failed", task=self.name)
        except Exception as error:
            if _is_told_to_end():
                # A driver may turn an interruption into an error of its own.
                raise asyncio.CancelledError from error
            log.exception("background_task_failed", task=self.name)
        else:
            if self._is_over():
                return True
            log.error("background_task_ended", task=self.name)
        return False

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._pause_seconds):
                await self._hurry.wait()
        except TimeoutError:
            return


def keep(
    name: str,
    work: Callable[[], Awaitable[None]],
    is_over: Callable[[], bool] = lambda: False,
    context: Context | None = None,
) -> Kept:
    """Begin `work`, and begin it again whenever it ends although it is not over.

    Args:
        name: for logs, health and metrics.
        work: what goes on until it is cancelled (`end`), or returns once `is_over`.
        is_over: whether the work was told to stop, so that it may return.
        context: the context variables that it runs with; those of the caller unless given.
    """
    return Kept(name, work, is_over, context)


async def end(*kept: Kept) -> None:
    """Cancel work and wait until it has ended."""
    pending = {one.task for one in kept}
    while pending:
        for task in pending:
            task.cancel()
        # Once is not always enough: whoever waits inside may take the interruption for something else.
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
    for one in kept:
        if not one.task.cancelled() and (error := one.task.exception()) is not None:
            log.error("background_task_died", task=one.name, exc_info=error)


def is_foreign_cancellation() -> bool:
    """Inside `except CancelledError`: whether it came from what was awaited, and nobody has cancelled this task."""
    return not _is_told_to_end()


def _is_told_to_end() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def role_gauge(prefix: str, every: Iterable[str], chosen: Collection[str]) -> Measure:
    """Which roles a process has: work in the background that other processes may do in its place.

    Args:
        every: all roles that there are.
        chosen: those of this process.
    """
    values: dict[Labels, float] = {(role,): float(role in chosen) for role in every}
    name = f"{prefix}_background_role"
    return Gauge(name, "1 for each background role that this process has.", lambda: values, ("role",))


class Watched(Protocol):
    """Something that is to go on for as long as the service does."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def is_healthy(self) -> bool:
        """Whether it runs."""
        ...

    @property
    def failures(self) -> int:
        """How often it ended although it should not."""
        ...


class Background:
    """All that goes on in the background of a process, so that health and metrics can tell."""

    def __init__(self) -> None:
        self._watched: list[Watched] = []

    def keep(self, name: str, work: Callable[[], Awaitable[None]], is_over: Callable[[], bool] = lambda: False) -> Kept:
        """Begin work (see the function `keep`), and watch it."""
        kept = keep(name, work, is_over)
        self.watch(kept)
        return kept

    def watch(self, *watched: Watched) -> None:
        """Tell of these, too."""
        self._watched += watched

    @property
    def unhealthy(self) -> tuple[str, ...]:
        """The names of those that do not run, or did not a moment ago."""
        return tuple(one.name for one in self._watched if not one.is_healthy)

    def measures(self, prefix: str) -> list[Measure]:
        """What metrics tell, each per task."""
        return [
            Gauge(
                f"{prefix}_background_task_well",
                "1 if the background task is at work.",
                lambda: self._each(lambda one: one.is_healthy),
                ("task",),
            ),
            Gauge(
                f"{prefix}_background_task_failures",
                "How often the background task ended although it should not, and was begun again.",
                lambda: self._each(lambda one: one.failures),
                ("task",),
            ),
        ]

    def _each(self, value: Callable[[Watched], float]) -> dict[Labels, float]:
        return {(one.name,): value(one) for one in self._watched}
