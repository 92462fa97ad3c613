"""Background tasks that go on for as long as the service does: kept alive, and ended for sure."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)
CANCEL_AGAIN_SECONDS = 0.2
BEGIN_AGAIN_SECONDS = 1.0


def keep(name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """A task for `work` that never ends by itself; where something unforeseen ends it, it is logged and begun again."""

    async def run() -> None:
        while True:
            try:
                await work()
            except Exception:
                log.exception("background_task_failed", task=name)
            await asyncio.sleep(BEGIN_AGAIN_SECONDS)

    return asyncio.get_running_loop().create_task(run(), name=name)


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait until they have ended; what one of them died of is logged."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        # Once is not always enough: the driver may turn an interruption into an error of its own, which is caught.
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background_task_died", task=task.get_name(), exc_info=error)
