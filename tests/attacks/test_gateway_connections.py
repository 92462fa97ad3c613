"""One caller, or a stranger, wants all connections of the order gateway; the others must get in all the same."""

import asyncio
import hashlib
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import aiohttp
import pytest

from tests.attacks.gateways import Gateway, Start
from tests.attacks.http import KEY, PREFIX, as_person, half_order
from tests.attacks.sockets import connect, connections, head_of, is_ended, send, status_of
from tests.kits.secrets_used import secret

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
HERE, THERE, ELSEWHERE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
"""Addresses of this machine, from which one may come to 127.0.0.1."""
SHOP, BATCH = secret(f"shop-{'x' * 30}"), secret(f"batch-{'x' * 30}")
SERVICES = json.dumps(
    [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()}
        for name, key in (("shop", SHOP), ("batch", BATCH))
    ]
)


async def test_connections_without_end_push_out_each_other_only(
    start: Start,
) -> None:
    gateway = await start(connections_max=20, connections_per_address_max=12)
    assert await gateway.orders() == 200
    with connections(gateway.port, 60) as opened:
        bound = 'order_gateway_limited_total{bound="connections_per_address"}'
        await gateway.until(lambda count: count >= 48, bound)
        assert await asyncio.to_thread(lambda: sum(map(is_ended, opened))) >= 48
        # Both on a connection that was there before, and on a new one.
        assert await gateway.orders() == 200
        async with aiohttp.ClientSession() as fresh:
            assert await replace(gateway, session=fresh).orders() == 200
        assert await gateway.metric("order_gateway_http_connections") <= 12


async def test_a_proxy_may_have_as_many_connections_as_there_are(
    start: Start,
) -> None:
    gateway = await start(connections_max=20, connections_per_address_max=5, trusted_proxies='["127.0.0.0/8"]')
    with connections(gateway.port, 15) as opened:
        assert await gateway.orders() == 200
        assert sum(map(is_ended, opened)) == 0
        with connections(gateway.port, 15):
            assert await gateway.orders() == 200
        assert await gateway.limited("connections") > 0


@contextmanager
def known(
    gateway: Gateway, headers: Mapping[str, str], count: int, sources: Sequence[str] = (HERE,), then: bytes = b""
) -> Iterator[list[socket.socket]]:
    """Connections, each of which has had an answer to a request with `headers`; from each source in turn.

    Args:
        then: is sent right behind that request.
    """
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with ExitStack() as stack:
        opened = []
        for number in range(count):
            source = sources[number % len(sources)]
            opened.append(stack.enter_context(connect(gateway.port, source=source)))
            send(opened[-1], f"GET {PREFIX}/orders?user_id=1 HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + then)
            assert status_of(head_of(opened[-1])) in (200, 403)
        yield opened


def ended(opened: Sequence[socket.socket]) -> int:
    return sum(map(is_ended, opened))


@pytest.mark.parametrize(
    ("bounds", "sources"),
    [
        ({"connections_max": 100, "connections_per_address_max": 12}, [HERE]),
        ({"connections_max": 12, "connections_per_address_max": 10}, [THERE, ELSEWHERE]),
    ],
    ids=["at their address", "from several addresses"],
)
async def test_one_customer_with_all_connections_leaves_them_to_the_others(
    start: Start, bounds: Mapping[str, int], sources: Sequence[str]
) -> None:
    gateway = await start(**bounds)
    with (
        known(gateway, as_person("8"), 2) as before,
        known(gateway, KEY, 1) as service,
        known(gateway, as_person("7"), 40, sources) as greedy,
    ):
        assert ended(greedy) == 40 - 9
        assert ended([*before, *service]) == 0
        for headers in (as_person("8"), as_person("9"), KEY):
            with known(gateway, headers, 2):
                assert ended([*before, *service]) == 0
        assert ended(greedy) == 40 - 9 + 2
        assert not is_ended(greedy[-1])


async def test_one_service_with_all_connections_leaves_them_to_the_others(start: Start) -> None:
    gateway = await start(api_keys=SERVICES, connections_max=24, connections_per_address_max=24)
    shop, batch = {"X-API-Key": SHOP}, {"X-API-Key": BATCH}
    with (
        known(gateway, {**as_person("8"), **shop}, 1) as customer,
        known(gateway, shop, 1) as before,
        known(gateway, batch, 60) as greedy,
        known(gateway, shop, 2) as more,
        known(gateway, {**as_person("9"), **shop}, 1),
    ):
        assert ended([*customer, *before, *more]) == 0
        assert ended(greedy) == 60 - 19


async def test_a_connection_is_whose_it_was_last(start: Start) -> None:
    """Who shows somebody else's key first, or another person's token, does not hide behind that."""
    gateway = await start(connections_max=12, connections_per_address_max=12)
    with known(gateway, as_person("8"), 2) as before, known(gateway, KEY, 10) as greedy:
        for one in greedy:
            lines = "".join(f"{name}: {value}\r\n" for name, value in as_person("7").items())
            send(one, f"GET {PREFIX}/orders HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
            assert status_of(head_of(one)) == 200
        with known(gateway, KEY, 4) as service, known(gateway, as_person("9"), 2):
            assert ended(greedy) == 6
            assert ended([*before, *service]) == 0


async def test_an_idle_connection_goes_before_one_that_works(start: Start) -> None:
    gateway = await start(connections_max=12, connections_per_address_max=12, body_seconds_max=60)
    seven, eight = as_person("7"), as_person("8")
    with (
        known(gateway, eight, 1, then=half_order(eight)) as other,
        known(gateway, seven, 3, then=half_order(seven)) as working,
        known(gateway, seven, 8) as idle,
        ExitStack() as stack,
    ):
        come = [stack.enter_context(known(gateway, as_person(str(number)), 1))[0] for number in range(20, 30)]
        assert (ended(working), ended(other), ended(idle), ended(come)) == (0, 0, 8, 2)
        # When none is idle any more, who has more than a share may lose what is under way, and nobody else.
        with known(gateway, seven, 30, then=half_order(seven)) as more, known(gateway, as_person("9"), 1):
            assert (ended(come), ended([*working, *more]), ended(other)) == (10, 33 - 10, 0)


async def test_the_connections_of_a_proxy_are_nobodys(start: Start) -> None:
    gateway = await start(connections_max=12, connections_per_address_max=12, trusted_proxies=f'["{THERE}/32"]')
    with known(gateway, as_person("7"), 6, [THERE]) as proxys, known(gateway, as_person("7"), 20) as greedy:
        # The same customer, but these are not his.
        assert ended(proxys) == 0
        assert ended(greedy) == 20 - 6
        with known(gateway, as_person("8"), 4, [THERE]) as more:
            assert ended([*proxys, *more]) == 0
            assert ended(greedy) == 20 - 6 + 4
    # It may have all of them; where it wants more its own idle ones go.
    with known(gateway, as_person("7"), 15, [THERE]) as proxys, known(gateway, KEY, 1):
        assert ended(proxys) == 4
