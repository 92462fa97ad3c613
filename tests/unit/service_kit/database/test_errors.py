"""The table of error numbers: what is about data, and what is only "not now"."""

import pymysql
import pytest
import sqlalchemy

from service_kit.database.errors import (
    MEANINGS,
    ConnectFailed,
    DatabaseAway,
    Kind,
    LockRetriesSpent,
    RaceLost,
    fault_of,
    is_worth_retrying,
    kind_of,
)

READ_ONLY_TEXT = "The MariaDB server is running with the --read-only option so it cannot execute this statement"


def failed(number: int, text: str = "no") -> Exception:
    """As SQLAlchemy raises it."""
    original = pymysql.err.OperationalError(number, text)
    return sqlalchemy.exc.OperationalError("SELECT 1", {}, original)


@pytest.mark.parametrize("number", MEANINGS)
def test_no_number_of_the_table_is_about_data(number: int) -> None:
    for error in (failed(number, READ_ONLY_TEXT), pymysql.err.InternalError(number, READ_ONLY_TEXT)):
        assert is_worth_retrying(error)
        assert isinstance(fault_of(error, 8), LockRetriesSpent | DatabaseAway)


@pytest.mark.parametrize("number", [1062, 1064, 1142, 1146, 1264, 1366, 1406, 1644, 3819, 4025])
def test_data_stays_data(number: int) -> None:
    assert kind_of(failed(number)) is Kind.DATA
    assert fault_of(failed(number), 8) is None


def test_another_option_than_read_only_is_nothing_that_passes() -> None:
    assert kind_of(failed(1290, "running with the --secure-file-priv option")) is Kind.DATA
    assert kind_of(failed(1290, "running with the --super-read-only option")) is Kind.READ_ONLY


@pytest.mark.parametrize("number", [1045, 1226, 1040, 1044, 1049, 1251, 1698, 2003, 9999])
def test_whatever_goes_wrong_while_connecting_is_away(number: int) -> None:
    original = ConnectFailed(number, "no")
    for error in (original, sqlalchemy.exc.OperationalError(None, None, original)):
        assert kind_of(error) is Kind.AWAY
        assert isinstance(fault_of(error, 8), DatabaseAway)


def test_only_the_connections_own_failures_count_as_lost() -> None:
    assert kind_of(RuntimeError("a bug of ours")) is Kind.DATA
    assert kind_of(ValueError("a bug of ours")) is Kind.DATA
    assert kind_of(RaceLost()) is Kind.RACE
    assert kind_of(pymysql.err.InterfaceError("(0, 'Not connected')")) is Kind.AWAY
    assert kind_of(pymysql.err.InternalError("Packet sequence number wrong - got 1 expected 2")) is Kind.AWAY
    assert kind_of(sqlalchemy.exc.TimeoutError("QueuePool limit of size 8 overflow 0 reached")) is Kind.AWAY
    assert kind_of(ConnectionResetError()) is kind_of(TimeoutError()) is Kind.AWAY
