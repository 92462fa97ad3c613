"""Ids, times, request hashes and stored answers."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse.stock.commands import (
    Answer,
    CallerCommand,
    Commit,
    Extend,
    Line,
    Reserve,
    decode_answer,
    encode_answer,
    request_hash,
)
from warehouse.stock.records import (
    HeldLine,
    Level,
    Movement,
    MovementType,
    Reservation,
    State,
    rfc3339,
    uuid7,
)

instants = st.integers(0, 4_000_000_000_000_000)
texts = st.text(max_size=64)


@given(instants, st.integers(0, 2**20), st.integers(0, 2**48 - 1))
def test_ids_are_uuids_of_version_7(instant: int, number: int, entropy: int) -> None:
    parsed = uuid.UUID(uuid7(instant, number, entropy))
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert str(parsed) == uuid7(instant, number, entropy)


@given(instants, st.integers(0, 2**16), instants, st.integers(0, 2**16), st.integers(0, 2**48 - 1))
def test_ids_sort_by_time_then_number(first: int, one: int, second: int, other: int, entropy: int) -> None:
    # past 2**14 ids the number carries into the microseconds
    keys = sorted([(first + (one >> 14), one & 0x3FFF), (second + (other >> 14), other & 0x3FFF)])
    ids = sorted([uuid7(first, one, entropy), uuid7(second, other, entropy)])
    assert ids == [uuid7(instant, number, entropy) for instant, number in keys]


def test_times_are_written_as_rfc_3339() -> None:
    assert rfc3339(1_795_224_024_000_001) == "2026-11-21T01:20:24.000001Z"


@given(texts, texts, st.booleans())
def test_a_request_hash_tells_content_apart_but_not_callers(request_id: str, order_id: str, partial: bool) -> None:
    asked = Reserve(request_id, order_id, (Line(1, 1, 1),), 5, partial, actor="me", correlation_id="here")
    again = Reserve(request_id, order_id, (Line(1, 1, 1),), 5, partial, actor="you", correlation_id="there")
    assert request_hash(asked) == request_hash(again)
    assert request_hash(asked) != request_hash(Reserve(request_id, order_id, (Line(1, 1, 2),), 5, partial))
    assert request_hash(asked) != request_hash(Commit(request_id, order_id=order_id, lines=(Line(1, 1, 1),)))


@pytest.mark.parametrize(
    ("command", "hash_of_it"),
    [
        (Reserve("r", "o", (Line(1, 1, 2),), 5, actor="a"), "f02ad13028d6eb84b056ab4f8f70a8c0"),
        (Commit("r", order_id="o", lines=(Line(1, 1, 2),)), "807d39d01c805943c0a3562f1f18657d"),
        (Extend("r", "x", 7), "0b005206fa4a06fde6ea6f097462263f"),
    ],
)
def test_request_hashes_stay_as_they_are_in_the_tables(command: CallerCommand, hash_of_it: str) -> None:
    """A repeat may reach a server of a later version than the first call did."""
    assert request_hash(command) == hash_of_it


@given(texts, instants, st.none() | instants, st.sampled_from(State))
def test_a_stored_answer_comes_back_as_it_was(text: str, instant: int, closed: int | None, state: State) -> None:
    lines = (HeldLine(1, 2, 3, 4, 1),)
    reservation = Reservation("id", text, 1, state, instant, instant, closed, text, text, lines)
    level = Level(1, 2, 3, 4, 5, instant, instant)
    movement = Movement(1, 2, 3, MovementType.DAMAGED, 4, 5, 6, 7, 8, text, text, text, text, "event", instant)
    for answer in (Answer((reservation,)), Answer(level=level, movement=movement), Answer(fenced_at=instant)):
        assert decode_answer(encode_answer(answer)) == answer
