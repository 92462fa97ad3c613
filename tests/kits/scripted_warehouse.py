"""Servers on real sockets for the tests of the client: one that misbehaves by script, and one behind a proxy."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from stockwarden_client import ClientSettings, line
from stockwarden_client.v1 import warehouse_pb2
from tests.kits.tcp_proxy import TcpProxy, proxied

Context: TypeAlias = "grpc.aio.ServicerContext[warehouse_pb2.ReserveRequest, warehouse_pb2.ReserveResponse]"
Act = Callable[[Context], Awaitable[None]]
LINES = [line(1, 1, 2)]
SETTINGS = ClientSettings(
    deadline_seconds=5, attempt_timeout_seconds=0.5, retry_wait_initial_seconds=0.01, retry_wait_max_seconds=0.05
)


class Scripted:
    """Does one act of its script per call, then answers."""

    def __init__(self, *script: Act) -> None:
        self.script = list(script)
        self.request_ids: list[str] = []
        self.metadata: dict[str, str] = {}

    async def reserve(self, request: warehouse_pb2.ReserveRequest, context: Context) -> warehouse_pb2.ReserveResponse:
        self.request_ids.append(request.request_id)
        self.metadata = {str(name): str(value) for name, value in context.invocation_metadata() or ()}
        if self.script:
            await self.script.pop(0)(context)
        reservation = warehouse_pb2.Reservation(reservation_id="r-1", order_id=request.order_id)
        return warehouse_pb2.ReserveResponse(reservation=reservation)


def fail(code: grpc.StatusCode, retry_after_seconds: float = 0) -> Act:
    async def act(context: Context) -> None:
        packed = Any()
        delay = Duration(nanos=int(retry_after_seconds * 1e9))
        packed.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=code.value[0], message="not now", details=[packed])
        await context.abort(code, "not now", (("grpc-status-details-bin", status.SerializeToString()),))

    return act


async def lose_the_answer(_context: Context) -> None:
    await asyncio.sleep(30)


@asynccontextmanager
async def serving(scripted: Scripted, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server()
    reserve = grpc.unary_unary_rpc_method_handler(
        scripted.reserve,
        request_deserializer=warehouse_pb2.ReserveRequest.FromString,
        response_serializer=warehouse_pb2.ReserveResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler("warehouse.v1.WarehouseService", {"Reserve": reserve})
    server.add_generic_rpc_handlers((handler,))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


QUICK = ClientSettings(
    deadline_seconds=0.4,
    attempt_timeout_seconds=0.4,
    retry_wait_initial_seconds=0.01,
    probe_timeout_seconds=0.3,
)


@asynccontextmanager
async def behind_a_proxy(delay_seconds: float = 0) -> AsyncIterator[TcpProxy]:
    """A server that answers Reserve and questions for its health, and a proxy before it."""

    async def reserve(request: warehouse_pb2.ReserveRequest, _context: object) -> warehouse_pb2.ReserveResponse:
        return warehouse_pb2.ReserveResponse(reservation=warehouse_pb2.Reservation(order_id=request.order_id))

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        reserve,
        request_deserializer=warehouse_pb2.ReserveRequest.FromString,
        response_serializer=warehouse_pb2.ReserveResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("warehouse.v1.WarehouseService", {"Reserve": handler}),)
    )
    servicer = health.aio.HealthServicer()
    await servicer.set("warehouse.v1.WarehouseService", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with proxied(f"127.0.0.1:{port}", delay_seconds) as proxy:
            yield proxy
    finally:
        await server.stop(None)
