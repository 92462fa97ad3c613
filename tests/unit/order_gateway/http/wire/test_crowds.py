"""Who makes room where everything is taken."""

from hypothesis import given
from hypothesis import strategies as st

from order_gateway.http.wire.crowds import Crowd, Holders, Names


def crowd_of(size_max: int, *names: Names) -> Crowd[int]:
    """Members 0, 1, 2, ..., of whom these names are known."""
    crowd: Crowd[int] = Crowd(size_max, (0.8, 0.1))
    for member, known in enumerate(names):
        crowd.enter(member)
        if known:
            crowd.know(member, (), known)
    return crowd


def goes(crowd: Crowd[int], *busy: int, ours: tuple[int, ...] = ()) -> int | None:
    return crowd.first_to_go(lambda member: member not in busy, lambda member: member in ours)


def test_the_oldest_unknown_one_goes_first_whatever_it_does() -> None:
    assert goes(crowd_of(4, ("shop", None), (), (), ("shop", None)), 1) == 1


def test_then_the_oldest_idle_one_of_whoever_has_most() -> None:
    crowd = crowd_of(6, ("shop", "8"), ("shop", "7"), ("shop", "7"), ("batch", None))
    assert goes(crowd) == 1
    assert goes(crowd, 1) == 2
    assert goes(crowd, 1, 2) == 0
    assert goes(crowd, 0, 1, 2) == 3


def test_a_key_may_have_more_than_a_person() -> None:
    assert goes(crowd_of(10, ("shop", "7"), *[("batch", None)] * 8)) in (0, 1)
    assert goes(crowd_of(10, ("shop", "7"), *[("batch", None)] * 7)) == 0
    assert goes(crowd_of(10, ("shop", "7"), *[("batch", None)] * 9)) == 1


def test_where_none_is_idle_only_who_has_more_than_a_share_loses_one() -> None:
    people = [(f"shop-{person % 2}", str(person)) for person in range(10)]
    assert goes(crowd_of(10, *people), *range(10)) is None
    crowd = crowd_of(10, *people[:8], ("shop-0", "x"), ("shop-0", "x"))
    assert goes(crowd, *range(10)) == 8
    assert goes(crowd, *range(10), ours=(8,)) is None


def test_whoever_was_said_to_have_it_last_has_it() -> None:
    crowd = crowd_of(4, ("shop", "7"), ("shop", "8"))
    crowd.know(0, ("shop", "7"), ("shop", "8"))
    assert goes(crowd) == 1
    crowd.leave(1, ("shop", "8"))
    crowd.leave(0, ("shop", "8"))
    assert (goes(crowd), crowd.size) == (None, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3))))
def test_who_holds_most_is_always_known(changes: list[tuple[bool, int, int]]) -> None:
    holders: Holders[int] = Holders()
    model: dict[int, list[int]] = {}
    for is_more, name, member in changes:
        held = model.setdefault(name, [])
        if is_more and member not in held:
            holders.add(str(name), member)
            held.append(member)
        elif not is_more and member in held:
            holders.remove(str(name), member)
            held.remove(member)
        shown = [(count, list(members)) for count, members in holders.by_most()]
        assert [count for count, _members in shown] == sorted(
            (len(held) for held in model.values() if held), reverse=True
        )
        assert sorted(members for _count, members in shown) == sorted(held for held in model.values() if held)
