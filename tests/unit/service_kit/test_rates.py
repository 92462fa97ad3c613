"""How often something may happen under a name: as a leaky bucket allows it, and as it is explained."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit import rates
from service_kit.rates import RateLimit, TooOften


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1e6

    def monotonic(self) -> float:
        return self.now


def is_taken(limit: RateLimit, name: str) -> bool:
    try:
        limit.count(name)
    except TooOften:
        return False
    return True


def leaky_bucket(amount: Fraction, seconds: int, waits: Sequence[Fraction]) -> list[bool]:
    """What a bucket that holds `amount` and leaks that much in `seconds` takes, in exact numbers."""
    level, taken, size = Fraction(0), [], max(amount, Fraction(1))
    for wait in waits:
        level = max(Fraction(0), level - wait * amount / seconds)
        taken.append(level + 1 <= size)
        level += taken[-1]
    return taken


@given(
    amount=st.one_of(st.integers(1, 50).map(Fraction), st.sampled_from([Fraction(1, 2), Fraction(1, 8)])),
    seconds=st.sampled_from([1, 60]),
    eighths=st.lists(st.integers(0, 200), max_size=100),
)
def test_it_takes_what_a_leaky_bucket_takes(amount: Fraction, seconds: int, eighths: list[int]) -> None:
    # A wait that is just one's time may go either way, by rounding; a little more does not.
    waits = [Fraction(number, 8) * seconds / 64 + Fraction(seconds, 10**6) for number in eighths]
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "time", clock)
        limit = RateLimit(float(amount), seconds)
        taken = []
        for wait in waits:
            clock.now += float(wait)
            may_be_full = limit.may_be_full
            taken.append(is_taken(limit, "a"))
            # What is cheap to ask is never wrong about there being room.
            assert taken[-1] or may_be_full
    assert taken == leaky_bucket(amount, seconds, waits)


def test_each_name_has_its_own_and_those_not_asked_for_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "NAMES_MAX", 3)
    limit = RateLimit(1, 3600)
    assert [is_taken(limit, name) for name in ("a", "b", "c", "a", "d", "b")] == [True, True, True, False, True, True]
    # "b" was the oldest when "d" came, for "a" had been asked for since, in vain.
    assert [is_taken(limit, name) for name in ("d", "a")] == [False, False]


def test_a_look_counts_nothing() -> None:
    limit = RateLimit(1, 3600)
    for _ in range(3):
        limit.must_have_room("a")
    limit.count("a")
    with pytest.raises(TooOften, match="more than 1 requests in 3600 s"):
        limit.must_have_room("a")
