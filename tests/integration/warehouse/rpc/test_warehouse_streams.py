"""Calls that are answered by a stream: who may, how many, how long, and all that ends one."""

import asyncio
import urllib.request
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from structlog.testing import capture_logs

from development.free_ports import free_port
from stockwarden_client.v1 import warehouse_pb2 as pb
from stockwarden_client.v1 import warehouse_pb2_grpc
from tests.kits.streaming import FOLLOW, KEYS, LARGE, ChangingKeys, Ticking, by, ticking
from tests.kits.warehouse_kit import No, connection, outcome, refused, reserve, serving, until_someone_waits_for_a_lock
from warehouse.auth import ApiKey, Role
from warehouse.settings import OpenCallSettings, StreamSettings

pytestmark = pytest.mark.sql
SOON_SECONDS = 20
ROOM_BYTES = 32 * 2**20
"""More than all that is under way on a connection: gRPC's buffers and windows, and those of the sockets."""
LONG_SECONDS = 60
"""For a server's stop; what waits for this fails."""


async def told(call: Any) -> list[str]:
    """All messages of a stream that ends well."""
    return [message.value async for message in call]


async def ended(call: Any) -> No:
    """How a stream ends that does not end well."""
    return await refused(told(call))


async def first(call: Any) -> str:
    """Its first message; the stream stays open."""
    async with asyncio.timeout(SOON_SECONDS):
        message = await outcome(call.read())
    assert not isinstance(message, No), message
    return str(message.value)


async def end(call: Any) -> No:
    """How an open stream ends, after what it still says."""

    async def read_on() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass
        # What gRPC calls the end of a stream of which nothing was sent any more is told by its code only.
        if await call.code() is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
            )

    async with asyncio.timeout(SOON_SECONDS):
        return await refused(read_on())


async def answered_at_last(served: Ticking) -> list[str]:
    """All messages of a stream that is asked for until there is a slot."""
    async with asyncio.timeout(SOON_SECONDS):
        while isinstance(messages := await outcome(told(served.tick("1"))), No):
            assert messages.code == "RESOURCE_EXHAUSTED"
    return messages


def metrics_of(port: int) -> dict[str, float]:
    """Every sample by its name with labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def counted(port: int, sample: str, value: float) -> dict[str, float]:
    """All metrics, once a sample has a value; what is counted after a caller was told may come a moment later."""
    async with asyncio.timeout(SOON_SECONDS):
        while (found := await asyncio.to_thread(metrics_of, port)).get(sample) != value:
            pass
    return found


async def sent_until_it_waits(port: int) -> float:
    """How many messages were sent, once there is no room for a further one."""
    before = 0.0
    while (
        sent := (await asyncio.to_thread(metrics_of, port))['warehouse_stream_answers_total{method="Tick"}']
    ) > before:
        before = sent
        await asyncio.sleep(0.3)
    return sent


async def test_answers_come_and_are_counted_and_logged(warehouse_database_url: str) -> None:
    port = free_port()
    async with ticking(warehouse_database_url, metrics_listen=f"127.0.0.1:{port}") as served:
        waiting = served.tick("wait")
        assert await first(waiting) == "0"
        with capture_logs() as lines:
            assert await told(served.tick("3")) == ["0", "1", "2"]
            found = await counted(port, 'warehouse_calls_total{code="OK",method="Tick"}', 1)
        assert found['warehouse_streams{method="Tick"}'] == 1
        assert found['warehouse_stream_answers_total{method="Tick"}'] == 4
        assert found['warehouse_stream_duration_seconds_count{method="Tick"}'] == 1
        [line] = [line for line in lines if line["event"] == "stream_ended"]
        assert (line["code"], line["sent"], line["log_level"]) == ("OK", 3, "info")
        caller = served.ticks.callers[-1]
        assert (caller.actor, caller.role) == ("shop", Role.READER)
        waiting.cancel()


async def test_a_stream_needs_a_key_and_its_role(warehouse_database_url: str) -> None:
    request = StringValue(value="1").SerializeToString()
    async with ticking(warehouse_database_url) as served:
        for metadata in ((), (("x-api-key", "wrong"),), (*by("shop"), *by("office"))):
            assert (await ended(served.raw(request, metadata))).reason == "UNAUTHENTICATED"
        no = await ended(served.raw(request, by("shop"), method=FOLLOW))
        assert (no.code, dict(no.metadata)["needed"]) == ("PERMISSION_DENIED", "order")
        for name in ("till", "office"):
            following = served.tick("1", name, method=FOLLOW)
            assert await first(following) == "1"
            following.cancel()
        assert {caller.key_name for caller in served.ticks.callers} == {"till", "office"}


async def test_without_keys_everybody_may(warehouse_database_url: str) -> None:
    async with ticking(warehouse_database_url, api_keys=()) as served:
        assert await told(served.raw(StringValue(value="2").SerializeToString(), ())) == ["0", "1"]


async def test_a_right_key_is_refused_where_keys_were_guessed(warehouse_database_url: str) -> None:
    """As in a call of one answer, and held back as a wrong one is; who was right there before goes on."""
    port, rare = free_port(), OpenCallSettings(calls_per_second_max=0.1)
    settings = {"wrong_keys_per_minute_max": 3, "open_calls": rare, "metrics_listen": f"127.0.0.1:{port}"}
    async with ticking(warehouse_database_url, **settings) as served:
        assert await told(served.tick("1")) == ["0"]
        guesses = [(("x-api-key", f"guess-{number}"),) for number in range(5)]
        await asyncio.gather(*(ended(served.raw(b"", guess)) for guess in guesses))
        held_back = 'warehouse_limited_total{bound="open_calls_per_second"}'
        assert (await asyncio.to_thread(metrics_of, port))[held_back] == 4
        assert (await ended(served.tick("1", "office"))).reason == "RATE_LIMITED"
        assert (await asyncio.to_thread(metrics_of, port))[held_back] == 5
        assert await told(served.tick("1")) == ["0"]


@pytest.mark.parametrize(
    ("request_bytes", "field"),
    [
        (b"\xff", "request"),
        (StringValue(value="y" * 5000).SerializeToString(), "request"),
        (StringValue(value="y" * 50).SerializeToString(), "value"),
    ],
)
async def test_a_request_is_checked(warehouse_database_url: str, request_bytes: bytes, field: str) -> None:
    async with ticking(warehouse_database_url, request_bytes_max=4900) as served:
        no = await ended(served.raw(request_bytes, by("shop")))
        assert (no.code, no.fields) == ("INVALID_ARGUMENT", (field,))


async def test_a_request_that_does_not_come_is_not_waited_for(warehouse_database_url: str) -> None:
    few = StreamSettings(streams_max=1, question_seconds_max=0.2)
    async with ticking(warehouse_database_url, streams=few) as served:
        no = await end(served.silent())
        assert (no.code, no.fields, no.message) == (
            "INVALID_ARGUMENT",
            ("request",),
            "request: did not come for 0.2 s",
        )
        closed = served.silent()
        await closed.done_writing()
        assert (await end(closed)).message == "request: did not come"
        assert await told(served.tick("1")) == ["0"]


async def test_refusals_and_faults_end_it_as_any_call(warehouse_database_url: str) -> None:
    port = free_port()
    async with ticking(warehouse_database_url, metrics_listen=f"127.0.0.1:{port}") as served:
        no = await ended(served.tick("refuse"))
        assert (no.code, no.reason) == ("NOT_FOUND", "PRODUCT_NOT_FOUND")
        no = await ended(served.tick("break"))
        assert (no.code, no.reason) == ("INTERNAL", "INTERNAL")
        assert "secret" not in no.message
        found = await asyncio.to_thread(metrics_of, port)
        for code in ("NOT_FOUND", "INTERNAL"):
            assert found[f'warehouse_calls_total{{code="{code}",method="Tick"}}'] == 1


async def test_streams_are_bounded_and_one_key_leaves_some_to_the_others(warehouse_database_url: str) -> None:
    port = free_port()
    few = StreamSettings(streams_max=10, key_share_max=0.5)
    async with ticking(warehouse_database_url, streams=few, metrics_listen=f"127.0.0.1:{port}") as served:
        of_shop = [served.tick("wait") for _ in range(20)]
        firsts = await asyncio.gather(*(outcome(call.read()) for call in of_shop))
        noes = [one for one in firsts if isinstance(one, No)]
        assert {(no.code, no.reason) for no in noes} == {("RESOURCE_EXHAUSTED", "TOO_MANY_REQUESTS")}
        assert all(no.retry_seconds for no in noes)
        assert len(noes) == 15
        of_others = [served.tick("wait", name) for name in ("till", "office")]
        assert [await first(call) for call in of_others] == ["0", "0"]
        found = await asyncio.to_thread(metrics_of, port)
        assert found['warehouse_limited_total{bound="streams_of_key"}'] == 15
        # Calls of one answer have other slots, and who hangs up frees its own.
        holds: Any = warehouse_pb2_grpc.WarehouseServiceStub(served.channel)
        assert (await holds.GetCaller(pb.GetCallerRequest(), metadata=by("shop"))).name == "shop"
        for call in (*of_shop, *of_others):
            call.cancel()
        assert await answered_at_last(served) == ["0"]


async def test_a_stream_ends_at_its_callers_deadline(warehouse_database_url: str) -> None:
    port = free_port()
    async with ticking(warehouse_database_url, metrics_listen=f"127.0.0.1:{port}") as served:
        call = served.tick("wait", timeout=0.5)
        assert await first(call) == "0"
        assert (await end(call)).code == "DEADLINE_EXCEEDED"
        async with asyncio.timeout(SOON_SECONDS):
            assert await served.ticks.cleaned.get() == "shop"
        await counted(port, 'warehouse_calls_total{code="DEADLINE_EXCEEDED",method="Tick"}', 1)


async def test_a_stream_ends_after_its_longest_time(warehouse_database_url: str) -> None:
    port = free_port()
    short = StreamSettings(seconds_max=0.5)
    async with ticking(warehouse_database_url, streams=short, metrics_listen=f"127.0.0.1:{port}") as served:
        call = served.tick("wait", timeout=LONG_SECONDS)
        assert await first(call) == "0"
        no = await end(call)
        assert (no.code, no.reason) == ("UNAVAILABLE", "STREAM_OVER")
        assert "go on in a new one" in no.message
        assert no.retry_seconds
        found = await counted(port, 'warehouse_calls_total{code="UNAVAILABLE",method="Tick"}', 1)
        assert found['warehouse_limited_total{bound="stream_seconds"}'] == 1


async def test_a_stream_ends_when_its_caller_hangs_up(warehouse_database_url: str) -> None:
    port = free_port()
    one = StreamSettings(streams_max=1)
    async with ticking(warehouse_database_url, streams=one, metrics_listen=f"127.0.0.1:{port}") as served:
        for what in ("wait", "flood"):
            call = served.tick(what)
            assert await first(call) == "0"
            call.cancel()
            async with asyncio.timeout(SOON_SECONDS):
                assert await served.ticks.cleaned.get() == "shop"
            assert await answered_at_last(served) == ["0"]
        await counted(port, 'warehouse_calls_total{code="CANCELLED",method="Tick"}', 2)


async def test_a_key_that_is_revoked_or_allows_less_ends_its_streams(
    warehouse_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ChangingKeys] = []

    def make(keys: Sequence[ApiKey]) -> ChangingKeys:
        made.append(ChangingKeys(keys))
        return made[0]

    monkeypatch.setattr("warehouse.server.Keyring", make)
    soon = StreamSettings(key_check_seconds=0.1)
    async with ticking(warehouse_database_url, streams=soon) as served:
        shop, till, office = served.tick("wait"), served.tick("1", "till", method=FOLLOW), served.tick("wait", "office")
        assert [await first(call) for call in (shop, till, office)] == ["0", "1", "0"]
        made[0].replace(KEYS[1].model_copy(update={"role": Role.READER}), KEYS[2])
        assert (await end(shop)).reason == "UNAUTHENTICATED"
        no = await end(till)
        assert (no.code, dict(no.metadata)["role"]) == ("PERMISSION_DENIED", "reader")
        # It is not let in again, either, and who has a key goes on.
        assert (await ended(served.tick("1"))).code == "UNAUTHENTICATED"
        assert not office.done()
        assert await told(served.tick("1", "till")) == ["0"]


async def test_a_stop_ends_all_streams_at_once_and_waits_for_calls(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 10})
    with connection(warehouse_database_url) as rival, rival.cursor() as cursor:
        rival.begin()
        cursor.execute("SELECT * FROM stock_levels FOR UPDATE")
        async with ticking(warehouse_database_url, stop_grace_seconds=LONG_SECONDS) as served:
            open_ones = [served.tick("wait"), served.tick("1", "till", method=FOLLOW)]
            assert [await first(call) for call in open_ones] == ["0", "1"]
            silent = served.silent()
            await silent.initial_metadata()
            holds: Any = warehouse_pb2_grpc.WarehouseServiceStub(served.channel)
            held = asyncio.ensure_future(outcome(holds.Reserve(reserve((1, 1, 1)), metadata=by("till"))))
            await until_someone_waits_for_a_lock(warehouse_database_url)
            stopping = asyncio.create_task(served.stop())
            for call in (*open_ones, silent):
                no = await end(call)
                assert (no.code, no.reason, no.message) == (
                    "UNAVAILABLE",
                    "SHUTTING_DOWN",
                    "this server is stopping; go on in a new stream",
                )
            assert not stopping.done()
            assert not held.done()
            rival.rollback()
            assert not isinstance(answer := await held, No), answer
            await stopping


async def test_a_stop_does_not_wait_for_who_listens_to_nothing(warehouse_database_url: str) -> None:
    port, settings = free_port(), {"stop_grace_seconds": LONG_SECONDS}
    async with ticking(warehouse_database_url, metrics_listen=f"127.0.0.1:{port}", **settings) as served:
        call = served.tick("flood")
        assert await first(call) == "0"
        await sent_until_it_waits(port)
        async with asyncio.timeout(LONG_SECONDS / 2):
            await served.stop()
        assert (await end(call)).code in ("UNAVAILABLE", "CANCELLED")


async def test_a_slow_listener_is_waited_for_and_nothing_is_kept_for_it(warehouse_database_url: str) -> None:
    port = free_port()
    async with ticking(warehouse_database_url, metrics_listen=f"127.0.0.1:{port}") as served:
        call = served.tick("flood")
        assert await first(call) == "0"
        assert await sent_until_it_waits(port) * len(LARGE) < ROOM_BYTES
        for _ in range(500):
            assert (await call.read()).value == LARGE
        call.cancel()


async def test_who_listens_to_nothing_keeps_its_slot_until_it_does(warehouse_database_url: str) -> None:
    short = StreamSettings(streams_max=1, seconds_max=0.5)
    async with ticking(warehouse_database_url, streams=short) as served:
        call = served.tick("flood")
        assert await first(call) == "0"
        async with asyncio.timeout(SOON_SECONDS):
            assert await served.ticks.cleaned.get() == "shop"
        assert (await ended(served.tick("1"))).code == "RESOURCE_EXHAUSTED"
        assert (await end(call)).reason == "STREAM_OVER"
        assert await answered_at_last(served) == ["0"]
