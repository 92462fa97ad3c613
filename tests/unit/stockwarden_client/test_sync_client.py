"""The client whose calls block: it has the calls of the awaited one, and insists, fails and replaces like that."""

import asyncio
import inspect
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

import stockwarden_client as client
from stockwarden_client import ClientSettings, SyncWarehouseClient, WarehouseClient, new_request_id
from tests.kits.processes import ROOT
from tests.kits.scripted_warehouse import (
    LINES,
    QUICK,
    SETTINGS,
    Scripted,
    behind_a_proxy,
    fail,
    lose_the_answer,
    serving,
)
from tools.sync_client import CLIENT, MODULES, made

RECOVERED_WITHIN_SECONDS = 10


def to(port: int) -> SyncWarehouseClient:
    return SyncWarehouseClient(SETTINGS.model_copy(update={"target": f"127.0.0.1:{port}"}))


def reserve(warehouse: SyncWarehouseClient) -> str:
    return warehouse.reserve("17", LINES, request_id=new_request_id()).reservation_id


@pytest.mark.parametrize("name", MODULES)
def test_it_is_made_from_the_awaited_one(name: str) -> None:
    assert (CLIENT / "sync" / f"{name}.py").read_text() == made(name), "run `make format`, and commit the outcome"


def test_both_have_the_same_calls_with_the_same_words() -> None:
    names = {name for name in dir(WarehouseClient) if not name.startswith("_")}
    assert names == {name for name in dir(SyncWarehouseClient) if not name.startswith("_")}
    assert len(names) > 20
    for name in names - {"connections_replaced"}:
        awaited, blocking = getattr(WarehouseClient, name), getattr(SyncWarehouseClient, name)
        assert inspect.iscoroutinefunction(awaited)
        assert not inspect.iscoroutinefunction(blocking)
        assert inspect.signature(awaited) == inspect.signature(blocking)
        assert inspect.getdoc(awaited) == inspect.getdoc(blocking)


async def test_repeats_with_the_same_request_id() -> None:
    scripted = Scripted(fail(grpc.StatusCode.UNAVAILABLE), lose_the_answer, fail(grpc.StatusCode.ABORTED))
    async with serving(scripted) as port:
        with to(port) as warehouse:
            assert await asyncio.to_thread(reserve, warehouse) == "r-1"
    assert len(scripted.request_ids) == 4
    assert len(set(scripted.request_ids)) == 1


async def test_bugs_are_not_repeated_and_are_the_same_exceptions() -> None:
    scripted = Scripted(fail(grpc.StatusCode.INVALID_ARGUMENT), fail(grpc.StatusCode.INTERNAL))
    async with serving(scripted) as port:
        with to(port) as warehouse:
            for kind in (client.InvalidRequest, client.WarehouseBroken):
                with pytest.raises(kind):
                    await asyncio.to_thread(reserve, warehouse)
    assert len(scripted.request_ids) == 2


def test_where_nobody_listens_it_says_so_soon() -> None:
    settings = SETTINGS.model_copy(update={"target": "no.such.invalid:50051", "absent_seconds": 0.2})
    with SyncWarehouseClient(settings) as warehouse:
        with pytest.raises(client.WarehouseUnavailable) as caught:
            reserve(warehouse)
        assert caught.value.is_absent
        assert not warehouse.is_serving()


async def test_one_client_serves_many_threads() -> None:
    scripted = Scripted(*[fail(grpc.StatusCode.UNAVAILABLE)] * 5)
    async with serving(scripted) as port:
        with to(port) as warehouse, ThreadPoolExecutor(16) as threads:
            loop = asyncio.get_running_loop()
            calls = [loop.run_in_executor(threads, reserve, warehouse) for _ in range(100)]
            assert await asyncio.gather(*calls) == ["r-1"] * 100
    assert len(scripted.request_ids) == 105


async def test_a_connection_that_swallows_is_replaced_however_many_threads_notice() -> None:
    async with behind_a_proxy() as proxy:
        settings = QUICK.model_copy(update={"target": proxy.target})
        with SyncWarehouseClient(settings) as warehouse, ThreadPoolExecutor(8) as threads:
            loop = asyncio.get_running_loop()

            async def at_once(work: Callable[[SyncWarehouseClient], object], times: int) -> list[object]:
                calls = [loop.run_in_executor(threads, work, warehouse) for _ in range(times)]
                return await asyncio.gather(*calls, return_exceptions=True)

            await at_once(reserve, 1)
            assert proxy.swallow() == 1
            assert all(isinstance(failed, client.DeadlineExceeded) for failed in await at_once(reserve, 8))
            deadline = time.monotonic() + RECOVERED_WITHIN_SECONDS
            while any(isinstance(failed, Exception) for failed in await at_once(reserve, 1)):
                assert time.monotonic() < deadline, "it stays dead"
            assert (warehouse.connections_replaced, proxy.accepted) == (1, 2)


async def test_health_is_asked_over_all_connections() -> None:
    async with behind_a_proxy() as proxy:
        settings: ClientSettings = QUICK.model_copy(update={"target": proxy.target, "connections": 3})
        with SyncWarehouseClient(settings) as warehouse:
            assert await asyncio.to_thread(warehouse.is_serving)
            assert proxy.accepted == 3


async def test_a_program_ends_though_a_connection_is_being_replaced(tmp_path: Path) -> None:
    """What runs beside the calls keeps no program from ending, also where nobody closed the client."""
    script = tmp_path / "shop.py"
    script.write_text(
        "import sys; from stockwarden_client import *\n"
        "warehouse = SyncWarehouseClient(ClientSettings(target=sys.argv[1], deadline_seconds=1,\n"
        "                                attempt_timeout_seconds=0.2, probe_timeout_seconds=30))\n"
        "try:\n    warehouse.reserve('17', [line(1, 1, 1)], request_id='r')\n"
        "except DeadlineExceeded:\n    print('late')\n"
    )
    async with serving(Scripted(*[lose_the_answer] * 100)) as port:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), f"127.0.0.1:{port}", env={"PYTHONPATH": str(ROOT)}, stdout=-1, stderr=-1
        )
        async with asyncio.timeout(20):
            out, errors = await process.communicate()
    assert (out.decode().strip(), process.returncode) == ("late", 0), errors.decode()
