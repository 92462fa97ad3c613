"""The calls that clients keep open for long, health watches and reflection: they end as soon as the server stops.

The libraries' own servicers know no end: a server that stops would wait for each of them as long as it may.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from warehouse.rpc.ending import Context, end_call, first_of
from warehouse.rpc.entrance import OpenCalls
from warehouse.rpc.incoming import PARSED_AT_ONCE_BYTES, Unread, reader

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNREADABLE = "this is no message of this method"
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The gRPC health service. Once it has begun to stop, everything is NOT_SERVING, and no watch stays open."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._is_stopping = False

    def set(self, service: str, status: int) -> None:
        """From now on this is how `service` is ("": the whole server)."""
        if not self._is_stopping:
            self._statuses[service] = status
            self._tell()

    def stop(self) -> None:
        """Say a last NOT_SERVING to all watches, and end them."""
        self._is_stopping = True
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._tell()

    async def Check(self, request: Any, context: Context) -> Any:
        """How a service is now."""
        if isinstance(request, Unread):
            await end_call(context, grpc.StatusCode.INVALID_ARGUMENT, UNREADABLE)
        status = self._statuses.get(request.service)
        if status is None:
            await end_call(context, grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, questions: AsyncIterable[Any], context: Context) -> AsyncIterator[Any]:
        """How a service is, now and whenever that changes."""
        told, request = None, await first_of(questions)
        if request is None:
            await end_call(context, grpc.StatusCode.INVALID_ARGUMENT, "the question did not come")
        if isinstance(request, Unread):
            await end_call(context, grpc.StatusCode.INVALID_ARGUMENT, UNREADABLE)
        while True:
            changed, is_last = self._changed, self._is_stopping
            status = self._statuses.get(request.service, _UNKNOWN)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            if is_last:
                await end_call(context, grpc.StatusCode.UNAVAILABLE, "this server is stopping")
            await changed.wait()

    def methods(self, opened: OpenCalls) -> Mapping[str, Any]:
        """Its methods for a server, by name, bounded."""
        ask = reader(health_pb2.HealthCheckRequest.FromString, PARSED_AT_ONCE_BYTES)
        tell = health_pb2.HealthCheckResponse.SerializeToString
        return {
            "Check": grpc.stream_unary_rpc_method_handler(opened.answering(self.Check), ask, tell),
            "Watch": grpc.stream_stream_rpc_method_handler(opened.streaming(self.watch), ask, tell),
        }

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _v1_of_reflection() -> str:
    """Make v1 of the reflection service known to protobuf: it is v1alpha under another name. Gives its full name.

    The library has v1alpha only (https://github.com/grpc/grpc/issues/38576); clients ask for v1 first.
    """
    name: str = reflection.SERVICE_NAME.replace("v1alpha", "v1")
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(name)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file = json_format.Parse(json_format.MessageToJson(file).replace("v1alpha", "v1"), type(file)())
        file.name = "grpc/reflection/v1/reflection.proto"
        file.options.ClearField("deprecated")
        pool.AddSerializedFile(file.SerializeToString())
    return name


REFLECTION_SERVICES = (_v1_of_reflection(), reflection.SERVICE_NAME)
"""The same one, as newer clients call it and as older ones do."""


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """What the server can do, told to clients that ask; a client that stops asking does not hold up a stop.

    Args:
        services: besides this one.
    """

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__((*services, *REFLECTION_SERVICES))
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the open calls, once what they asked is answered."""
        self._stopping.set()

    def methods(self, opened: OpenCalls) -> Mapping[str, Any]:
        """Its methods for a server, by name, bounded; the messages of both versions are the same bytes."""
        ask = reader(reflection_pb2.ServerReflectionRequest.FromString, PARSED_AT_ONCE_BYTES)
        tell = reflection_pb2.ServerReflectionResponse.SerializeToString
        info = grpc.stream_stream_rpc_method_handler(opened.streaming(self.ServerReflectionInfo), ask, tell)
        return {"ServerReflectionInfo": info}

    async def ServerReflectionInfo(self, request_iterator: AsyncIterable[Any], context: Context) -> AsyncIterator[Any]:
        """Answer questions until there are no more, or the server stops."""
        questions = self._until_stop(request_iterator, context)
        async for answer in super().ServerReflectionInfo(questions, context):
            yield answer

    async def _until_stop(self, questions: AsyncIterable[Any], context: Context) -> AsyncIterator[Any]:
        asked = aiter(questions)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while True:
                question = asyncio.ensure_future(_next(asked))
                await asyncio.wait((question, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not question.done():
                    question.cancel()
                    return
                if (found := question.result()) is None:
                    return
                if isinstance(found, Unread):
                    await end_call(context, grpc.StatusCode.INVALID_ARGUMENT, UNREADABLE)
                yield found
        finally:
            stopping.cancel()


async def _next(questions: AsyncIterator[Any]) -> Any:
    return await anext(questions, None)
