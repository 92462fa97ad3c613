"""The API keys that are valid now: those of the configuration, and those of a file that may change at any time."""

import asyncio
import hashlib
import hmac
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import structlog
from aiohttp import web

from order_gateway.access import AccessSettings, ApiKey, read_keys, refuse_development_key
from service_kit.background import Background, end

log = structlog.get_logger(__name__)
Stamp = tuple[int, int, int]


def find_key(keys: Sequence[ApiKey], presented: str) -> ApiKey | None:
    """The configured key that was presented; takes as long for a wrong one as for a right one."""
    digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found


class Keyring:
    """Finds keys. A file that can't be used any more is logged, and the keys read before stay."""

    def __init__(self, settings: AccessSettings, background: Background | None = None) -> None:
        self._background = background or Background()
        self._configured = settings.api_keys
        self._path = settings.api_keys_file
        self._check_seconds = settings.api_keys_check_seconds
        self._is_development = settings.profile == "development"
        self._stamp = _stamp(self._path) if self._path else None
        self._keys = (*self._configured, *(read_keys(self._path) if self._path else ()))

    def find(self, presented: str) -> ApiKey | None:
        """The key that was presented, if it is valid now."""
        return find_key(self._keys, presented)

    def look(self) -> None:
        """Read the file again if it has changed."""
        if self._path is None:
            return
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            keys = read_keys(self._path)
            if not self._is_development:
                refuse_development_key(keys)
        except ValueError as error:
            log.warning("api_keys_not_read", error=str(error))
            return
        self._keys = (*self._configured, *keys)
        log.info("api_keys_read", names=[key.name for key in keys])

    async def watch(self, _app: web.Application) -> AsyncIterator[None]:
        """For aiohttp's cleanup_ctx: look at the file from time to time, and at a SIGHUP, as long as it runs."""
        if self._path is None:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.look)
        task = self._background.keep("api keys", self._look_on)
        yield
        loop.remove_signal_handler(signal.SIGHUP)
        await end(task)

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(self._check_seconds)
            await asyncio.to_thread(self.look)


def _stamp(path: Path) -> Stamp | None:
    """What changes when the file does; None while there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
