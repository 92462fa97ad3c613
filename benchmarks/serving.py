"""How the yardsticks serve: the plain gRPC stack of the warehouse, without anything around the handlers."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

Context = grpc.aio.ServicerContext[Any, Any]
Method = tuple[Callable[[Any, Context], Awaitable[Message]], type[Message]]
"""What answers a call, and the message it takes."""

CALLS_MAX = 16_384
OPTIONS = [
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
]
"""As the warehouse has them, as far as they could cost something."""
STOP_GRACE_SECONDS = 2.0


async def serve(methods: Mapping[str, Method], address: str) -> None:
    """Serve these methods of the WarehouseService on host:port until SIGTERM or SIGINT."""
    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(
            function,
            request_deserializer=request.FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )
        for name, (function, request) in methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("warehouse.v1.WarehouseService", handlers),))
    server.add_insecure_port(address)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    await stop.wait()
    await server.stop(STOP_GRACE_SECONDS)
