"""Waits for something to happen to an order, whichever process makes it happen: one look for all who wait."""

import asyncio
from collections import defaultdict

import structlog

from order_gateway.storage.reading import Listing
from service_kit.database.database import Fault

log = structlog.get_logger(__name__)


class Watching:
    """A background task that looks at the orders somebody waits for; start it with `run`, end it with `stop`."""

    def __init__(self, listing: Listing, poll_seconds: float) -> None:
        self._listing = listing
        self._poll_seconds = poll_seconds
        self._waiting: defaultdict[int, dict[asyncio.Future[None], int]] = defaultdict(dict)
        self._somebody = asyncio.Event()
        self.is_stopping = False

    async def wait(self, order_id: int, after: int, timeout_seconds: float) -> bool:
        """Whether something happened after the event with the id `after`, within a time; False also at a stop."""
        if self.is_stopping:
            return False
        happened = asyncio.get_running_loop().create_future()
        self._waiting[order_id][happened] = after
        self._somebody.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await happened
        except TimeoutError:
            return False
        finally:
            del self._waiting[order_id][happened]
            if not self._waiting[order_id]:
                del self._waiting[order_id]
        return not self.is_stopping

    async def newest(self, order_id: int) -> int:
        """The id of the latest event of an order; 0 if there is none."""
        return (await self._listing.latest([order_id])).get(order_id, 0)

    async def run(self) -> None:
        """Look, for as long as it is not cancelled."""
        while True:
            await self._somebody.wait()
            await asyncio.sleep(self._poll_seconds)
            try:
                await self._look()
            except Fault as fault:
                log.warning("watching_waits", error=str(fault))
            if not self._waiting:
                self._somebody.clear()

    def stop(self) -> None:
        """Let everybody go who waits."""
        self.is_stopping = True
        for waiting in self._waiting.values():
            for happened in waiting:
                if not happened.done():
                    happened.set_result(None)

    async def _look(self) -> None:
        if not self._waiting:
            return
        for order_id, newest in (await self._listing.latest(list(self._waiting))).items():
            for happened, after in self._waiting.get(order_id, {}).items():
                if newest > after and not happened.done():
                    happened.set_result(None)
