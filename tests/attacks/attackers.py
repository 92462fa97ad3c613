"""`python -m tests.attacks.attackers NAME PORT [ORDER]`: one attack, in a process of its own, until its input ends."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Mapping

import aiohttp

from tests.attacks.frames import (
    CHECK,
    GREETING,
    PING,
    SETTINGS,
    WATCH,
    call,
    call_again_and_again,
    flood,
    frame,
    frames,
    open_connection,
    rapid_resets,
)
from tests.attacks.http import HEADER_HALF, LOGIN_HALF, PREFIX, as_person, half_order
from tests.attacks.sockets import Crowd, connections, is_ended, send

Attack = Callable[[int, threading.Event], None]
RESERVE = "/warehouse.v1.WarehouseService/Reserve"
FLOOD_BYTES = 1 << 40
FLOOD_SECONDS = 1.0
"""On one connection; then another is made."""
LOOK_SECONDS = 0.2
"""Between two looks at what is going on."""
IMPATIENCE_SECONDS = 1.0
"""Before a refused client asks again, whatever Retry-After says."""


def nothing(_port: int, over: threading.Event) -> None:
    """No attack."""
    over.wait()


def kept(first: bytes, count: int) -> Attack:
    """Connections that have sent `first` and nothing more; when half of them are closed they are opened anew."""

    def attack(port: int, over: threading.Event) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), connections(port, count, first) as opened:
                while not over.wait(LOOK_SECONDS) and sum(map(is_ended, opened)) < count / 2:
                    pass

    return attack


def dripping(port: int, over: threading.Event) -> None:
    """Headers that come byte by byte."""
    with connections(port, 300, HEADER_HALF) as opened:
        while not over.wait(LOOK_SECONDS):
            for one in opened:
                send(one, b"a")


def asked(path: str, headers: Mapping[str, str], count: int, impatience_seconds: float = IMPATIENCE_SECONDS) -> Attack:
    """Requests at the same time, each of which is repeated when it has its answer."""

    async def again(session: aiohttp.ClientSession, port: int) -> None:
        while True:
            async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                await response.read()
                if response.status == 429:
                    await asyncio.sleep(impatience_seconds)

    async def run(port: int, over: threading.Event) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:
            tasks = [asyncio.create_task(again(session, port)) for _ in range(count)]
            await asyncio.to_thread(over.wait)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return lambda port, over: asyncio.run(run(port, over))


def half_called(path: str, count: int) -> Attack:
    """Calls of the warehouse that never say what they want, on four connections."""

    def attack(port: int, over: threading.Event) -> None:
        with contextlib.ExitStack() as stack:
            made = [stack.enter_context(contextlib.closing(open_connection(port))) for _ in range(4)]
            for one in made:
                send(one, b"".join(call(2 * number + 1, path) for number in range(count // 4)))
            while not over.wait(LOOK_SECONDS):
                for one in made:
                    is_ended(one)

    return attack


def without_pause(path: str, connections_count: int = 4) -> Attack:
    """Calls without a key, 100 at once on each of some connections, again as soon as they are answered or refused."""

    def attack(port: int, over: threading.Event) -> None:
        def call_on_one() -> None:
            while not over.is_set():
                call_again_and_again(port, path, 100, over)

        threads = [threading.Thread(target=call_on_one) for _ in range(connections_count)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

    return attack


def crowding(port: int, over: threading.Event) -> None:
    """Valid connections that say nothing further, as many as there may be, some five hundred new ones a second."""
    with Crowd(port, 2000, GREETING, 0.001):
        over.wait()


def resets(path: str) -> Attack:
    """Calls that are taken back at once, 2000 on a new connection, five times a second."""

    def attack(port: int, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            rapid_resets(port, 2000, path)

    return attack


def pings(port: int, over: threading.Event) -> None:
    """Many more pings than are allowed, on a new connection ten times a second."""
    while not over.wait(0.1):
        with contextlib.suppress(OSError), contextlib.closing(open_connection(port)) as made:
            send(made, frame(PING, 0, 0, bytes(8)) * 1000)
            frames(made, 0.05)


def flooding(unit: bytes) -> Attack:
    """A frame again and again, as fast as it is taken, on one connection."""

    def attack(port: int, over: threading.Event) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), contextlib.closing(open_connection(port)) as made:
                flood(made, unit, FLOOD_BYTES, FLOOD_SECONDS)

    return attack


def gateway_attacks(order: str) -> dict[str, Attack]:
    """Those on the order gateway; `order` is one of customer 7."""
    return {
        "(none)": nothing,
        "half-sent logins, 300": kept(LOGIN_HALF, 300),
        "half-sent bodies of strangers, 300": kept(half_order({}), 300),
        "half-sent bodies of one customer, 300": kept(half_order(as_person("7")), 300),
        "headers without end, 300": kept(HEADER_HALF, 300),
        "headers byte by byte, 300": dripping,
        "silent connections, 1500": kept(b"", 1500),
        "event streams of one customer, 200": asked(f"{PREFIX}/orders/{order}/events", as_person("7"), 200),
        "requests of one customer, 50 at once": asked(f"{PREFIX}/orders", as_person("7"), 50),
        "/ready, 50 at once": asked("/ready", {}, 50),
        "/ready, 50 at once, whatever is answered": asked("/ready", {}, 50, 0),
        "/metrics, 200 at once, whatever is answered": asked("/metrics", {}, 200, 0),
    }


WAREHOUSE_ATTACKS: dict[str, Attack] = {
    "(none)": nothing,
    "half-sent calls, 4000": half_called(RESERVE, 4000),
    "health watches, 4000": half_called(WATCH, 4000),
    "health checks without pause": without_pause(CHECK),
    "refused calls without pause": without_pause(RESERVE),
    "valid connections that say nothing": crowding,
    "rapid reset of health checks, 2000 x 5/s": resets(CHECK),
    "rapid reset of calls, 2000 x 5/s": resets(RESERVE),
    "1000 pings, ten times a second": pings,
    "pings without end": flooding(frame(PING, 0, 0, bytes(8))),
    "settings without end": flooding(frame(SETTINGS, 0, 0)),
    "unknown frames without end": flooding(frame(0x42, 0, 0)),
    "silent connections, 600": kept(b"", 600),
}


def main() -> None:
    """Attack until standard input ends."""
    name, port, *order = sys.argv[1:]
    over = threading.Event()
    attack = gateway_attacks(order[0])[name] if order else WAREHOUSE_ATTACKS[name]
    attacking = threading.Thread(target=attack, args=(int(port), over))
    attacking.start()
    sys.stdin.read()
    over.set()
    attacking.join()


if __name__ == "__main__":
    main()
