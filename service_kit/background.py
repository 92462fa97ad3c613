"""Ending background tasks for sure."""

import asyncio

import structlog

log = structlog.get_logger(__name__)
CANCEL_AGAIN_SECONDS = 0.2


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
