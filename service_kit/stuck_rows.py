"""Rows that another session keeps locked: whoever meets them waits for them once, and passes over them from then on.

A batch that waits for a locked row makes everybody in it wait, and everybody behind it. So it waits only for a moment
(`json_table.bounded`), then takes what is free (SKIP LOCKED tells which that is), and sets aside the items that need
the rest. As long as rows are remembered as stuck, no batch waits for them any more: what needs them is set aside at
once, and they are looked at again, without waiting, every `locked_look_seconds`.

A row that is only in demand, by other servers that use it one after the other, looks the same for a moment, but its
version changes meanwhile: then it is worth waiting in line for it, as long as the server allows.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from service_kit.batcher import SetAside
from service_kit.database.database import DatabaseSettings, LockRetriesSpent

KeyT = TypeVar("KeyT", bound=Hashable)
LOCK_WAITS = frozenset({1205, 1969, 3024})
"""A lock was waited for too long: the server's own bound, and that of `bounded` on MariaDB and on MySQL."""
IN_DEMAND_SECONDS = 10.0
"""How long a row that changed hands while it looked stuck is waited for in line."""

WRITE_WAITS = frozenset({1205})
"""The same while writing, which is not `bounded`: there, the other two are the server's own limits, and no lock's."""


class RowsLocked(LockRetriesSpent):
    """Another session keeps rows locked that this needs; nothing was done, ask again later."""


class WriteBlocked(Exception):
    """What a batch writes has to wait for somebody else's locks, and they last; nothing was done."""


class Sorted(NamedTuple, Generic[KeyT]):
    """Keys by what is to be done about their rows: wait for them, look whether they are free, leave them alone."""

    waited_for: set[KeyT]
    looked_at: set[KeyT]
    left_alone: set[KeyT]


class StuckRows(Generic[KeyT]):
    """What is known of rows that were found locked.

    Args:
        settings: how often a stuck row is looked at, and how many are remembered.
        clock: the event loop's time, unless given.
    """

    def __init__(self, settings: DatabaseSettings, clock: Callable[[], float] | None = None) -> None:
        self._look_seconds = settings.locked_look_seconds
        self._rows_max = settings.locked_rows_max
        self._clock = clock
        self._stuck: dict[KeyT, tuple[float, int | None]] = {}
        self._in_demand: dict[KeyT, float] = {}
        self._followed: dict[Hashable, float] = {}

    def __bool__(self) -> bool:
        return bool(self._stuck or self._followed)

    def __len__(self) -> int:
        return len(self._stuck)

    def __contains__(self, key: object) -> bool:
        return key in self._stuck

    def now(self) -> float:
        """The time by which is told what is due."""
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()

    def sort(self, keys: Iterable[KeyT], now: float) -> Sorted[KeyT]:
        """Which of these rows may be waited for."""
        found: Sorted[KeyT] = Sorted(set(), set(), set())
        for key in keys:
            known = self._stuck.get(key)
            if known is None:
                found.waited_for.add(key)
            else:
                (found.looked_at if known[0] <= now else found.left_alone).add(key)
        return found

    def are_in_demand(self, keys: Iterable[KeyT]) -> bool:
        """Whether one of these rows is worth waiting for in line."""
        if not self._in_demand:
            return False
        now = self.now()
        self._in_demand = {key: until for key, until in self._in_demand.items() if until > now}
        return not self._in_demand.keys().isdisjoint(keys)

    def found_locked(self, versions: Mapping[KeyT, int | None], now: float) -> None:
        """These rows were locked when they were looked at, and had these versions (None: they have none)."""
        for key, version in versions.items():
            known = self._stuck.pop(key, None)
            if known is not None and known[1] is not None and version != known[1]:
                self._in_demand[key] = now + IN_DEMAND_SECONDS
                continue
            self._in_demand.pop(key, None)
            self._stuck[key] = (now + self._look_seconds, version)
        while len(self._stuck) > self._rows_max:
            # The one that nobody has asked for longest.
            del self._stuck[next(iter(self._stuck))]

    def found_free(self, keys: Iterable[KeyT]) -> None:
        """These rows were not locked."""
        for key in keys:
            self._stuck.pop(key, None)

    def set_aside(self, keys: Iterable[KeyT], names: Iterable[Hashable], now: float, why: str) -> SetAside:
        """What stands for the result of an item that needs the rows `keys`.

        Args:
            names: what the item is called; others of that name follow it (`follows`), so that they keep their order.
            why: for the caller whose time is over before the rows are free.
        """
        until = max((self._stuck[key][0] for key in keys if key in self._stuck), default=now)
        return self.follow(names, until, why)

    def follow(self, names: Iterable[Hashable], until: float, why: str) -> SetAside:
        """As `set_aside`, for what is to come again at a known time."""
        self._followed.update(dict.fromkeys(names, until))
        return SetAside(until, RowsLocked(why))

    def follows(self, names: Iterable[Hashable], now: float) -> float | None:
        """Until when something of one of these names is set aside, if it is."""
        until = max((self._followed.get(name, 0.0) for name in names), default=0.0)
        return until if until > now else None

    def forget_followed(self, now: float) -> None:
        """Let go of names whose time has come."""
        self._followed = {name: until for name, until in self._followed.items() if until > now}
