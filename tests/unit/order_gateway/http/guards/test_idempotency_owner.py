"""Whose an Idempotency-Key is: no two callers, however they are named, share one."""

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from order_gateway.access import ApiKey
from order_gateway.http.guards.auth import Caller
from order_gateway.http.guards.idempotency import OWNER_LENGTH_MAX, owner_of
from order_gateway.http.guards.tokens import Person

Role = Literal["customer", "admin"]
HASH = "0" * 64
_NAME_PIECES = st.sampled_from(["s", "(admin)", '["s",', "x" * 30])
_SUBJECT_PIECES = _NAME_PIECES | st.sampled_from(["7", " (admin)", " (admin, service)", "/", ")", "\N{SNOWMAN}"])
"""Few, so that many callers are almost the same."""
KEY_NAMES = st.lists(_NAME_PIECES, min_size=1, max_size=3).map(lambda pieces: "".join(pieces)[:64])
SUBJECTS = (
    st.lists(_SUBJECT_PIECES, min_size=1, max_size=3)
    .map(lambda pieces: "".join(pieces)[:64].strip())
    .filter(lambda text: text != "")
)
CALLERS = st.builds(
    lambda name, roles, person: Caller(ApiKey(name=name, sha256=HASH, roles=roles), person),
    KEY_NAMES,
    st.sampled_from([frozenset({"service"}), frozenset({"admin"}), frozenset({"service", "admin"})]),
    st.none() | st.builds(Person, SUBJECTS, st.sampled_from(["customer", "admin"])),
)


def caller(
    name: str, user_id: str | None = None, role: Role = "customer", *roles: Literal["service", "admin"]
) -> Caller:
    key = ApiKey(name=name, sha256=HASH, roles=frozenset(roles or ("service",)))
    return Caller(key, None if user_id is None else Person(user_id, role))


def what_counts(one: Caller) -> object:
    """With a person, the key's own roles give nothing."""
    return one.key.name, one.person, one.key.roles if one.person is None else None


@given(st.lists(CALLERS, min_size=30, max_size=60))
def test_no_two_callers_share_one(callers: list[Caller]) -> None:
    owners = {what_counts(one): owner_of(one) for one in callers}
    assert len(set(owners.values())) == len(owners)
    assert all(0 < len(owner) <= OWNER_LENGTH_MAX for owner in owners.values())


@given(KEY_NAMES, SUBJECTS, st.sampled_from(["admin", "service", "admin, service"]))
def test_a_subject_that_reads_like_a_role_is_none(name: str, user_id: str, role: str) -> None:
    looks_like = caller(name, f"{user_id[:40]} ({role})")
    owners = {owner_of(one) for one in (looks_like, caller(name, user_id[:40], "admin"), caller(name, user_id[:40]))}
    assert len(owners) == 3


def test_what_was_stored_before_is_found_where_it_was_never_anybody_elses() -> None:
    assert owner_of(caller("shop")) == "shop"
    assert owner_of(caller("shop", "7")) == "shop/7"
    assert owner_of(caller("shop", None, "customer", "admin", "service")) == "shop (admin, service)"
    # Both were `shop/7 (admin)`: what is stored under that is nobody's any more.
    assert "shop/7 (admin)" not in {owner_of(caller("shop", "7", "admin")), owner_of(caller("shop", "7 (admin)"))}
