"""The processes that send: `python -m tests.fuzzing.sending KIND ...`, a line of JSON each second.

They step back (nice) where a processor is short, as if they were machines of their own.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import uvloop

from development.service_process import NO_PROXY
from tests.fuzzing.grpc_requests import GrpcRequests
from tests.fuzzing.http_requests import HttpRequests, Sent
from tests.kits.processes import DEVELOPMENT_API_KEY

NICE = 19
HTTP_CONNECTIONS = 4
BROKEN_CONNECTIONS = 6
"""For requests that may have no answer."""
GRPC_CALLS = 2
FRAME_CONNECTIONS = 3
ANSWER_SECONDS_MAX = 1.0
"""Long polls and event streams are given up then; so the server has clients that leave."""
SILENCE_SECONDS = 0.1
"""After which a broken request is taken to have no answer."""
CALL_SECONDS_MAX = 5.0
EXAMPLES_MAX = 5
CALLER_PAUSE_SECONDS = 0.02
RUSH_SECONDS = 0.05


class Tally:
    """What came back, and examples of what must not."""

    def __init__(self) -> None:
        self.requests = 0
        self.answers: Counter[str] = Counter()
        self.bad: list[str] = []

    def note(self, answer: str, request: bytes, *, is_bad: bool, said: bytes = b"") -> None:
        """One more answer."""
        self.answers[answer] += 1
        if is_bad and len(self.bad) < EXAMPLES_MAX:
            self.bad.append(f"{answer} to {request[:3000]!r}: {said[-1000:]!r}")

    def show(self) -> None:
        """A line for the parent."""
        print(json.dumps({"requests": self.requests, "answers": self.answers, "bad": self.bad}), flush=True)


class Pace:
    """How fast a process sends, all its connections together.

    Args:
        rate: requests a second; 0: as fast as they are answered.
    """

    def __init__(self, rate: float) -> None:
        self._pause = 1 / rate if rate else 0.0
        self._next = time.monotonic()

    async def turn(self, count: int = 1) -> None:
        """Wait until so many more may be sent. What could not be sent in time is not made up for in a rush."""
        now = time.monotonic()
        self._next = max(self._next, now - RUSH_SECONDS) + count * self._pause
        if self._next > now:
            await asyncio.sleep(self._next - now)


async def _send_http(port: int, requests: HttpRequests, tally: Tally, pace: Pace, *, broken: bool) -> None:
    """For ever: one connection after the other."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
        except OSError:
            tally.note("no connection", b"", is_bad=False)
            await asyncio.sleep(0.1)
            continue
        try:
            is_open = True
            while is_open:
                await pace.turn()
                is_open = await _ask(reader, writer, _wanted(requests, broken=broken), tally)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            tally.answers["hung up"] += 1
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _wanted(requests: HttpRequests, *, broken: bool) -> Sent:
    while (sent := requests.next()).is_whole is broken:
        pass
    return sent


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: Sent, tally: Tally) -> bool:
    """Whether the connection can be used again."""
    tally.requests += 1
    writer.write(sent.data)
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX if sent.is_whole else SILENCE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            length = _length(head)
            body = b"" if length is None or sent.data.startswith(b"HEAD") else await reader.readexactly(length)
    except TimeoutError:
        tally.answers["no answer in time"] += 1
        return False
    status = head[9:12].decode()
    is_bad = status == "500" or (status >= "500" and b"WAREHOUSE_ERROR" in body) or not status.isdigit()
    tally.note(status, sent.data, is_bad=is_bad, said=body)
    return sent.is_whole and length is not None and b"Connection: close" not in head


def _length(head: bytes) -> int | None:
    """The Content-Length of an answer; 0 for one that has no body, None where that can't be told."""
    if head[9:12] in (b"204", b"304") or head[9:10] == b"1":
        return 0
    found = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return int(found) if found else None


async def _send_grpc(target: str, requests: GrpcRequests, tally: Tally, pace: Pace) -> None:
    codes_bad = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    async with grpc.aio.insecure_channel(target, NO_PROXY) as channel:
        while True:
            path, data, metadata = requests.next()
            await pace.turn()
            tally.requests += 1
            call: Any = channel.unary_unary(path)
            try:
                await call(data, metadata=metadata, timeout=CALL_SECONDS_MAX)
                tally.answers["OK"] += 1
            except grpc.aio.AioRpcError as error:
                request = path.encode() + b" " + data
                is_bad = error.code() in codes_bad
                tally.note(error.code().name, request, is_bad=is_bad, said=(error.details() or "").encode())


async def _send_frames(target: str, requests: GrpcRequests, tally: Tally, pace: Pace) -> None:
    host, _, port = target.rpartition(":")
    while True:
        said = requests.frames()
        count = said.count(b"\x00\x05:path")
        await pace.turn(count)
        tally.requests += count
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            tally.answers["no connection"] += 1
            await asyncio.sleep(0.1)
            continue
        try:
            writer.write(said)
            async with asyncio.timeout(SILENCE_SECONDS):
                while await reader.read(65_536):
                    pass
            tally.answers["hung up"] += 1
        except TimeoutError:
            tally.answers["left"] += 1
        except OSError:
            tally.answers["reset"] += 1
        finally:
            writer.close()


async def _send_into_sink(port: int, make: Callable[[], tuple[bytes, int]], tally: Tally, pace: Pace) -> None:
    """What is made, at the same pace, to somebody who only takes it."""
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        data, count = make()
        await pace.turn(count)
        tally.requests += count
        writer.write(data)
        await writer.drain()


async def _call_politely(port: int, latencies: list[float], wrong: Counter[str]) -> None:
    """A caller that does nothing wrong, and waits a moment between its calls."""
    wanted = b'{"items":[{"product_id":1,"warehouse_id":1,"quantity":1}]}'
    head = f"Host: shop\r\nX-API-Key: {DEVELOPMENT_API_KEY}\r\n"
    looks = f"GET /api/v1/products/1 HTTP/1.1\r\n{head}\r\n".encode()
    asks = f"POST /api/v1/inventory/check-availability HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
    calls = (looks, f"{asks}Content-Length: {len(wanted)}\r\n\r\n".encode() + wanted)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        for call in calls:
            began = time.perf_counter()
            writer.write(call)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(_length(answer) or 0)
            latencies.append(time.perf_counter() - began)
            if answer[9:12] != b"200":
                wrong[answer[9:12].decode()] += 1
            await asyncio.sleep(CALLER_PAUSE_SECONDS)


async def _report(tally: Tally) -> None:
    while True:
        await asyncio.sleep(1)
        tally.show()


def _document(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/openapi.json") as answer:
        return json.load(answer)


async def attack(kind: str, where: str, seed: int, rate: float, sink: int) -> None:
    """Send one kind of requests until it is ended.

    Args:
        where: the port of HTTP, or the target of gRPC.
        rate: requests a second; 0: as fast as they are answered.
        sink: the port of a sink, to which they are sent instead; 0: to the service.
    """
    tally, work, pace = Tally(), list[Awaitable[None]](), Pace(rate)
    if sink:
        work.append(_send_into_sink(sink, await asyncio.to_thread(_maker, kind, where, seed), tally, pace))
    elif kind == "http":
        document = await asyncio.to_thread(_document, int(where))
        for number in range(HTTP_CONNECTIONS + BROKEN_CONNECTIONS):
            requests = HttpRequests(document, seed * 1000 + number)
            work.append(_send_http(int(where), requests, tally, pace, broken=number >= HTTP_CONNECTIONS))
    elif kind == "grpc":
        work += [_send_grpc(where, GrpcRequests(seed * 1000 + number), tally, pace) for number in range(GRPC_CALLS)]
    else:
        of = [GrpcRequests(seed * 1000 - number) for number in range(FRAME_CONNECTIONS)]
        work += [_send_frames(where, requests, tally, pace) for requests in of]
    await asyncio.gather(*work, _report(tally))


def _maker(kind: str, where: str, seed: int) -> Callable[[], tuple[bytes, int]]:
    """Makes the bytes of requests, and says how many they are."""
    if kind == "http":
        http = HttpRequests(_document(int(where)), seed)
        return lambda: (http.next().data, 1)
    grpc_requests = GrpcRequests(seed)
    if kind == "grpc":
        return lambda: (grpc_requests.next()[1], 1)

    def frames() -> tuple[bytes, int]:
        said = grpc_requests.frames()
        return said, said.count(b"\x00\x05:path")

    return frames


async def sink() -> None:
    """Tell a port, and take whatever comes there."""

    async def take(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def call(port: int) -> None:
    """Call politely until the input ends, and tell how long the calls took."""
    latencies, wrong = list[float](), Counter[str]()
    calling = asyncio.create_task(_call_politely(port, latencies, wrong))
    over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([calling, over], return_when=asyncio.FIRST_COMPLETED)
    if calling.done():
        calling.result()
    calling.cancel()
    latencies.sort()
    p50, p99 = (round(latencies[int(len(latencies) * share)] * 1000, 2) for share in (0.5, 0.99))
    print(json.dumps({"calls": len(latencies), "p50_ms": p50, "p99_ms": p99, "wrong": wrong}), flush=True)


def main() -> None:
    """See the module."""
    kind, *arguments = sys.argv[1:]
    if kind == "caller":
        uvloop.run(call(int(arguments[0])))
        return
    os.nice(NICE)
    if kind == "sink":
        uvloop.run(sink())
        return
    where, seed, rate, port = arguments
    uvloop.run(attack(kind, where, int(seed), float(rate), int(port)))


if __name__ == "__main__":
    main()
