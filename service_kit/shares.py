"""Slots that many callers share, so that none of them can take so many that nothing is left for others. PURE.

How many slots a caller may have depends on how many are free: `share / (1 - share)` times as many as those. One caller
alone gets to its share of all slots. The more callers want much, the less each of them gets, and some slots always stay
free: whoever has none yet gets one.
"""

from collections.abc import Sequence

_ROUNDING = 1e-6
ALL = -1
"""The share of a refusal for want of any free slot."""


class NoSlot(Exception):
    """There is no slot now.

    Attributes:
        share: which one is used up, by its position among the names given; ALL if no slot is free at all.
    """

    def __init__(self, share: int) -> None:
        super().__init__("no slot is free" if share == ALL else "the share is used up")
        self.share = share


class Budget:
    """A number of slots.

    Args:
        slots_max: all of them.
        shares: of all slots, for each of the names by which a caller is known (its key, say, and its person): what one
            such name may have while nobody else has any, more than 0 and no more than 1.
    """

    def __init__(self, slots_max: int, shares: Sequence[float] = ()) -> None:
        self.slots_max = slots_max
        self.taken = 0
        self._weights = [share / (1 - share) if share < 1 else float("inf") for share in shares]
        self._taken_by: list[dict[str, int]] = [{} for _ in shares]

    def take(self, *names: str | None) -> None:
        """Take a slot for who is known by `names`, as many as there are shares; None: by nothing of that kind.

        Raises: NoSlot.
        """
        free = self.slots_max - self.taken
        if free <= 0:
            raise NoSlot(ALL)
        for position, name in enumerate(names):
            if name is not None and self._taken_by[position].get(name, 0) >= self._weights[position] * free - _ROUNDING:
                raise NoSlot(position)
        self.taken += 1
        for position, name in enumerate(names):
            if name is not None:
                by_name = self._taken_by[position]
                by_name[name] = by_name.get(name, 0) + 1

    def give_back(self, *names: str | None) -> None:
        """Give a slot back that was taken for the same names."""
        self.taken -= 1
        for position, name in enumerate(names):
            if name is not None:
                by_name = self._taken_by[position]
                if by_name[name] > 1:
                    by_name[name] -= 1
                else:
                    del by_name[name]

    def taken_by(self, share: int, name: str) -> int:
        """How many slots a name has now."""
        return self._taken_by[share].get(name, 0)
