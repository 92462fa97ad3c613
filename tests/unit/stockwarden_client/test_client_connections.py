"""Connections of the client that go silent: replaced where they are dead, kept where they are only slow."""

import asyncio
import time

import pytest

from stockwarden_client import DeadlineExceeded, WarehouseClient, WarehouseError, new_request_id
from tests.kits.scripted_warehouse import LINES, QUICK, behind_a_proxy
from tests.kits.tcp_proxy import TcpProxy

RECOVERED_WITHIN_SECONDS = 5


def connect(proxy: TcpProxy, **changes: object) -> WarehouseClient:
    return WarehouseClient(QUICK.model_copy(update={"target": proxy.target, **changes}))


async def until_answered(client: WarehouseClient, in_a_row: int) -> int:
    """Reserve until so many calls in a row are answered; how many were not."""
    failed = answered = 0
    deadline = time.monotonic() + RECOVERED_WITHIN_SECONDS
    while answered < in_a_row:
        assert time.monotonic() < deadline, f"{failed} calls have failed, and it goes on"
        try:
            await client.reserve("17", LINES, request_id=new_request_id())
            answered += 1
        except WarehouseError:
            failed += 1
            answered = 0
    return failed


async def test_a_connection_that_swallows_is_replaced() -> None:
    async with behind_a_proxy() as proxy, connect(proxy) as client:
        await client.reserve("17", LINES, request_id=new_request_id())
        assert proxy.swallow() == 1
        with pytest.raises(DeadlineExceeded):
            await client.reserve("17", LINES, request_id=new_request_id())
        assert await until_answered(client, 5) >= 1
        assert (client.connections_replaced, proxy.accepted) == (1, 2)


async def test_looking_for_health_is_enough_to_find_it_dead() -> None:
    async with behind_a_proxy() as proxy, connect(proxy) as client:
        assert await client.is_serving()
        proxy.swallow()
        assert not await client.is_serving(timeout_seconds=0.2)
        deadline = time.monotonic() + RECOVERED_WITHIN_SECONDS
        while not await client.is_serving(timeout_seconds=0.2):
            assert time.monotonic() < deadline, "it stays dead"
        await client.reserve("17", LINES, request_id=new_request_id())


async def test_each_of_several_connections_is_looked_after() -> None:
    async with behind_a_proxy() as proxy, connect(proxy, connections=3) as client:
        await asyncio.gather(*(client.reserve("17", LINES, request_id=new_request_id()) for _ in range(6)))
        assert proxy.accepted == 3
        assert proxy.swallow() == 3
        deadline = time.monotonic() + RECOVERED_WITHIN_SECONDS
        while client.connections_replaced < 3:
            assert time.monotonic() < deadline, "not all are looked after"
            await until_answered(client, 1)
            await asyncio.sleep(0.05)
        assert await until_answered(client, 9) == 0


async def test_while_one_is_doubtful_calls_take_the_others() -> None:
    async with behind_a_proxy() as proxy, connect(proxy, connections=2, probe_timeout_seconds=30) as client:
        await asyncio.gather(*(client.reserve("17", LINES, request_id=new_request_id()) for _ in range(4)))
        proxy.swallowed.add(min(proxy.passing))
        failed = 0
        for _ in range(10):
            try:
                await client.reserve("17", LINES, request_id=new_request_id())
            except DeadlineExceeded:
                failed += 1
        assert failed == 1
        assert client.connections_replaced == 0


async def test_a_slow_connection_is_kept() -> None:
    async with (
        behind_a_proxy(delay_seconds=0.3) as proxy,
        connect(proxy, probe_timeout_seconds=3, deadline_seconds=3, attempt_timeout_seconds=3) as client,
    ):
        await client.reserve("17", LINES, request_id=new_request_id())
        for _ in range(4):
            with pytest.raises(DeadlineExceeded):
                await client.reserve("17", LINES, deadline_seconds=0.2, request_id=new_request_id())
        assert (await client.reserve("17", LINES, request_id=new_request_id())).order_id == "17"
        assert (client.connections_replaced, proxy.accepted) == (0, 1)


async def test_what_is_under_way_on_a_replaced_connection_is_sent_again() -> None:
    """Not interrupted: an interrupted call looks to its caller as if its own task had been cancelled."""
    settings = {"attempt_timeout_seconds": 1.5, "deadline_seconds": 4}
    async with behind_a_proxy() as proxy, connect(proxy, **settings) as client:
        await client.reserve("17", LINES, request_id=new_request_id())
        proxy.swallow()
        waiting = [asyncio.create_task(client.reserve("17", LINES, request_id=new_request_id())) for _ in range(3)]
        with pytest.raises(DeadlineExceeded):
            await client.reserve("17", LINES, deadline_seconds=0.2, request_id=new_request_id())
        assert [hold.order_id for hold in await asyncio.gather(*waiting)] == ["17"] * 3
        assert client.connections_replaced == 1


async def test_one_dead_address_of_several_is_found() -> None:
    """Behind one channel two servers take turns: half of what is sent is swallowed, half of the signs of life come."""
    async with behind_a_proxy() as first, behind_a_proxy() as second:
        both = f"{first.target},{second.target}"
        async with connect(first, target=both) as client:
            deadline = time.monotonic() + RECOVERED_WITHIN_SECONDS
            while not (first.passing and second.passing):
                assert time.monotonic() < deadline, "only one of them is connected to"
                await client.reserve("17", LINES, request_id=new_request_id())
            first.swallow()
            assert await until_answered(client, 10) >= 1
            assert (client.connections_replaced, first.accepted) == (1, 2)
