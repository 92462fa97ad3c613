"""How often something may happen under a name."""

import time
from collections import OrderedDict

from aiolimiter import AsyncLimiter

NAMES_MAX = 10_000


class TooOften(Exception):
    """One more would be one too many.

    Attributes:
        wait_seconds: after which there is room for one.
    """

    def __init__(self, amount: float, seconds: float) -> None:
        super().__init__(f"more than {amount:g} requests in {seconds:g} s; wait a little")
        self.wait_seconds = seconds / amount


class RateLimit:
    """A leaky bucket for each name: up to a period's worth at once, then one by one.

    Args:
        amount: how many in `seconds`.
    """

    def __init__(self, amount: float, seconds: float) -> None:
        self._amount = amount
        self._seconds = seconds
        self._buckets: OrderedDict[str, AsyncLimiter] = OrderedDict()
        self._full_until = -float("inf")

    @property
    def may_be_full(self) -> bool:
        """Whether there may be a name without room; False is certain, and cheap to know."""
        return self._full_until > time.monotonic()

    async def count(self, name: str) -> None:
        """Take note of one. Raises: TooOften, if it is one too many."""
        bucket = self._bucket(name)
        self.must_have_room(name)
        await bucket.acquire()
        if not bucket.has_capacity():
            self._full_until = time.monotonic() + self._seconds / self._amount

    def must_have_room(self, name: str) -> None:
        """Raises: TooOften, if the next one would be one too many; nothing is counted."""
        bucket = self._buckets.get(name)
        if bucket is not None and not bucket.has_capacity():
            raise TooOften(self._amount, self._seconds)

    def _bucket(self, name: str) -> AsyncLimiter:
        bucket = self._buckets.get(name)
        if bucket is None:
            # A bucket must hold a whole one, however slowly it empties.
            size = max(self._amount, 1)
            bucket = self._buckets[name] = AsyncLimiter(size, self._seconds * size / self._amount)
            if len(self._buckets) > NAMES_MAX:
                self._buckets.popitem(last=False)
        else:
            # Those that were not asked for longest go first: they are empty.
            self._buckets.move_to_end(name)
        return bucket
