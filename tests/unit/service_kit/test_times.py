"""Instants keep their microsecond on the way to the database and back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.times import (
    EPOCH,
    duration_microseconds,
    from_database,
    from_microseconds,
    microseconds_from_database,
    microseconds_to_database,
    to_database,
    to_microseconds,
)

BEGINNING = EPOCH.replace(tzinfo=None)
END = BEGINNING.replace(year=9999, month=12, day=31)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(BEGINNING.replace(year=1000, day=2), END - timedelta(days=1), timezones=zones)


@given(instants)
def test_both_types_of_instants_come_back_as_they_went(instant: datetime) -> None:
    assert from_microseconds(to_microseconds(instant)) == instant
    assert to_database(instant).tzinfo is None
    assert from_database(to_database(instant)) == instant
    assert microseconds_from_database(to_database(instant)) == to_microseconds(instant)


@pytest.mark.parametrize(
    ("microseconds", "stored"),
    [
        (0, BEGINNING),
        (1, BEGINNING.replace(microsecond=1)),
        (-1, BEGINNING),
        (2**63, END),
    ],
)
def test_an_instant_that_no_clock_shows_becomes_the_nearest_that_the_database_knows(
    microseconds: int, stored: datetime
) -> None:
    assert microseconds_to_database(microseconds) == stored


def test_1970_began_in_utc() -> None:
    assert to_microseconds(EPOCH) == 0
    assert datetime(1970, 1, 1, tzinfo=UTC) == EPOCH


def test_a_duration_is_rounded_to_whole_microseconds() -> None:
    assert duration_microseconds(0.0000015) == 2
    assert duration_microseconds(30) == 30_000_000
