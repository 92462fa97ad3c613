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
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from itertools import chain, islice
from typing import Any
from urllib.parse import unquote

import grpc
import uvloop

from development.service_process import NO_PROXY
from tests.fuzzing.door import may_be_answered, role_of
from tests.fuzzing.frame_answers import SAID_BY_THE_CORE, FrameAnswers, Unreadable
from tests.fuzzing.grpc_requests import Call, GrpcRequests, Said
from tests.fuzzing.http_requests import HttpRequests, Sent
from tests.kits.processes import DEVELOPMENT_API_KEY

NICE = 19
HTTP_CONNECTIONS = 4
BROKEN_CONNECTIONS = 6
"""For requests that may have no answer."""
SCHEMA_CONNECTIONS = 4
SCHEMA_AHEAD = 100
"""Requests of schemathesis that are made before they are sent."""
SCHEMA_AT_ONCE = 10
GRPC_CALLS = 2
FRAME_CONNECTIONS = 8
ANSWER_SECONDS_MAX = 1.0
"""Long polls and event streams are given up then; so the server has clients that leave."""
SILENCE_SECONDS = 0.1
"""After which a broken request is taken to have no answer."""
FRAMES_SILENCE_SECONDS = 0.3
"""After which no more answers to frames are waited for."""
CALL_SECONDS_MAX = 5.0
EXAMPLES_MAX = 5
CALLER_PAUSE_SECONDS = 0.02
RUSH_SECONDS = 0.05
BAD_STATUSES = frozenset({"INTERNAL", "UNKNOWN"})
_NAMES = {str(code.value[0]): code.name for code in grpc.StatusCode}


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


async def _send_http(port: int, wanted: Callable[[], Awaitable[Sent]], tally: Tally, pace: Pace) -> None:
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
                sent = await wanted()
                await pace.turn()
                is_open = await _ask(reader, writer, sent, tally)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            tally.answers["hung up"] += 1
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _wanted(requests: HttpRequests, *, broken: bool) -> Callable[[], Awaitable[Sent]]:
    async def wanted() -> Sent:
        while (sent := requests.next()).is_whole is broken:
            pass
        return sent

    return wanted


async def _make_ahead(requests: Iterator[bytes], ahead: "asyncio.Queue[Sent]") -> None:
    """In a thread, so that those that are under way need not wait for those to come."""
    while True:
        for data in await asyncio.to_thread(lambda: list(islice(requests, SCHEMA_AT_ONCE))):
            await ahead.put(Sent(data, is_whole=True))


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
    async with grpc.aio.insecure_channel(target, NO_PROXY) as channel:
        while True:
            call = requests.next()
            await pace.turn()
            tally.requests += 1
            method: Any = channel.unary_unary(call.path)
            status, said = "OK", ""
            try:
                await method(call.data, metadata=call.metadata, timeout=CALL_SECONDS_MAX)
            except grpc.aio.AioRpcError as error:
                status, said = error.code().name, error.details() or ""
            _note_call(tally, call, status, said.encode())


def _note_call(
    tally: Tally, call: Call, status: str, said: bytes, *, sent: bytes = b"", is_mutated: bool = False
) -> None:
    """One more answer to a call; whose it is can't be told where its bytes were mutated."""
    is_bad, role = status in BAD_STATUSES, role_of(call.metadata)
    if not is_mutated and not may_be_answered(call.path, role, status):
        is_bad, said = True, f"(to somebody with the role {role}) ".encode() + said
    shown = sent or b"%s %r %s" % (call.path.encode(), call.metadata, call.data)
    tally.note(status, shown, is_bad=is_bad, said=said)


async def _send_frames(target: str, requests: GrpcRequests, tally: Tally, pace: Pace) -> None:
    host, _, port = target.rpartition(":")
    while True:
        said = requests.frames()
        await pace.turn(len(said.calls))
        tally.requests += len(said.calls)
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            tally.answers["no connection"] += 1
            await asyncio.sleep(0.1)
            continue
        try:
            writer.write(said.data)
            tally.answers[await _hear(reader, said, tally)] += 1
        except OSError:
            tally.answers["reset"] += 1
        finally:
            writer.close()


async def _hear(reader: asyncio.StreamReader, said: Said, tally: Tally) -> str:
    """Take note of the answers to frames, until all calls have theirs, nothing comes, or too long; how it ended."""
    answers, left = FrameAnswers(), set(said.calls)
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            while left:
                async with asyncio.timeout(FRAMES_SILENCE_SECONDS):
                    data = await reader.read(65_536)
                if not data:
                    return "(hung up)"
                for stream, headers in answers.feed(data):
                    if _note_block(tally, said, stream, headers):
                        left.discard(stream)
    except TimeoutError:
        return "(left)"
    except Unreadable as error:
        tally.note("unreadable", said.data, is_bad=True, said=str(error).encode())
    return "(answered)"


def _note_block(tally: Tally, said: Said, stream: int, headers: Mapping[str, str]) -> bool:
    """Take note of the headers of an answer; whether they were its last."""
    status, http = headers.get("grpc-status"), headers.get(":status", "200")
    if status is None:
        if http != "200":
            tally.note(f"HTTP {http}", said.data, is_bad=http >= "500")
        return http != "200"
    call = said.calls.get(stream) or Call("", b"", ())
    message, name = unquote(headers.get("grpc-message", "")), _NAMES.get(status, f"status {status}")
    if name == "INTERNAL" and message.startswith(SAID_BY_THE_CORE):
        tally.answers["INTERNAL (no gRPC)"] += 1
    else:
        _note_call(tally, call, name, message.encode(), sent=said.data, is_mutated=said.is_mutated)
    return True


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
    print("begun", flush=True)
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
    """At once, too: so it is known that the work has begun."""
    while True:
        tally.show()
        await asyncio.sleep(1)


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
    tally, pace = Tally(), Pace(rate)
    if sink:
        work = [_send_into_sink(sink, await asyncio.to_thread(_maker, kind, where, seed), tally, pace)]
    else:
        work = await asyncio.to_thread(_attackers, kind, where, seed, tally, pace)
    await asyncio.gather(*work, _report(tally))


def _attackers(kind: str, where: str, seed: int, tally: Tally, pace: Pace) -> list[Coroutine[Any, Any, None]]:
    if kind == "http":
        document, count = _document(int(where)), HTTP_CONNECTIONS + BROKEN_CONNECTIONS
        made = [HttpRequests(document, seed * 1000 + number) for number in range(count)]
        wanted = [_wanted(one, broken=number >= HTTP_CONNECTIONS) for number, one in enumerate(made)]
        return [_send_http(int(where), one, tally, pace) for one in wanted]
    if kind == "schemathesis":
        ahead = asyncio.Queue[Sent](SCHEMA_AHEAD)
        sending = [_send_http(int(where), ahead.get, tally, pace) for _ in range(SCHEMA_CONNECTIONS)]
        return [_make_ahead(_schema_requests(int(where), seed), ahead), *sending]
    if kind == "grpc":
        return [_send_grpc(where, GrpcRequests(seed * 1000 + number), tally, pace) for number in range(GRPC_CALLS)]
    of = [GrpcRequests(seed * 1000 - number) for number in range(FRAME_CONNECTIONS)]
    return [_send_frames(where, requests, tally, pace) for requests in of]


def _schema_requests(port: int, seed: int) -> Iterator[bytes]:
    # To import schemathesis takes as long as everything else here, and only one of the processes needs it.
    from tests.fuzzing.schema_requests import schema_requests

    requests = schema_requests(_document(port), seed)
    return chain([next(requests)], requests)


def _maker(kind: str, where: str, seed: int) -> Callable[[], tuple[bytes, int]]:
    """Makes the bytes of requests, and says how many they are."""
    if kind == "http":
        http = HttpRequests(_document(int(where)), seed)
        return lambda: (http.next().data, 1)
    if kind == "schemathesis":
        requests = _schema_requests(int(where), seed)
        return lambda: (next(requests), 1)
    grpc_requests = GrpcRequests(seed)
    if kind == "grpc":
        return lambda: (grpc_requests.next().data, 1)

    def frames() -> tuple[bytes, int]:
        said = grpc_requests.frames()
        return said.data, len(said.calls)

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
    print(json.dumps({"ms": [round(seconds * 1000, 3) for seconds in latencies], "wrong": wrong}), flush=True)


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
