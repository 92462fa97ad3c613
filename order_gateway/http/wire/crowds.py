"""Who has how many of the connections that are open, and which one goes where room is needed. PURE.

A connection that nobody is known to have goes first. Then goes one of whoever has most, measured by the share that a
key or a person may have: a person with 10 and a share of 0.1 has as many as a key with 80 and a share of 0.8.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Generic, TypeVar

Names = tuple[str | None, ...]
"""By which somebody is known, as many as there are shares: a key, say, and a person. None: by nothing of that kind."""
MemberT = TypeVar("MemberT")


class Holders(Generic[MemberT]):
    """Who holds what. Who holds most is known at once, however many there are."""

    def __init__(self) -> None:
        self._held: dict[str, dict[MemberT, None]] = {}
        self._holding: dict[int, dict[str, None]] = {}
        self._most = 0

    def add(self, name: str, member: MemberT) -> None:
        """One more for `name`."""
        held = self._held.setdefault(name, {})
        held[member] = None
        self._count(name, len(held) - 1, len(held))

    def remove(self, name: str, member: MemberT) -> None:
        """One less."""
        held = self._held[name]
        del held[member]
        if not held:
            del self._held[name]
        self._count(name, len(held) + 1, len(held))

    def by_most(self) -> Iterator[tuple[int, dict[MemberT, None]]]:
        """What each one holds, and how many these are, beginning with whoever holds most; each in order of addition."""
        for count in range(self._most, 0, -1):
            for name in self._holding.get(count, ()):
                yield count, self._held[name]

    def _count(self, name: str, before: int, after: int) -> None:
        if after:
            self._holding.setdefault(after, {})[name] = None
        if before:
            others = self._holding[before]
            del others[name]
            if not others:
                del self._holding[before]
        if after > self._most or (before == self._most and before not in self._holding):
            # It changes by one only, so that nobody can be between the two.
            self._most = after


class Crowd(Generic[MemberT]):
    """Those that share a number of slots.

    Args:
        size_max: how many slots there are.
        shares: of all slots, for each of the names of a member's holder; see service_kit.shares.
    """

    def __init__(self, size_max: int, shares: Sequence[float] = ()) -> None:
        self.size_max = size_max
        self.size = 0
        self._shares = shares
        self._unknown: dict[MemberT, None] = {}
        self._holders: list[Holders[MemberT]] = [Holders() for _ in shares]

    @property
    def is_full(self) -> bool:
        """Whether one has to go before another one can come."""
        return self.size >= self.size_max

    def enter(self, member: MemberT) -> None:
        """One more, of whom nothing is known yet."""
        self.size += 1
        self._unknown[member] = None

    def know(self, member: MemberT, before: Names, after: Names) -> None:
        """Whose it is from now on, `()`: nobody's; `before`: as it was said last, `()` if it was not."""
        if not before:
            del self._unknown[member]
        nobody = (None,) * len(self._shares)
        for holders, old, new in zip(self._holders, before or nobody, after or nobody, strict=True):
            if old != new:
                if old is not None:
                    holders.remove(old, member)
                if new is not None:
                    holders.add(new, member)

    def leave(self, member: MemberT, names: Names) -> None:
        """One less; `names`: as it was said last, () if it was not."""
        self.size -= 1
        self.know(member, names, ())

    def first_to_go(self, is_idle: Callable[[MemberT], bool], is_ours: Callable[[MemberT], bool]) -> MemberT | None:
        """Who makes room for another one; None: nobody.

        The oldest unknown one; else the oldest idle one of whoever has most, of those who have any; else the oldest of
        whoever has most, if these are more than its share and not `is_ours`, which we would not cut off while it works.
        """
        idle = (member for _weight, _too_many, held in self._by_weight() for member in held if is_idle(member))
        for member in chain(self._unknown, idle):
            return member
        oldest = (next(iter(held)) for _weight, are_too_many, held in self._by_weight() if are_too_many)
        return next((member for member in oldest if not is_ours(member)), None)

    def _by_weight(self) -> Iterator[tuple[float, bool, dict[MemberT, None]]]:
        """What each one holds, beginning with whoever has most: its weight, and whether it is more than its share."""
        every = (self._weighed(holders, share) for holders, share in zip(self._holders, self._shares, strict=True))
        return heapq.merge(*every, key=itemgetter(0), reverse=True)

    def _weighed(self, holders: Holders[MemberT], share: float) -> Iterator[tuple[float, bool, dict[MemberT, None]]]:
        for count, held in holders.by_most():
            yield count / share, count > share * self.size_max, held
