"""Which connections may still be used as they are: what one of them met holds for the others, too.

- Where one met a server that takes no writes, all that were made before are dropped at their next use.
- Where one was found dead, the others are tested before they are used, and the tries under way get little more time.
- A connection that is too old, or leads elsewhere than new ones do, is dropped; one that was long idle is tested.

All of this happens between two transactions, never within one.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from service_kit.database.connection import Connection
from service_kit.database.errors import MUST_MOVE, ConnectFailed, Kind, kind_of
from service_kit.database.settings import DatabaseSettings

log = structlog.get_logger(__name__)
LOOKS_THAT_AGREE = 3
"""So many new connections in a row must lead to the same server before the others are moved there: a proxy that
spreads connections over several servers must not make them wander."""


class Trust:
    """What is known about the connections of one database."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._dropped_at = self._doubted_at = -float("inf")
        self._seen: deque[str] = deque(maxlen=LOOKS_THAT_AGREE)
        self._under_way: set[asyncio.Timeout] = set()
        self._shortened: set[asyncio.Timeout] = set()

    async def allows(self, connection: Connection) -> bool:
        """Whether a transaction may begin on a connection; tests it if there is reason to."""
        now = time.monotonic()
        if connection.is_hung_up() or now >= connection.expires_at:
            return False
        if connection.made_at <= self._dropped_at or self._is_elsewhere(connection):
            return False
        if connection.heard_at > self._doubted_at and now - connection.heard_at < self._settings.idle_test_seconds:
            return True
        return await connection.answers()

    def note_server(self, server: str) -> None:
        """A new connection led there."""
        self._seen.append(server)

    def note_failure(self, error: BaseException) -> None:
        """What became of a try; the others may be no better off."""
        kind = kind_of(error)
        if kind in MUST_MOVE:
            self._dropped_at = time.monotonic()
        elif kind is Kind.AWAY and not isinstance(getattr(error, "orig", error), ConnectFailed):
            self._doubted_at = time.monotonic()

    @contextmanager
    def watched(self, limit: asyncio.Timeout) -> Iterator[None]:
        """For the time of a try with this limit: it ends earlier where another one ran into its own."""
        self._under_way.add(limit)
        try:
            yield
        except BaseException:
            if limit.expired() and limit not in self._shortened:
                self._shorten_others(limit)
            raise
        finally:
            self._under_way.discard(limit)
            self._shortened.discard(limit)

    def _shorten_others(self, expired: asyncio.Timeout) -> None:
        """Only after a try that had all its time: those cut short here must not cut short others in turn."""
        now = asyncio.get_running_loop().time()
        for other in self._under_way - self._shortened - {expired}:
            when = other.when()
            if when is not None and not other.expired() and when > now + self._settings.settle_seconds:
                other.reschedule(now + self._settings.settle_seconds)
                self._shortened.add(other)

    def _is_elsewhere(self, connection: Connection) -> bool:
        return (
            len(self._seen) == LOOKS_THAT_AGREE
            and len({connection.server, *self._seen}) == 2
            and (connection.server not in self._seen)
        )
