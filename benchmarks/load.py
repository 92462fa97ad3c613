"""The load generator: `python -m benchmarks.load` reads commands from standard input, answers on standard output.

One process, one loop, for every server and every kind of call of a run, so that what it costs is the same for all.
"""

import asyncio
import gc
import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import grpc
import msgspec
import uvloop

from benchmarks.http_calls import HTTP_WORKS, Connection, HttpWork, connect, request_bytes
from benchmarks.requests import HOLDS_PRODUCT_ID, REQUESTS_PER_BATCH, WORKS, Work, batch_request, fresh_ids
from benchmarks.rounds import (
    Answer,
    Command,
    GeneratorFailed,
    HoldsPrepared,
    PrepareHolds,
    Round,
    RoundResult,
    WorkName,
)
from development.service_process import NO_PROXY
from stockwarden_client.v1 import warehouse_pb2 as pb

Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

CHANNELS_PER_TARGET = 4
CALL_TIMEOUT_SECONDS = 30
BATCHES_IN_FLIGHT = 8
PATIENCE_SECONDS = 60
"""How long a round may take beyond what was asked for, before it is given up."""


class Tally:
    """What the callers of one round have seen."""

    def __init__(self, opens: float, closes: float) -> None:
        self.opens = opens
        self.closes = closes
        self.latencies: list[float] = []
        self.units = 0
        self.slowest_seconds = 0.0
        self.calls_in_all = 0
        self.statuses: Counter[str] = Counter()
        self.unexpected = 0
        self.first_unexpected = ""

    def note_unexpected(self, what: str) -> None:
        """Count a call that did not end as the work expects."""
        self.unexpected += 1
        self.first_unexpected = self.first_unexpected or what

    def result(self) -> RoundResult:
        """The figures of the round."""
        seconds = self.closes - self.opens
        latencies = sorted(self.latencies)
        return RoundResult(
            seconds=seconds,
            per_second=self.units / seconds if seconds > 0 else 0.0,
            p50_ms=percentile(latencies, 0.50) * 1000,
            p99_ms=percentile(latencies, 0.99) * 1000,
            max_ms=percentile(latencies, 1.0) * 1000,
            calls=self.statuses.total(),
            calls_in_all=self.calls_in_all,
            statuses=dict(self.statuses),
            unexpected=self.unexpected,
            first_unexpected=self.first_unexpected,
            slowest_ms=self.slowest_seconds * 1000,
        )


def percentile(ascending: list[float], share: float) -> float:
    """The smallest value that at least `share` of all values don't exceed; 0 if there are none."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)] if ascending else 0.0


class Generator:
    """Keeps connections and prepared holds from one command to the next."""

    def __init__(self) -> None:
        self._channels: dict[str, list[grpc.aio.Channel]] = {}
        self._holds: dict[tuple[str, WorkName], list[str]] = {}
        self._connections: dict[str, list[Connection]] = {}

    async def obey(self, command: Command) -> Answer:
        """Carry out one command."""
        if isinstance(command, PrepareHolds):
            return HoldsPrepared(await self._prepare(command))
        if command.work in HTTP_WORKS:
            return await self._http_round(command, HTTP_WORKS[command.work])
        return await self._round(command)

    async def close(self) -> None:
        """Hang up everywhere."""
        for connection in itertools.chain.from_iterable(self._connections.values()):
            connection.close()
        for channel in itertools.chain.from_iterable(self._channels.values()):
            await channel.close()

    def _connect(self, target: str) -> list[grpc.aio.Channel]:
        if target not in self._channels:
            # Channels to the same address share a connection unless told otherwise.
            options = [("grpc.use_local_subchannel_pool", 1), *NO_PROXY]
            self._channels[target] = [grpc.aio.insecure_channel(target, options) for _ in range(CHANNELS_PER_TARGET)]
        return self._channels[target]

    async def _prepare(self, command: PrepareHolds) -> int:
        call: Call = self._connect(command.target)[0].unary_unary(WORKS["batch-reserve"].method)
        holds = self._holds.setdefault((command.target, command.work), [])
        ids = fresh_ids()
        batches = iter(range(math.ceil(max(0, command.holds - len(holds)) / REQUESTS_PER_BATCH)))

        async def prepare_some() -> None:
            for _ in batches:
                answer = await call(batch_request(HOLDS_PRODUCT_ID, ids), timeout=CALL_TIMEOUT_SECONDS)
                results = pb.BatchReserveResponse.FromString(answer).results
                holds.extend(one.reservation.reservation_id for one in results if one.HasField("reservation"))

        await asyncio.gather(*(prepare_some() for _ in range(BATCHES_IN_FLIGHT)))
        return len(holds)

    async def _round(self, command: Round) -> RoundResult:
        work = WORKS[command.work]
        calls: list[Call] = [channel.unary_unary(work.method) for channel in self._connect(command.target)]
        requests = work.requests(self._holds.get((command.target, command.work), []))
        for call in calls:
            await _check_answer(call, next(requests, None), work)

        async def keep_calling(number: int, tally: Tally) -> None:
            await _keep_calling(calls[number % len(calls)], requests, work, tally)

        return await _all_callers(command, keep_calling)

    async def _http_round(self, command: Round, work: HttpWork) -> RoundResult:
        connections = self._connections.setdefault(command.target, [])
        while len(connections) < command.callers:
            connections.append(await connect(command.target))
        request = request_bytes(work, command.target)

        async def keep_calling(number: int, tally: Tally) -> None:
            await _keep_posting(connections[number], request, work, tally)

        return await _all_callers(command, keep_calling)


async def _all_callers(command: Round, keep_calling: Callable[[int, Tally], Awaitable[None]]) -> RoundResult:
    gc.collect()
    gc.disable()
    try:
        opens = time.perf_counter() + command.warm_up_seconds
        tally = Tally(opens, opens + command.seconds)
        async with asyncio.timeout(command.warm_up_seconds + command.seconds + PATIENCE_SECONDS):
            await asyncio.gather(*(keep_calling(number, tally) for number in range(command.callers)))
    finally:
        gc.enable()
    return tally.result()


async def _check_answer(call: Call, request: bytes | None, work: Work) -> None:
    if request is None:
        raise ValueError("no prepared holds are left: prepare more of them for each round")
    try:
        answer = await call(request, timeout=CALL_TIMEOUT_SECONDS, wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        if error.code().name != work.status:
            raise
        return
    if work.status != "OK" or (work.check is not None and not work.check(answer)):
        raise ValueError(f"{work.method} answered OK, but not what was expected: {answer[:200]!r}")


async def _keep_calling(call: Call, requests: Iterator[bytes], work: Work, tally: Tally) -> None:
    """Call until the round closes. The innermost loop: every line here costs throughput."""
    clock = time.perf_counter
    while (started := clock()) < tally.closes:
        request = next(requests, None)
        if request is None:
            tally.closes = clock()
            return
        units = 1
        try:
            answer = await call(request, timeout=CALL_TIMEOUT_SECONDS)
            ended, status = clock(), "OK"
            if work.units is not None:
                units = work.units(answer)
        except grpc.aio.AioRpcError as error:
            ended, status = clock(), error.code().name
            if status != work.status:
                tally.note_unexpected(f"{status}: {error.details()}")
        tally.calls_in_all += 1
        if tally.opens <= ended < tally.closes:
            tally.statuses[status] += 1
            if status == work.status:
                tally.latencies.append(ended - started)
                tally.units += units


async def _keep_posting(connection: Connection, request: bytes, work: HttpWork, tally: Tally) -> None:
    """As `_keep_calling`, over HTTP."""
    clock = time.perf_counter
    while (started := clock()) < tally.closes:
        status, body = await connection.call(request, CALL_TIMEOUT_SECONDS)
        ended = clock()
        if status != work.status:
            tally.note_unexpected(f"{status}: {body[:200]!r}")
        tally.calls_in_all += 1
        tally.slowest_seconds = max(tally.slowest_seconds, ended - started)
        if tally.opens <= ended < tally.closes:
            tally.statuses[status] += 1
            if status == work.status:
                tally.latencies.append(ended - started)
                tally.units += 1


async def main() -> None:
    """Obey the commands on standard input, one by one, until it ends."""
    generator = Generator()
    decoder = msgspec.json.Decoder(Command)
    while line := await asyncio.to_thread(sys.stdin.readline):
        answer: Answer
        try:
            answer = await generator.obey(decoder.decode(line))
        except (grpc.aio.AioRpcError, OSError, TimeoutError, ValueError) as error:
            answer = GeneratorFailed(f"{type(error).__name__}: {error}")
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        sys.stdout.flush()
    await generator.close()


if __name__ == "__main__":
    uvloop.run(main())
