"""How the client insists, against a server on a real socket that misbehaves by script."""

import asyncio
import socket
import time

import grpc
import pytest

import stockwarden_client as client
from development.free_ports import free_port
from stockwarden_client import ClientSettings, WarehouseClient, new_request_id
from tests.kits.scripted_warehouse import LINES, SETTINGS, Act, Context, Scripted, fail, lose_the_answer, serving


def connect(port: int) -> WarehouseClient:
    return WarehouseClient(SETTINGS.model_copy(update={"target": f"127.0.0.1:{port}"}))


@pytest.mark.parametrize(
    "act",
    [
        fail(grpc.StatusCode.UNAVAILABLE),
        fail(grpc.StatusCode.ABORTED),
        fail(grpc.StatusCode.RESOURCE_EXHAUSTED),
        lose_the_answer,
    ],
)
async def test_repeats_with_the_same_request_id(act: Act) -> None:
    scripted = Scripted(act, act)
    async with serving(scripted) as port, connect(port) as warehouse:
        reservation = await warehouse.reserve("17", LINES, request_id=new_request_id())
    assert reservation.reservation_id == "r-1"
    assert len(scripted.request_ids) == 3
    assert len(set(scripted.request_ids)) == 1


async def test_waits_as_long_as_the_server_asks() -> None:
    scripted = Scripted(fail(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_seconds=0.3))
    async with serving(scripted) as port, connect(port) as warehouse:
        started = time.monotonic()
        await warehouse.reserve("17", LINES, request_id=new_request_id())
    assert time.monotonic() - started >= 0.3


async def test_refusals_and_bugs_are_not_repeated() -> None:
    for code, kind in (
        (grpc.StatusCode.INVALID_ARGUMENT, client.InvalidRequest),
        (grpc.StatusCode.INTERNAL, client.WarehouseBroken),
        (grpc.StatusCode.UNAUTHENTICATED, client.Unauthenticated),
    ):
        scripted = Scripted(fail(code))
        async with serving(scripted) as port, connect(port) as warehouse:
            with pytest.raises(kind):
                await warehouse.reserve("17", LINES, request_id=new_request_id())
        assert len(scripted.request_ids) == 1


async def test_keeps_to_the_deadline() -> None:
    scripted = Scripted(*[lose_the_answer] * 20)
    async with serving(scripted) as port, connect(port) as warehouse:
        started = time.monotonic()
        with pytest.raises(client.DeadlineExceeded):
            await warehouse.reserve("17", LINES, request_id="r", deadline_seconds=1.2)
        assert time.monotonic() - started < 2
    assert len(scripted.request_ids) >= 2


async def test_says_so_when_nobody_listens() -> None:
    async with connect(free_port()) as warehouse:
        started = time.monotonic()
        with pytest.raises(client.WarehouseUnavailable):
            await warehouse.reserve("17", LINES, request_id="r", deadline_seconds=0.5)
        assert time.monotonic() - started < 5
        assert not await warehouse.is_serving()


async def test_waits_for_a_server_that_restarts() -> None:
    port, scripted = free_port(), Scripted()
    async with connect(port) as warehouse:
        waiting = asyncio.create_task(warehouse.reserve("17", LINES, request_id=new_request_id()))
        _done, pending = await asyncio.wait([waiting], timeout=0.3)
        assert pending
        async with serving(scripted, port):
            assert (await waiting).order_id == "17"


async def test_sends_what_identifies_the_call() -> None:
    scripted = Scripted()
    async with serving(scripted) as port:
        settings = SETTINGS.model_copy(update={"target": f"127.0.0.1:{port}", "api_key": "secret"})
        async with WarehouseClient(settings) as warehouse:
            await warehouse.reserve("17", LINES, request_id="mine", correlation_id="c-1", traceparent="00-1-2-01")
    assert scripted.request_ids == ["mine"]
    assert scripted.metadata["x-api-key"] == "secret"
    assert scripted.metadata["x-correlation-id"] == "c-1"
    assert scripted.metadata["traceparent"] == "00-1-2-01"


async def test_spreads_calls_over_several_addresses() -> None:
    first, second = Scripted(), Scripted()
    async with serving(first) as port, serving(second) as other_port:
        settings = SETTINGS.model_copy(update={"target": f"127.0.0.1:{port},localhost:{other_port}"})
        async with WarehouseClient(settings) as warehouse:
            for _ in range(50):
                await warehouse.reserve("17", LINES, request_id=new_request_id())
    assert first.request_ids
    assert second.request_ids


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="belong together"):
        ClientSettings.model_validate({"tls_cert": "cert.pem"})
    with pytest.raises(ValueError, match=r"attempt_timeout_seconds \(2\) is longer than deadline_seconds \(1\)"):
        ClientSettings(deadline_seconds=1, attempt_timeout_seconds=2)
    with pytest.raises(ValueError, match="there_is_none"):
        ClientSettings.model_validate({"there_is_none": 1})


async def test_a_deadline_shorter_than_an_attempt_is_the_attempts_too() -> None:
    assert ClientSettings(deadline_seconds=1).attempt_timeout_seconds == 1
    scripted = Scripted(*[lose_the_answer] * 3)
    async with serving(scripted) as port:
        settings = ClientSettings(target=f"127.0.0.1:{port}", deadline_seconds=0.5)
        async with WarehouseClient(settings) as warehouse:
            started = time.monotonic()
            with pytest.raises(client.DeadlineExceeded):
                await warehouse.reserve("17", LINES, request_id="r")
            with pytest.raises(client.DeadlineExceeded):
                await warehouse.reserve("17", LINES, request_id="r", deadline_seconds=0.1)
            assert time.monotonic() - started < 5
    assert len(scripted.request_ids) == 2


async def test_where_nobody_listens_a_new_client_says_so_soon_and_one_that_was_answered_waits() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        settings = SETTINGS.model_copy(update={"target": f"127.0.0.1:{port}", "absent_seconds": 0.2})
        async with WarehouseClient(settings) as warehouse, asyncio.timeout(4):
            with pytest.raises(client.WarehouseUnavailable, match="Connection refused") as caught:
                await warehouse.reserve("17", LINES, request_id="r")
            assert caught.value.is_absent
    async with WarehouseClient(settings) as warehouse:
        async with serving(Scripted(), port):
            await warehouse.reserve("17", LINES, request_id="r")
        back = asyncio.create_task(warehouse.reserve("17", LINES, request_id="r"))
        await asyncio.wait([back], timeout=settings.absent_seconds + 0.3)
        assert not back.done()
        async with serving(Scripted(), port):
            assert (await back).reservation_id == "r-1"


async def test_a_name_that_stands_for_no_address_is_told_soon() -> None:
    settings = SETTINGS.model_copy(update={"target": "no.such.invalid:50051", "absent_seconds": 0.2})
    async with WarehouseClient(settings) as warehouse:
        with pytest.raises(client.WarehouseUnavailable) as caught:
            await warehouse.reserve("17", LINES, request_id="r")
        assert caught.value.is_absent


async def test_what_would_have_its_effect_twice_needs_a_request_id() -> None:
    async with WarehouseClient() as warehouse:
        for call in (warehouse.reserve("17", LINES), warehouse.add_stock(1, 1, 2)):  # type: ignore[call-arg]
            with pytest.raises(TypeError, match="needs a request_id"):
                await call


async def test_proxies_of_the_environment_are_not_for_the_warehouse(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{dead.getsockname()[1]}")
        async with serving(Scripted()) as port:
            for target in (f"127.0.0.1:{port}", f"localhost:{port}", f"ipv4:127.0.0.1:{port}"):
                async with WarehouseClient(SETTINGS.model_copy(update={"target": target})) as warehouse:
                    assert (await warehouse.reserve("17", LINES, request_id="r")).reservation_id == "r-1"


async def test_an_answer_that_is_too_long_is_asked_for_once() -> None:
    async def tell(context: Context) -> None:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER: Sent message larger than max (5 vs. 4)")

    scripted = Scripted(tell, tell)
    async with serving(scripted) as port, connect(port) as warehouse:
        with pytest.raises(client.MessageTooLarge, match="larger than max"):
            await warehouse.reserve("17", LINES, request_id="r")
    assert len(scripted.request_ids) == 1


async def test_what_this_client_does_not_take_is_asked_for_once() -> None:
    scripted = Scripted()
    small = SETTINGS.model_copy(update={"message_size_max_bytes": 1024})
    async with serving(scripted) as port:
        settings = small.model_copy(update={"target": f"127.0.0.1:{port}"})
        async with WarehouseClient(settings) as warehouse:
            with pytest.raises(client.MessageTooLarge):
                await warehouse.reserve("x" * 2000, LINES, request_id="r")
    assert scripted.request_ids == []
