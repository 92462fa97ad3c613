"""The last packet of a transaction: its values arrive as they are, however long, and only within that transaction."""

from collections.abc import AsyncIterator

import pymysql
import pytest
import pytest_asyncio

from service_kit.database import atomic_packet
from service_kit.database.database import Database, DriverSession, error_number
from tests.conftest import MakeDatabase
from tests.kits.warehouse_kit import sql

pytestmark = pytest.mark.sql
TEXTS = ("plain", "it's", '{"a":"\\"b\\""}', "€ 😀 \n", "%s %(long)s @long ; COMMIT", "")
INSERT = "INSERT INTO texts (place, value) VALUES (%(place)s, %(short)s), (%(place)s + 1, %(long)s)"
COUNT = "SELECT COUNT(*), MAX(LENGTH(%(long)s)) FROM texts"


@pytest.fixture(scope="module")
def url(make_database: MakeDatabase) -> str:
    """A database with a table for texts."""
    made = make_database("warehouse")
    sql(made, "CREATE TABLE texts (place INT PRIMARY KEY, value LONGTEXT) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    return made


@pytest_asyncio.fixture
async def session(url: str) -> AsyncIterator[DriverSession]:
    """A session with that database, whose table is empty."""
    sql(url, "DELETE FROM texts")
    database = Database(url)
    made = database.session()
    yield made
    await made.close()
    await database.close()


async def test_values_arrive_as_they_are_however_long(url: str, session: DriverSession) -> None:
    expected = []
    for place, text in enumerate(TEXTS):
        long = (text or " ") * atomic_packet.LONG
        await session.execute(atomic_packet.BEGIN, {})
        values = {"place": 2 * place, "short": text, "long": long}
        [[(count, length)]] = await atomic_packet.finish(session, [INSERT, COUNT], values)
        assert (count, length) == (2 * place + 2, len(long.encode()))
        expected += [(2 * place, text), (2 * place + 1, long)]
    assert sql(url, "SELECT place, value FROM texts ORDER BY place") == expected


@pytest.mark.parametrize("length", [1, atomic_packet.LONG])
async def test_nothing_is_written_where_the_transaction_is_gone(
    url: str, session: DriverSession, length: int, database_flavour: str
) -> None:
    """As if another node had ended it: the session does not know. (MySQL ends none so; see `atomic_packet`.)"""
    if database_flavour != "mariadb":
        pytest.skip("there is no compound statement")
    await session.execute(f"{atomic_packet.BEGIN};INSERT INTO texts (place, value) VALUES (9, 'first')", {})
    await session.execute("ROLLBACK", {})
    with pytest.raises(pymysql.err.OperationalError) as raised:
        await atomic_packet.finish(session, [INSERT], {"place": 1, "short": "", "long": "x" * length})
    assert error_number(raised.value) == 1213
    await session.rollback()
    assert sql(url, "SELECT place FROM texts") == []


async def test_a_failing_statement_leaves_nothing(url: str, session: DriverSession) -> None:
    await session.execute(atomic_packet.BEGIN, {})
    values = {"place": 1, "short": "a", "long": "b" * atomic_packet.LONG}
    with pytest.raises(pymysql.err.IntegrityError):
        await atomic_packet.finish(session, [INSERT, INSERT], values)
    await session.rollback()
    assert sql(url, "SELECT place FROM texts") == []
