"""Names of who acts: whatever their length, two that differ stay two."""

from hypothesis import given
from hypothesis import strategies as st

from service_kit.actors import ACTOR_LENGTH_MAX, actor_of

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)


@given(NAMES, NAMES, NAMES)
def test_actors_that_differ_stay_different(key: str, one: str, other: str) -> None:
    assert len(actor_of(key, one)) <= ACTOR_LENGTH_MAX
    assert (actor_of(key, one) == actor_of(key, other)) == (one == other)
    assert actor_of(key, one).startswith(key[:32])


def test_actors_that_begin_alike() -> None:
    begin = "u" * 63
    actors = {actor_of("shop", f"{begin}{last}") for last in "ab"}
    assert len(actors) == 2
    # Nor can a name be made up that looks like another one's.
    assert all(actor_of(actor) not in actors for actor in actors)
    assert actor_of("shop", "7") == "shop/7"
    assert actor_of("shop") == "shop"
