"""One caller, or a stranger, wants everything of the order gateway; the others must not notice."""

import asyncio
import hashlib
import json
import select
import socket
import time
from collections.abc import Mapping, Sequence

import aiohttp
import pytest

from tests.attacks.gateways import Start
from tests.attacks.http import GET_HEALTH, HEADER_HALF, KEY, LOGIN_HALF, PREFIX, as_person, half_order
from tests.attacks.sockets import (
    SECONDS_MAX,
    answer,
    connect,
    connections,
    head_of,
    seconds_until_ended,
    status_of,
)
from tests.kits.processes import DEVELOPMENT_API_KEY
from tests.kits.secrets_used import secret

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
SOON_SECONDS = 5
BATCH = secret(f"batch-{'x' * 30}")


async def test_bodies_that_never_end_take_only_what_is_open(start: Start) -> None:
    gateway = await start(
        requests_in_flight_max=8, open_requests_in_flight_max=4, address_share_max=1, body_seconds_max=2
    )
    with (
        connections(gateway.port, 20, LOGIN_HALF) as logins,
        connections(gateway.port, 20, half_order({})) as strangers,
    ):
        refused = [one for one in logins if await asyncio.to_thread(_is_refused_at_once, one)]
        assert len(refused) == 16
        assert {status_of(await asyncio.to_thread(head_of, one)) for one in strangers} == {401}
        assert [await gateway.orders() for _ in range(10)] == [200] * 10
        held = [one for one in logins if one not in refused]
        heads = await asyncio.gather(*(asyncio.to_thread(answer, one) for one in held))
        assert [status_of(head) for head in heads] == [408] * 4
    assert await gateway.limited("open_in_flight") == 16
    assert await gateway.limited("body_seconds") == 4
    # The slots are free again.
    with connections(gateway.port, 1, LOGIN_HALF + b"x" * 89) as (login,):
        assert status_of(await asyncio.to_thread(head_of, login)) == 400


def _is_refused_at_once(connection: socket.socket) -> bool:
    connection.settimeout(0.3)
    try:
        head = head_of(connection)
    except TimeoutError:
        return False
    finally:
        connection.settimeout(20)
    assert status_of(head) == 429
    assert b"Retry-After: 1" in head
    return True


async def test_what_needs_no_key_is_answered_so_often_and_no_more(start: Start) -> None:
    gateway = await start(open_requests_per_second_max=5, trusted_proxies='["127.0.0.0/8"]')

    async def asked(address: str, count: int) -> list[tuple[int, str | None]]:
        paths = ("/ready", "/health", "/metrics", f"{PREFIX}/openapi.json")
        headers = {"X-Forwarded-For": address}
        return await asyncio.gather(*(gateway.status(paths[number % 4], headers) for number in range(count)))

    answers = await asked("203.0.113.5", 100)
    assert set(answers) == {(200, None), (429, "1")}
    refused = answers.count((429, "1"))
    assert refused > 50
    assert await asked("203.0.113.6", 2) == [(200, None)] * 2
    assert [await gateway.orders({**KEY, "X-Forwarded-For": "203.0.113.5"}) for _ in range(10)] == [200] * 10
    assert await gateway.limited("rate_of_open") == refused


async def test_one_address_leaves_open_slots_for_others(start: Start) -> None:
    gateway = await start(open_requests_in_flight_max=10, trusted_proxies='["127.0.0.0/8"]')
    with connections(gateway.port, 8, LOGIN_HALF) as logins:
        await gateway.until(lambda taken: taken == 2, 'order_gateway_slots_taken{kind="open_in_flight"}')
        assert sum([await asyncio.to_thread(_is_refused_at_once, one) for one in logins]) == 6
        assert (await gateway.status("/api/v1/openapi.json", {"X-Forwarded-For": "192.0.2.7"}))[0] == 200
        assert (await gateway.status("/api/v1/openapi.json", {}))[0] == 429
    assert await gateway.limited("open_in_flight_of_address") == 7


@pytest.mark.parametrize(
    ("begin", "drip"), [(b"", b""), (HEADER_HALF, b""), (HEADER_HALF, b"a"), (GET_HEALTH + HEADER_HALF, b"a")]
)
async def test_headers_that_never_end_do_end(start: Start, begin: bytes, drip: bytes) -> None:
    gateway = await start(header_seconds_max=1)
    with connections(gateway.port, 100, begin) as opened:
        assert 0.5 < await asyncio.to_thread(seconds_until_ended, opened, drip) < SOON_SECONDS
        assert await gateway.limited("header_seconds") >= 100
        assert await gateway.orders() == 200


async def test_what_is_idle_does_not_stay(start: Start) -> None:
    gateway = await start(connection_idle_seconds_max=1)
    # The second one hides the begin of a header behind a whole request.
    for first in (GET_HEALTH, GET_HEALTH + b"GE"):
        with connections(gateway.port, 20, first) as opened:
            assert 0.5 < await asyncio.to_thread(seconds_until_ended, opened) < SOON_SECONDS


async def test_who_takes_nothing_of_an_answer_is_hung_up_on(start: Start) -> None:
    gateway = await start(send_seconds_max=1)
    with connect(gateway.port, receive_buffer=4096) as slow:
        slow.sendall(b"GET /swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
        await gateway.until(lambda count: count == 1, 'order_gateway_limited_total{bound="send_seconds"}')
        assert await gateway.until(lambda count: count <= 1, "order_gateway_http_connections") < SOON_SECONDS


async def test_waits_and_streams_of_one_customer_are_their_own(
    start: Start,
) -> None:
    gateway = await start(
        is_queued=True,
        event_streams_max=40,
        order_waits_max=40,
        requests_in_flight_max=4000,
        requests_per_second_per_person_max=1000,
        event_heartbeat_seconds=60,
    )
    first, second = await gateway.create_order("7"), await gateway.create_order("8")

    async def hold(path: str, count: int) -> None:
        """Requests of customer 7 that wait until they are dropped; those past the share are refused."""
        root = f"http://127.0.0.1:{gateway.port}{PREFIX}/orders"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=as_person("7")) as greedy:

            async def one() -> int:
                async with greedy.get(f"{root}/{first}{path}") as response:
                    if response.status == 200:
                        await response.read()
                    assert response.headers["Retry-After"]
                    return response.status

            tasks = [asyncio.create_task(one()) for _ in range(count)]
            refused: set[asyncio.Task[int]] = set()
            async with asyncio.timeout(20):
                while len(refused) < count - 4:
                    done, _ = await asyncio.wait(set(tasks) - refused, return_when=asyncio.FIRST_COMPLETED)
                    refused |= done
            assert {task.result() for task in refused} == {429}
            # Customer 8, and the shop itself, go on meanwhile.
            assert await gateway.orders(as_person("8")) == 200
            assert await gateway.orders() == 200
            async with asyncio.timeout(SOON_SECONDS):
                assert (await gateway.status(f"{PREFIX}/orders/{second}?wait=1", as_person("8")))[0] == 200
                async with gateway.session.get(f"{root}/{second}/events", headers=as_person("8")) as stream:
                    assert (await stream.content.readline()).startswith(b"id: ")
            for task in set(tasks) - refused:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    for path, kind in (("?wait=30", "order_waits"), ("/events", "event_streams")):
        await hold(path, 200)
        assert await gateway.limited(f"{kind}_of_person") == 196
        # All have hung up: nothing is held for them any more, though the wait was one of half a minute.
        sample = f'order_gateway_slots_taken{{kind="{kind}"}}'
        assert await gateway.until(lambda taken: taken == 0, sample) < SOON_SECONDS


async def test_requests_waits_and_streams_of_one_key_are_its_own(start: Start) -> None:
    keys = {"development": DEVELOPMENT_API_KEY, "batch": BATCH}
    services = [{"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()} for name, key in keys.items()]
    gateway = await start(
        is_queued=True,
        api_keys=json.dumps(services),
        key_share_max=0.5,
        requests_in_flight_max=60,
        order_waits_max=20,
        event_streams_max=20,
        body_seconds_max=60,
        event_heartbeat_seconds=60,
    )
    path, batch = f"{PREFIX}/orders/{await gateway.create_order('7')}", {"X-API-Key": BATCH}
    for kind, begin, count, most in (
        ("in_flight", half_order(batch), 40, 30),
        ("order_waits", whole_get(f"{path}?wait=30", batch), 25, 10),
        ("event_streams", whole_get(f"{path}/events", batch), 25, 10),
    ):
        with connections(gateway.port, count, begin) as opened:
            await asyncio.to_thread(until_refused, opened, count - most)
            # The other key goes on meanwhile, also with what the first one wants too much of.
            assert await gateway.orders() == 200
            assert (await gateway.status(f"{path}?wait=1"))[0] == 200
            async with gateway.session.get(f"http://127.0.0.1:{gateway.port}{path}/events", headers=KEY) as stream:
                assert (await stream.content.readline()).startswith(b"id: ")
            assert await gateway.limited(f"{kind}_of_key") == count - most
            assert await gateway.metric(f'order_gateway_slots_taken{{kind="{kind}"}}') in (most, most + 1)
        await gateway.until(lambda taken: taken == 0, f'order_gateway_slots_taken{{kind="{kind}"}}')


def whole_get(path: str, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()


def until_refused(opened: Sequence[socket.socket], count: int) -> None:
    """Wait until so many are refused, and no longer than anything here may take."""
    refused, waiting, until = 0, list(opened), time.monotonic() + SECONDS_MAX
    while refused < count:
        answered, _, _ = select.select(waiting, [], [], max(until - time.monotonic(), 0))
        assert answered, f"{refused} of {len(opened)} are refused"
        for one in answered:
            waiting.remove(one)
            refused += status_of(head_of(one)) == 429


async def test_one_customer_who_asks_too_fast_slows_down_nobody_else(
    start: Start,
) -> None:
    gateway = await start(requests_per_second_per_person_max=5, requests_per_second_max=100)
    answers = await asyncio.gather(*(gateway.status(f"{PREFIX}/orders", as_person("7")) for _ in range(150)))
    assert {answer for answer in answers if answer[0] != 200} == {(429, "1")}
    assert await gateway.limited("rate_of_person") >= 100
    others = await asyncio.gather(*(gateway.orders(as_person(str(number))) for number in range(20, 60)))
    assert [*others, await gateway.orders()] == [200] * 41
    assert await gateway.limited("rate_of_key") == 0


async def test_one_person_leaves_slots_to_others(start: Start) -> None:
    gateway = await start(requests_in_flight_max=20, body_seconds_max=20)
    with connections(gateway.port, 20, half_order(as_person("7"))) as opened:
        assert sum([await asyncio.to_thread(_is_refused_at_once, one) for one in opened]) == 18
        assert await gateway.orders(as_person("8")) == 200
        assert await gateway.orders() == 200
    assert await gateway.limited("in_flight_of_person") == 18


async def test_readiness_is_looked_for_once_for_all_who_ask(start: Start) -> None:
    gateway = await start(ready_seconds=2)

    async def ready() -> str:
        async with gateway.session.get(f"http://127.0.0.1:{gateway.port}/ready") as response:
            return await response.text()

    # Each look has its own latencies.
    assert len(set(await asyncio.gather(*(ready() for _ in range(200))))) == 1
    await asyncio.sleep(2.1)
    first = await ready()
    assert first == await ready()
