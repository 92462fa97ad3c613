"""Calls that need no key, and calls that are refused, without pause: answered so often and no more."""

import asyncio
import threading
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from development.free_ports import free_port
from tests.attacks.frames import CHECK, call_again_and_again
from tests.attacks.warehouse import QUESTION, RESERVE, by, guarded, known_to
from tests.kits.warehouse_kit import Calls, No, calling, outcome
from warehouse.rpc import strangers
from warehouse.settings import OpenCallSettings

pytestmark = pytest.mark.sql
A_DAY = 86_400
ONE_A_DAY = OpenCallSettings(calls_per_second_max=1 / A_DAY)
PROXIES = ("127.0.0.0/8",)
CHECKED = health_pb2.HealthCheckRequest()


@pytest.fixture
def for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are held back for longer than any test takes."""
    monkeypatch.setattr(strangers, "REFUSAL_SECONDS", (A_DAY, A_DAY))


def through(address: str, key: str = "") -> tuple[tuple[str, str], ...]:
    """The metadata of a call that a proxy hands on."""
    return (*(by(key) if key else ()), ("x-forwarded-for", address))


async def reflected(calls: Calls, metadata: Any) -> Any:
    """The answer to a question about the server, or how that ended."""
    stub = reflection_pb2_grpc.ServerReflectionStub(calls.channel)
    questions = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    return await outcome(stub.ServerReflectionInfo(questions, metadata=metadata).read())


async def test_each_address_has_its_rate(warehouse_database_url: str, for_ever: None) -> None:
    """Whatever it asks for; behind a trusted proxy it hears at once that it was too often."""
    metrics = f"127.0.0.1:{free_port()}"
    settings = {"open_calls": ONE_A_DAY, "trusted_proxies": PROXIES, "metrics_listen": metrics}
    async with guarded(warehouse_database_url, **settings) as port, calling(f"127.0.0.1:{port}") as calls:
        kinds: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "health": lambda metadata: outcome(calls.health.Check(CHECKED, metadata=metadata)),
            "reflection": lambda metadata: reflected(calls, metadata),
            "refused": lambda metadata: outcome(calls.holds.CheckStock(QUESTION, metadata=metadata)),
            "guessed": lambda metadata: outcome(calls.holds.CheckStock(QUESTION, metadata=(*metadata, *by("guess")))),
        }
        for number, (first, ask) in enumerate(kinds.items()):
            here = through(f"203.0.113.{number}")
            before = await ask(here)
            assert not isinstance(before, No) or before.code == "UNAUTHENTICATED", first
            for again in kinds.values():
                no = await again(here)
                assert (no.code, no.reason, no.retry_seconds) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED", A_DAY), first
            # Who shows a key is not counted, wherever it is.
            for _ in range(3):
                health = await calls.health.Check(CHECKED, metadata=through(f"203.0.113.{number}", "shop"))
                assert health.status == health_pb2.HealthCheckResponse.SERVING
        with await asyncio.to_thread(urllib.request.urlopen, f"http://{metrics}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        assert 'warehouse_limited_total{bound="open_calls_per_second"} 16.0' in lines


@pytest.mark.parametrize("path", [CHECK, RESERVE])
async def test_who_calls_without_pause_waits(warehouse_database_url: str, for_ever: None, path: str) -> None:
    """The refusal is late, so that no further call of a hundred at once comes meanwhile."""
    over = threading.Event()
    async with guarded(warehouse_database_url, open_calls=ONE_A_DAY) as port, known_to(port) as shop:
        attacking = asyncio.create_task(asyncio.to_thread(call_again_and_again, port, path, 100, over))
        for _ in range(100):
            assert await shop.is_answered()
        over.set()
    # The stop of the server answers the others.
    assert await attacking <= 1


async def test_what_is_held_back_is_bounded(
    warehouse_database_url: str, for_ever: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a call that waits is taken back."""
    monkeypatch.setattr(strangers, "HELD_MAX", 5)
    async with (
        guarded(warehouse_database_url, open_calls=ONE_A_DAY) as port,
        calling(f"127.0.0.1:{port}") as calls,
    ):
        assert not isinstance(await outcome(calls.health.Check(CHECKED)), No)
        for _ in range(5):
            assert (await outcome(calls.health.Check(CHECKED, timeout=0.2))).code == "DEADLINE_EXCEEDED"
        for _ in range(5):
            assert (await outcome(calls.health.Check(CHECKED, timeout=5))).code == "RESOURCE_EXHAUSTED"


async def test_probes_are_answered_by_default(warehouse_database_url: str) -> None:
    """As fast as they come, a hundred from one address."""
    async with guarded(warehouse_database_url) as port, calling(f"127.0.0.1:{port}") as calls:
        for _ in range(100):
            assert await calls.status() == health_pb2.HealthCheckResponse.SERVING
