"""How often somebody may guess: keys from an address, the password of an account.

Whoever has guessed too often is refused without a look at the next guess, so as not to learn that it is right. Whoever
has been right before, from the same address, goes on as before: behind one address, or at one account, somebody who
guesses does not lock out the others.
"""

from collections import OrderedDict

from service_kit.rates import RateLimit

KNOWN_MAX = 10_000
"""Pairs that are remembered."""
PERIOD_SECONDS = 60


class AttemptLimit:
    """Counts wrong guesses.

    Args:
        per_minute_max: wrong guesses under one name.
    """

    def __init__(self, per_minute_max: int) -> None:
        self._wrong = RateLimit(per_minute_max, PERIOD_SECONDS)
        self._right: OrderedDict[tuple[str, str], None] = OrderedDict()

    @property
    def may_be_stopped(self) -> bool:
        """Whether there may be a name under which nobody may guess now; False is certain, and cheap to know."""
        return self._wrong.may_be_full

    def must_be_allowed(self, name: str, other: str) -> None:
        """Whether there may be one more guess under `name`; `other` makes the pair that may have been right before.

        Raises: TooOften.
        """
        if (name, other) not in self._right:
            self._wrong.must_have_room(name)

    def was_wrong(self, name: str) -> None:
        """Count a wrong guess. Raises: TooOften, if it is one too many."""
        self._wrong.count(name)

    def was_right(self, name: str, other: str) -> None:
        """Remember the pair."""
        pair = (name, other)
        if pair not in self._right:
            self._right[pair] = None
            if len(self._right) > KNOWN_MAX:
                self._right.popitem(last=False)
