"""What a call was is gone when it has ended.

gRPC keeps in a call the exception that ended it, which leads back to the call by way of its traceback; and what reads a
call's messages keeps itself until it is closed. Such calls stay, with all that they hold, until Python's garbage
collector looks for them: strangers made a server grow by half.
"""

import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.attacks.warehouse import QUESTION, SOON_SECONDS, by, guarded
from tests.kits.waiting import until
from tests.kits.warehouse_kit import reserve
from warehouse.settings import OpenCallSettings

pytestmark = pytest.mark.sql
TIMES = 20
SERVICE = "/warehouse.v1.WarehouseService"
RESERVE = reserve((1, 1, 1)).SerializeToString()
HEALTH = "/grpc.health.v1.Health"
WHOLE = health_pb2.HealthCheckRequest().SerializeToString()
OTHER = health_pb2.HealthCheckRequest(service="other").SerializeToString()
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
LIST = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
SHOWN: dict[str, Sequence[tuple[str, str]]] = {"known": by("shop"), "guessed": by("guessed"), "stranger": ()}
ONE_ANSWER: dict[str, tuple[str, bytes]] = {
    "answered": (f"{SERVICE}/CheckStock", QUESTION.SerializeToString()),
    "refused": (f"{SERVICE}/Reserve", RESERVE),
    "invalid": (f"{SERVICE}/Reserve", b""),
    "no message": (f"{SERVICE}/Reserve", b"\xff"),
    "another role's": ("/warehouse.v1.StockService/AddStock", b""),
    "of no method": (f"{SERVICE}/Nothing", b""),
    "health": (f"{HEALTH}/Check", WHOLE),
    "health of nothing": (f"{HEALTH}/Check", OTHER),
    "health of no message": (f"{HEALTH}/Check", b"\xff"),
}
STREAMS: dict[str, tuple[str, Sequence[bytes]]] = {
    "a watch without a question": (f"{HEALTH}/Watch", ()),
    "a watch of no message": (f"{HEALTH}/Watch", (b"\xff",)),
    "reflection": (REFLECTION, (LIST, LIST)),
    "reflection of no message": (REFLECTION, (b"\xff",)),
}


def unhurried(url: str) -> AbstractAsyncContextManager[int]:
    """A server that refuses nobody for asking often, and nobody late; its port."""
    often = OpenCallSettings(calls_per_second_max=100_000)
    return guarded(url, wrong_keys_per_minute_max=1000, open_calls=often)


@pytest.fixture
def _collected_by_hand() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def calls_left() -> int:
    """How many calls of a server are still there."""
    return sum(type(thing).__name__ == "_ServicerContext" for thing in gc.get_objects())


@pytest.mark.usefixtures("_collected_by_hand")
@pytest.mark.parametrize("who", SHOWN)
@pytest.mark.parametrize("is_guessed_at", [False, True], ids=["", "while keys are guessed"])
async def test_a_call_is_gone_once_it_has_ended(warehouse_database_url: str, who: str, *, is_guessed_at: bool) -> None:
    async with unhurried(warehouse_database_url) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        if is_guessed_at:
            guess: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{SERVICE}/Reserve")
            await guess(RESERVE, metadata=by("guess"), timeout=SOON_SECONDS).code()
        for kind, (path, message) in ONE_ANSWER.items():
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            before = calls_left()
            for _ in range(TIMES):
                await call(message, metadata=tuple(SHOWN[who]), timeout=SOON_SECONDS).code()
            print(kind)
            await until(partial(_are_gone, before))


@pytest.mark.usefixtures("_collected_by_hand")
@pytest.mark.parametrize("who", SHOWN)
async def test_a_stream_is_gone_once_it_has_ended(warehouse_database_url: str, who: str) -> None:
    async with unhurried(warehouse_database_url) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for kind, (path, messages) in STREAMS.items():
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
            before = calls_left()
            for _ in range(TIMES):
                call = method(_sent(messages), metadata=tuple(SHOWN[who]), timeout=SOON_SECONDS)
                with suppress(grpc.aio.AioRpcError):
                    assert [answer async for answer in call]
            print(kind)
            await until(partial(_are_gone, before))


def _are_gone(before: int) -> bool:
    """Whether all but the last are."""
    return calls_left() - before <= 1


async def _sent(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message
