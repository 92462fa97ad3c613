"""Instants between a service and its database, which keeps UTC without saying so, in microseconds.

Two types of instants are in use, and the names say which is meant: a `datetime` (aware here, naive in the database) and
microseconds since 1970 (an int), as in what travels as JSON.
"""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST = (datetime(9999, 12, 31, tzinfo=UTC) - EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Microseconds since 1970 as an aware datetime."""
    return EPOCH + timedelta(microseconds=microseconds)


def to_microseconds(instant: datetime) -> int:
    """An aware datetime as microseconds since 1970."""
    return (instant - EPOCH) // _MICROSECOND


def from_database(stored: datetime) -> datetime:
    """A DATETIME of the database as an aware datetime."""
    return stored.replace(tzinfo=UTC)


def to_database(instant: datetime) -> datetime:
    """An aware datetime as the database wants it."""
    return instant.astimezone(UTC).replace(tzinfo=None)


def microseconds_from_database(stored: datetime) -> int:
    """A DATETIME of the database as microseconds since 1970."""
    return (stored.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND


def microseconds_to_database(microseconds: int) -> datetime:
    """Microseconds since 1970 as the database wants them; the nearest it knows for an instant that no clock shows."""
    return (EPOCH + timedelta(microseconds=min(max(microseconds, 0), _LATEST))).replace(tzinfo=None)


def duration_microseconds(seconds: float) -> int:
    """A duration in seconds as whole microseconds."""
    return round(seconds * 1e6)
