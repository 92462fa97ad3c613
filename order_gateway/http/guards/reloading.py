"""Looking at files of keys from time to time, and at a SIGHUP, as long as the application runs."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from aiohttp import web

from service_kit.background import Background, end
from service_kit.reloadable_files import ReloadableFiles


def reload_on_change(
    files: Sequence[ReloadableFiles[Any]], every_seconds: float, background: Background | None = None
) -> Callable[[web.Application], AsyncIterator[None]]:
    """For aiohttp's cleanup_ctx; `background` watches it."""
    watching = background or Background()

    def look() -> None:
        for file in files:
            file.reload()

    async def look_on() -> None:
        while True:
            await asyncio.sleep(every_seconds)
            await asyncio.to_thread(look)

    async def run(_app: web.Application) -> AsyncIterator[None]:
        if not files:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, look)
        task = watching.keep("files of keys", look_on)
        yield
        loop.remove_signal_handler(signal.SIGHUP)
        await end(task)

    return run
