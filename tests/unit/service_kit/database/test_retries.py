"""How long a transaction is tried, without a server: the clock runs from the beginning of the first try."""

import asyncio
import time
from collections.abc import AsyncIterator
from unittest.mock import AsyncMock

import aiomysql
import pymysql
import pytest
import pytest_asyncio

from service_kit.database.database import (
    SERVER_LOST,
    Database,
    DatabaseAway,
    DatabaseSettings,
    LockRetriesSpent,
    error_number,
)
from tests.kits.virtual_time import in_virtual_time

BOUNDS = DatabaseSettings(
    tries=50, retry_for_seconds=0.1, transaction_timeout_seconds=0.15, retry_wait_max_seconds=0.01
)


@pytest_asyncio.fixture
async def database() -> AsyncIterator[Database]:
    made = Database("mysql://nobody@127.0.0.1:1/nothing", BOUNDS)
    yield made
    await made.close()


async def test_a_frozen_server_is_waited_for_once(database: Database) -> None:
    tries = []

    async def freeze() -> None:
        tries.append(1)
        await asyncio.sleep(60)

    with pytest.raises(DatabaseAway):
        await database.retry(freeze)
    assert len(tries) == 1


def test_quick_failures_are_tried_again_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []

    async def meet_a_deadlock() -> None:
        starts.append(time.monotonic())
        await asyncio.sleep(0.03)
        raise pymysql.err.OperationalError(1213, "Deadlock found")

    async def run() -> None:
        monkeypatch.setattr(time, "monotonic", asyncio.get_running_loop().time)
        database = Database("mysql://nobody@127.0.0.1:1/nothing", BOUNDS)
        with pytest.raises(LockRetriesSpent):
            await database.retry(meet_a_deadlock)
        await database.close()

    in_virtual_time(run())
    assert 3 <= len(starts) <= 4
    assert starts[-1] < BOUNDS.retry_for_seconds


async def test_a_server_that_dies_while_it_is_connected_to_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def notice_too_late(_connection: aiomysql.Connection) -> None:
        raise RuntimeError("Transport does not expose socket instance")

    monkeypatch.setattr(aiomysql.Connection, "_set_keep_alive", notice_too_late)
    listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    database = Database(f"mysql://nobody@127.0.0.1:{listener.sockets[0].getsockname()[1]}/nothing", BOUNDS)
    async with listener:
        with pytest.raises(DatabaseAway) as raised:
            await database.run_in_transaction(AsyncMock())
    assert raised.value.__cause__ is not None
    assert error_number(raised.value.__cause__) == SERVER_LOST
    await database.close()


async def test_a_try_that_works_ends_it(database: Database) -> None:
    failures = [pymysql.err.OperationalError(number, "not now") for number in (1205, 1213, 2013)]

    async def work() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert await database.retry(work) == "done"
