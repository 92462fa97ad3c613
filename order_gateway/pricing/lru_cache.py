"""A bounded memory of what was put there last."""

import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class LruCache(Generic[KeyT, ValueT]):
    """Values by key, with their age; the one that was not used for longest makes room for one too many."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._kept: OrderedDict[KeyT, tuple[float, ValueT]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: KeyT, value: ValueT) -> None:
        """Keep a value, as of now."""
        self._kept[key] = (time.monotonic(), value)
        self._kept.move_to_end(key)
        if len(self._kept) > self._size_max:
            self._kept.popitem(last=False)

    def get(self, key: KeyT, age_max_seconds: float | None = None) -> ValueT | None:
        """The value, if it is there and no older than that (None: however old)."""
        kept = self._kept.get(key)
        if kept is None or (age_max_seconds is not None and time.monotonic() - kept[0] >= age_max_seconds):
            return None
        self._kept.move_to_end(key)
        return kept[1]
