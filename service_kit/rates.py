"""How often something may happen under a name."""

import time
from collections import OrderedDict

NAMES_MAX = 10_000
_ROUNDING = 1e-3
"""Of the time for one: sums of times are not exact."""


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

    What is kept of a bucket is one number, the time at which it will be empty (the generic cell rate algorithm of
    ITU-T I.371): every request looks at one or two of them.

    Args:
        amount: how many in `seconds`.
    """

    def __init__(self, amount: float, seconds: float) -> None:
        self._amount = amount
        self._seconds = seconds
        self._interval = seconds / amount
        # A bucket must hold a whole one, however slowly it empties.
        self._room = max(seconds, self._interval) - self._interval * (1 - _ROUNDING)
        self._empty_at: OrderedDict[str, float] = OrderedDict()
        self._full_until = -float("inf")

    @property
    def may_be_full(self) -> bool:
        """Whether there may be a name without room; False is certain, and cheap to know."""
        return self._full_until > time.monotonic()

    def count(self, name: str) -> None:
        """Take note of one. Raises: TooOften, if it is one too many."""
        now = time.monotonic()
        begin = self._empty_at.setdefault(name, now)
        # Those that were not asked for longest go first: they are empty.
        self._empty_at.move_to_end(name)
        if begin > now + self._room:
            raise TooOften(self._amount, self._seconds)
        self._empty_at[name] = empty_at = max(begin, now) + self._interval
        if len(self._empty_at) > NAMES_MAX:
            self._empty_at.popitem(last=False)
        if empty_at > now + self._room:
            self._full_until = max(self._full_until, empty_at - self._room)

    def must_have_room(self, name: str) -> None:
        """Raises: TooOften, if the next one would be one too many; nothing is counted."""
        empty_at = self._empty_at.get(name)
        if empty_at is not None and empty_at > time.monotonic() + self._room:
            raise TooOften(self._amount, self._seconds)
