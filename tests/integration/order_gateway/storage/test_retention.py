"""What is only needed for a while is deleted, and nothing else."""

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import text

from order_gateway.lifecycle import NewItem, NewOrder
from order_gateway.settings import RetentionSettings
from order_gateway.storage.idempotency import Begun, IdempotencyStore, StoredResponse
from order_gateway.storage.retention import Retention
from service_kit.background import end, keep
from tests.kits.orders_kit import Shop
from tests.kits.waiting import until

pytestmark = pytest.mark.sql
SETTINGS = RetentionSettings(idempotency_keys_seconds=3600, batch=10, pause_seconds=0)
HASH = "0" * 64


async def scalars(at: Shop, statement: str) -> list[object]:
    async with at.database.engine.connect() as connection:
        return list((await connection.execute(text(statement))).scalars())


async def test_keys_are_kept_for_their_time_and_while_they_are_worked_on(at: Shop) -> None:
    answers = IdempotencyStore(at.database, lease_seconds=30)
    for number in range(25):
        begun = await answers.begin("shop", f"old-{number:02}", HASH)
        assert isinstance(begun, Begun)
        await answers.finish("shop", f"old-{number:02}", begun.claim, StoredResponse(201, None, "{}"))
    await answers.begin("shop", "at-work", HASH)
    await at.execute("UPDATE idempotency_keys SET created_at = NOW(6) - INTERVAL 2 HOUR")
    await at.execute("UPDATE idempotency_keys SET claimed_until = created_at WHERE idempotency_key LIKE 'old-%'")
    await answers.begin("shop", "fresh", HASH)
    retention = Retention(at.database, SETTINGS)
    assert await retention.sweep() == 25
    assert await scalars(at, "SELECT idempotency_key FROM idempotency_keys ORDER BY 1") == ["at-work", "fresh"]
    assert await retention.sweep() == 0


async def test_a_key_that_comes_again_after_its_time_is_another_one(at: Shop) -> None:
    answers = IdempotencyStore(at.database, lease_seconds=0)
    first = await answers.begin("shop", "k", HASH)
    resumed = await answers.begin("shop", "k", HASH)
    await at.execute("UPDATE idempotency_keys SET created_at = NOW(6) - INTERVAL 2 HOUR")
    await Retention(at.database, SETTINGS).sweep()
    again = await answers.begin("shop", "k", "1" * 64)
    assert isinstance(first, Begun)
    assert isinstance(resumed, Begun)
    assert isinstance(again, Begun)
    assert (resumed.since, resumed.resumed) == (first.since, True)
    assert (again.since > first.since, again.resumed) == (True, False)


async def test_steps_that_are_done_leave_nothing_and_the_audit_does_not_miss_them(at: Shop) -> None:
    for _ in range(3):
        await at.returned()
    new = NewOrder("u", "Street 1", "card", (NewItem(1, 1, 1, Decimal("1.00")),), "c-1", "test")
    waiting = await at.store.create(new, 3600)
    assert await scalars(at, "SELECT order_id FROM intents") == [waiting.id]
    report = await at.audit.run()
    assert (report.checked, report.unfinished, report.findings) == (4, 1, [])


async def test_several_processes_delete_each_row_once(at: Shop) -> None:
    answers = IdempotencyStore(at.database, lease_seconds=0)
    await asyncio.gather(*(answers.begin("shop", f"k-{number}", HASH) for number in range(60)))
    await at.execute("UPDATE idempotency_keys SET created_at = NOW(6) - INTERVAL 2 HOUR")
    retention = Retention(at.database, SETTINGS)
    assert sum(await asyncio.gather(*(retention.sweep() for _ in range(4)))) == 60


async def test_it_sweeps_again_and_again(at: Shop) -> None:
    answers = IdempotencyStore(at.database, lease_seconds=0)
    often = SETTINGS.model_copy(update={"every_seconds": 0.01})
    kept = keep("retention", Retention(at.database, often).run)

    async def is_gone() -> bool:
        return await scalars(at, "SELECT 1 FROM idempotency_keys") == []

    for number in range(2):
        await answers.begin("shop", f"k-{number}", HASH)
        await at.execute("UPDATE idempotency_keys SET created_at = NOW(6) - INTERVAL 2 HOUR")
        await until(is_gone)
    await end(kept)
    assert kept.failures == 0


async def test_old_keys_are_found_by_their_index(at: Shop) -> None:
    async with at.database.engine.connect() as connection:
        statement = (
            "SELECT owner, idempotency_key FROM idempotency_keys WHERE created_at < NOW(6) - INTERVAL 1 DAY "
            "AND claimed_until < NOW(6) ORDER BY created_at LIMIT 10"
        )
        rows = (await connection.execute(text(f"EXPLAIN FORMAT=TRADITIONAL {statement}"))).mappings().all()
    assert [row["key"] for row in rows] == ["idempotency_keys_age"]
