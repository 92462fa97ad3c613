"""The server around the calls: who may, over which wire, until when, how many, and how it stops."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from development.local_server import LocalServer
from service_kit.actors import actor_of
from service_kit.batcher import BatcherSettings
from service_kit.database import migrating
from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.certificates import Authority
from tests.kits.processes import ROOT, Processes
from tests.kits.secrets_used import hashed, key_of
from tests.kits.warehouse_kit import (
    Calls,
    No,
    assert_clean,
    calling,
    connection,
    no_of_status,
    outcome,
    refused,
    reserve,
    scalar,
    serving,
    sql,
)
from tests.kits.warehouse_roles import LADDER, NEEDED
from warehouse.auth import ApiKey, Role
from warehouse.rpc.tls import LOOK_SECONDS
from warehouse.server import SERVICES, running
from warehouse.settings import WarehouseSettings

pytestmark = pytest.mark.sql
BUF = ROOT / "node_modules/.bin/buf"
LONG_SECONDS = 60
REFLECTION_VERSIONS = ("v1", "v1alpha")
KEYS = tuple(ApiKey(name=f"the-{role}", role=role, sha256=hashed(key_of(role))) for role in Role)


def methods() -> dict[str, tuple[str, type[Message]]]:
    """Every method of both services: its path and the class of its request."""
    found = {}
    for module in (pb, stock):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                request = getattr(module, method.input_type.name)
                found[method.name] = (f"/{service.full_name}/{method.name}", request)
    return found


async def test_each_method_asks_for_its_role(warehouse_database_url: str) -> None:
    needed = {method: role for role, names in NEEDED.items() for method in names}
    assert needed.keys() == methods().keys()
    async with serving(warehouse_database_url, api_keys=KEYS, wrong_keys_per_minute_max=1000) as calls:
        for name, (path, request) in methods().items():
            call: Any = calls.channel.unary_unary(path, request_serializer=request.SerializeToString)
            for metadata in ((), (("x-api-key", "wrong"),), (("x-api-key", ""),)):
                no = await refused(call(request(), metadata=metadata))
                assert (no.code, no.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED"), name
            for role in LADDER:
                ended = await outcome(call(request(), metadata=(("x-api-key", key_of(role)),)))
                denied = isinstance(ended, No) and ended.code == "PERMISSION_DENIED"
                assert denied is (LADDER.index(role) < LADDER.index(needed[name])), (name, role)
        assert await calls.status() == health_pb2.HealthCheckResponse.SERVING


async def test_an_order_key_gives_back_what_was_sold_and_adds_nothing_else(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 10})
    request = stock.AddStockRequest(request_id="back", product_id=1, warehouse_id=1, quantity=1)
    async with serving(warehouse_database_url, api_keys=KEYS) as calls:
        shown = (("x-api-key", key_of("order")),)
        no = await refused(calls.stock.AddStock(request, metadata=shown))
        assert (no.code, dict(no.metadata)) == (
            "PERMISSION_DENIED",
            {"key": "the-order", "role": "order", "needed": "admin"},
        )
        request.type = stock.MOVEMENT_TYPE_RETURNED
        assert (await calls.stock.AddStock(request, metadata=shown)).stock_level.on_hand == 11
        no = await refused(calls.stock.AddStock(request, metadata=(("x-api-key", key_of("reader")),)))
        assert dict(no.metadata)["needed"] == "order"


async def test_a_caller_is_told_who_it_is_and_what_time_it_is(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url, api_keys=KEYS) as calls:
        found = await calls.holds.GetCaller(pb.GetCallerRequest(), metadata=(("x-api-key", key_of("order")),))
        assert (found.name, found.role) == ("the-order", "order")
        off = scalar(warehouse_database_url, "SELECT UTC_TIMESTAMP(6)") - found.now.ToDatetime()
        assert abs(off.total_seconds()) < 5
    async with serving(warehouse_database_url) as calls:
        found = await calls.holds.GetCaller(pb.GetCallerRequest())
        assert (found.name, found.role) == ("anonymous", "admin")


async def test_the_name_of_the_key_and_on_whose_behalf_are_in_the_ledger(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 10})
    async with serving(warehouse_database_url, api_keys=KEYS) as calls:
        key = ("x-api-key", key_of("order"))
        await calls.holds.Reserve(reserve((1, 1, 1)), metadata=(key,))
        people = [reserve((1, 1, 1), actor="Zoë"), reserve((1, 1, 1)), reserve((1, 1, 1), actor="x" * 63 + "y")]
        await calls.holds.BatchReserve(pb.BatchReserveRequest(requests=people), metadata=(key, ("x-actor", "shop")))
        bad = await refused(calls.holds.Reserve(reserve((1, 1, 1), actor="x" * 65), metadata=(key,)))
        assert (bad.code, bad.fields) == ("INVALID_ARGUMENT", ("actor",))
    query = "SELECT actor FROM movements WHERE type = 'RESERVED' ORDER BY sequence"
    actors = [actor for (actor,) in sql(warehouse_database_url, query)]
    # Names that are too long and begin alike stay different.
    long = [actor_of("the-order", "x" * 63 + last) for last in "yz"]
    assert actors == ["the-order", "the-order/Zoë", "the-order/shop", long[0]]
    assert long[0] != long[1]


def client_credentials(ca: Path, pair: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    chain, key = (pair[0].read_bytes(), pair[1].read_bytes()) if pair else (None, None)
    return grpc.ssl_channel_credentials(ca.read_bytes(), key, chain)


@pytest.mark.parametrize("mutual", [False, True])
async def test_tls(warehouse_database_url: str, tmp_path: Path, mutual: bool) -> None:
    ours, strangers = Authority(tmp_path / "ours"), Authority(tmp_path / "strangers")
    certificate, key = ours.issue("server")
    settings = WarehouseSettings(
        database_url=warehouse_database_url,
        listen="127.0.0.1:0",
        tls_certificate=certificate,
        tls_key=key,
        tls_client_ca=ours.certificate if mutual else None,
    )
    good = client_credentials(ours.certificate, ours.issue("client") if mutual else None)
    bad = [None, client_credentials(strangers.certificate)]
    if mutual:
        bad += [
            client_credentials(ours.certificate),
            client_credentials(ours.certificate, strangers.issue("client")),
        ]
    request = pb.CheckStockRequest(items=[pb.Line(product_id=1, warehouse_id=1, quantity=1)])
    async with running(settings) as port:
        async with calling(f"127.0.0.1:{port}", credentials=good) as calls:
            assert not (await calls.holds.CheckStock(request)).sufficient
        for credentials in bad:
            async with calling(f"127.0.0.1:{port}", credentials=credentials) as calls:
                assert (await refused(calls.holds.CheckStock(request, timeout=5))).code == "UNAVAILABLE"


async def test_a_caller_out_of_time_has_no_effect(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 10})
        with connection(warehouse_database_url) as rival, rival.cursor() as cursor:
            rival.begin()
            cursor.execute("SELECT * FROM stock_levels FOR UPDATE")
            first = asyncio.ensure_future(outcome(calls.holds.Reserve(reserve((1, 1, 1)))))
            await asyncio.wait([first], timeout=0.2)
            # These wait behind the first, which is at the locked row.
            late = await asyncio.gather(
                *(refused(calls.holds.Reserve(reserve((1, 1, 1)), timeout=0.2)) for _ in range(5))
            )
            given_up = calls.holds.Reserve(reserve((1, 1, 1)))
            given_up.cancel()
            rival.rollback()
        # Or they are told shortly before that what they need is locked.
        assert {no.code for no in late} <= {"DEADLINE_EXCEEDED", "ABORTED"}
        assert not isinstance(await first, No)
        await calls.hold((1, 1, 1))
        assert await calls.level() == (10, 2)


async def test_too_many_are_turned_away_at_once(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url, batcher=BatcherSettings(queue_size_max=3, batch_size_max=2)) as calls:
        await calls.keep({(1, 1): 100})
        with connection(warehouse_database_url) as rival, rival.cursor() as cursor:
            rival.begin()
            cursor.execute("SELECT * FROM stock_levels FOR UPDATE")
            pending = [asyncio.ensure_future(outcome(calls.holds.Reserve(reserve((1, 1, 1))))) for _ in range(20)]
            while sum(item.done() for item in pending) < 15:
                await asyncio.wait([item for item in pending if not item.done()], return_when="FIRST_COMPLETED")
            rival.rollback()
        ends = await asyncio.gather(*pending)
        turned_away = [ended for ended in ends if isinstance(ended, No)]
        assert {(no.code, no.reason) for no in turned_away} == {("RESOURCE_EXHAUSTED", "TOO_MANY_REQUESTS")}
        assert all(no.retry_seconds for no in turned_away)
        assert await calls.level() == (100, 20 - len(turned_away))
        many = pb.BatchReserveRequest(requests=[reserve((1, 1, 1)) for _ in range(10)])
        results = (await calls.holds.BatchReserve(many)).results
        reasons = {no_of_status(item.error, "").reason for item in results if item.HasField("error")}
        assert reasons == {"TOO_MANY_REQUESTS"}
        assert await calls.level() == (
            100,
            20 - len(turned_away) + sum(item.HasField("reservation") for item in results),
        )


async def test_calls_past_the_most_in_flight_are_told_when_to_come_again(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url, calls_max=3) as calls:
        await calls.keep({(1, 1): 100})
        with connection(warehouse_database_url) as rival, rival.cursor() as cursor:
            rival.begin()
            cursor.execute("SELECT * FROM stock_levels FOR UPDATE")
            pending = [asyncio.ensure_future(outcome(calls.holds.Reserve(reserve((1, 1, 1))))) for _ in range(5)]
            while sum(item.done() for item in pending) < 2:
                await asyncio.wait([item for item in pending if not item.done()], return_when="FIRST_COMPLETED")
            check = pb.CheckStockRequest(items=[pb.Line(product_id=1, warehouse_id=1, quantity=1)])
            late = await refused(calls.holds.CheckStock(check))
            rival.rollback()
        turned_away = [late, *(ended for ended in await asyncio.gather(*pending) if isinstance(ended, No))]
        assert {(no.code, no.reason) for no in turned_away} == {("RESOURCE_EXHAUSTED", "TOO_MANY_REQUESTS")}
        assert all(no.retry_seconds for no in turned_away)
        assert len(turned_away) == 3
        assert (await calls.holds.CheckStock(check)).sufficient
        assert await calls.level() == (100, 3)


async def test_health_is_told_by_service_and_reflection_shows_them(warehouse_database_url: str) -> None:
    settings = WarehouseSettings(database_url=warehouse_database_url, listen="127.0.0.1:0")
    async with running(settings) as port:
        async with calling(f"127.0.0.1:{port}") as calls:
            for service in ("", *SERVICES):
                assert await calls.status(service) == health_pb2.HealthCheckResponse.SERVING
            assert (await refused(calls.health.Check(health_pb2.HealthCheckRequest(service="x")))).code == "NOT_FOUND"
        for version in REFLECTION_VERSIONS:
            names, files, methods_seen = await asyncio.to_thread(_reflect, f"127.0.0.1:{port}", version)
            reflecting = {f"grpc.reflection.{each}.ServerReflection" for each in REFLECTION_VERSIONS}
            assert names == {*SERVICES, "grpc.health.v1.Health", *reflecting}
            assert files == {"warehouse/v1/stock.proto", "warehouse/v1/warehouse.proto"}
            assert methods_seen == set(methods())


@pytest.mark.skipif(not BUF.exists(), reason="`make check-protos` installs buf")
@pytest.mark.parametrize("chosen", [("--reflect-protocol=grpc-v1",), ("--reflect-protocol=grpc-v1alpha",), ()])
async def test_a_client_in_another_language_reflects(warehouse_database_url: str, chosen: Sequence[str]) -> None:
    """By both versions, and by the one that it asks for first: that is found."""
    async with running(WarehouseSettings(database_url=warehouse_database_url, listen="127.0.0.1:0")) as port:
        process = await asyncio.create_subprocess_exec(
            *(str(BUF), "curl", "--http2-prior-knowledge", "--protocol=grpc", "--verbose", *chosen, "--list-methods"),
            f"http://127.0.0.1:{port}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        listed, said = await process.communicate()
    assert process.returncode == 0, said
    assert {path.removeprefix("/") for path, _request in methods().values()} <= set(listed.decode().split())
    asked = set(re.findall(r"POST /grpc\.reflection\.(\w+)\.", said.decode()))
    assert asked == {chosen[0].rpartition("-")[2] if chosen else "v1"}


class _OfVersion:
    """A channel on which the library's client, which knows v1alpha only, asks a version of reflection."""

    def __init__(self, channel: grpc.Channel, version: str) -> None:
        self._channel = channel
        self._version = version

    def stream_stream(self, path: str, *arguments: Any, **options: Any) -> Any:
        """The method of that version."""
        return self._channel.stream_stream(path.replace("v1alpha", self._version), *arguments, **options)


def _reflect(target: str, version: str) -> tuple[set[str], set[str], set[str]]:
    with grpc.insecure_channel(target) as channel:
        database = ProtoReflectionDescriptorDatabase(cast("grpc.Channel", _OfVersion(channel, version)))
        pool = DescriptorPool(database)
        services = [pool.FindServiceByName(name) for name in SERVICES]
        # What is listed can be described: itself, too.
        for name in database.get_services():
            described = pool.FindServiceByName(name)
            assert [method.name for method in described.methods]
        found = {method.name for service in services for method in service.methods}
        return set(database.get_services()), {service.file.name for service in services}, found


async def test_a_stop_in_good_order(warehouse_database_url: str, processes: Processes) -> None:
    """SIGTERM under load: calls in flight end well, new ones are turned away, the exit status is 0."""
    server, target = processes.warehouse(warehouse_database_url)
    async with calling(target) as calls:
        await calls.keep({(1, 1): 100_000})
        stopping = asyncio.Event()
        answered: list[str] = []
        refusals: list[No] = []

        async def shop(calls: Calls) -> None:
            while True:
                ended = await outcome(calls.holds.Reserve(reserve((1, 1, 1))))
                if isinstance(ended, No):
                    refusals.append(ended)
                    return
                answered.append(ended.reservation.reservation_id)
                if len(answered) > 200:
                    stopping.set()

        shoppers = asyncio.gather(*(shop(calls) for _ in range(30)))
        await stopping.wait()
        began = time.monotonic()
        status = await asyncio.to_thread(server.stop)
        await shoppers
    assert status == 0
    assert time.monotonic() - began < 5
    # CANCELLED is what gRPC makes of calls that came in between; the client library takes both for the same.
    assert {no.code for no in refusals} <= {"UNAVAILABLE", "CANCELLED"}
    kept = scalar(warehouse_database_url, "SELECT COUNT(*) FROM reservations")
    assert kept == len(answered)
    lines = [json.loads(line) for line in server.log_path.read_text().splitlines()]
    assert [line["event"] for line in lines][:1] == ["serving"]
    await assert_clean(warehouse_database_url)


async def test_open_watches_and_reflection_do_not_delay_a_stop(
    warehouse_database_url: str, processes: Processes
) -> None:
    server, target = processes.warehouse(warehouse_database_url, settings={"WAREHOUSE_STOP_GRACE_SECONDS": "60"})
    serving_, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    async with calling(target) as calls:
        watch = calls.health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == serving_
        asking: list[Any] = [
            calls.channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                reflection_pb2.ServerReflectionRequest.SerializeToString,
                reflection_pb2.ServerReflectionResponse.FromString,
            )()
            for version in REFLECTION_VERSIONS
        ]
        for call in asking:
            await call.write(question)
            assert (await call.read()).list_services_response.service
        began = time.monotonic()
        assert await asyncio.to_thread(server.stop, 50) == 0
        assert time.monotonic() - began < 20
        assert (await watch.read()).status == not_serving
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE
        for call in asking:
            assert await call.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    assert "Traceback" not in server.log_path.read_text()


async def test_who_asks_and_does_not_read_does_not_delay_a_stop(warehouse_database_url: str) -> None:
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[0])
    settings = WarehouseSettings(
        database_url=warehouse_database_url, listen="127.0.0.1:0", stop_grace_seconds=LONG_SECONDS
    )
    async with contextlib.AsyncExitStack() as server:
        port = await server.enter_async_context(running(settings))
        async with calling(f"127.0.0.1:{port}") as calls:
            asking: Any = reflection_pb2_grpc.ServerReflectionStub(calls.channel).ServerReflectionInfo()
            asked = 0

            async def ask() -> None:
                nonlocal asked
                while True:
                    await asking.write(question)
                    asked += 1

            task, before = asyncio.create_task(outcome(ask())), -1
            # Until there is no room for a further question: nobody takes the answers.
            while asked != before:
                before = asked
                await asyncio.sleep(0.3)
            async with asyncio.timeout(LONG_SECONDS / 2):
                await server.aclose()
            task.cancel()
            await asyncio.wait((task,))


async def test_a_watch_tells_of_each_change(own_server: LocalServer) -> None:
    url = f"{own_server.url}/watched"
    migrating.upgrade(url, "warehouse")
    async with serving(url, health_check_seconds=0.05) as calls, asyncio.timeout(60):
        watch = calls.health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[0]))
        nobody = calls.health.Watch(health_pb2.HealthCheckRequest(service="nobody"))
        assert (await nobody.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await asyncio.to_thread(own_server.kill)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await asyncio.to_thread(own_server.start)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING


async def test_renewed_certificates_are_used_without_a_restart(warehouse_database_url: str, tmp_path: Path) -> None:
    """New connections get the new certificate; a pair of which only one half is there yet leaves the old one."""
    ours, successors = Authority(tmp_path / "ours"), Authority(tmp_path / "successors")
    certificate, key = ours.issue("server")
    client_ca = tmp_path / "clients.pem"
    client_ca.write_bytes(ours.certificate.read_bytes())
    settings = WarehouseSettings(
        database_url=warehouse_database_url,
        listen="127.0.0.1:0",
        tls_certificate=certificate,
        tls_key=key,
        tls_client_ca=client_ca,
    )
    old, new = (client_credentials(one.certificate, one.issue("client")) for one in (ours, successors))

    async def is_trusted(port: int, credentials: grpc.ChannelCredentials) -> bool:
        async with calling(f"127.0.0.1:{port}", credentials=credentials) as calls:
            ended = await outcome(calls.health.Check(health_pb2.HealthCheckRequest(), timeout=5))
            return not isinstance(ended, No)

    async with running(settings) as port, asyncio.timeout(60):
        assert (await is_trusted(port, old), await is_trusted(port, new)) == (True, False)
        renewed, its_key = successors.issue("server")
        certificate.write_bytes(renewed.read_bytes())
        await asyncio.sleep(LOOK_SECONDS + 0.1)
        assert (await is_trusted(port, old), await is_trusted(port, new)) == (True, False)
        key.write_bytes(its_key.read_bytes())
        client_ca.write_bytes(successors.certificate.read_bytes())
        while not await is_trusted(port, new):  # noqa: ASYNC110 - nobody tells when the server has looked
            await asyncio.sleep(0.1)
        assert not await is_trusted(port, old)
