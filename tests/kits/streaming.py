"""A service of the tests' own with methods that are answered by a stream, served by a real warehouse beside its own."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from tests.kits.secrets_used import hashed, key_of
from tests.kits.warehouse_kit import plain_logs
from warehouse.auth import ApiKey, Keyring, Role
from warehouse.rpc.edge import Caller
from warehouse.rpc.streams import Streams, stream
from warehouse.server import running
from warehouse.settings import WarehouseSettings
from warehouse.stock.refusals import Reason, Refusal
from warehouse.validation import Checks

SERVICE = "tests.v1.TickService"
TICK, FOLLOW = f"/{SERVICE}/Tick", f"/{SERVICE}/Follow"
LARGE = "x" * 50_000
KEYS = (
    ApiKey(name="shop", role=Role.READER, sha256=hashed(key_of("shop"))),
    ApiKey(name="till", role=Role.ORDER, sha256=hashed(key_of("till"))),
    ApiKey(name="office", role=Role.ADMIN, sha256=hashed(key_of("office"))),
)


def by(name: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a caller with a key."""
    return (("x-api-key", key_of(name)),)


class Ticks:
    """What is asked for is what happens.

    Attributes:
        callers: of all calls that got as far as the method.
        cleaned: a message for each that was ended in the middle, and has put its things away.
    """

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.callers: list[Caller] = []
        self.cleaned: asyncio.Queue[str] = asyncio.Queue()

    @stream(Role.READER)
    async def Tick(self, request: StringValue, caller: Caller) -> AsyncGenerator[StringValue | Refusal, None]:
        """A number: so many messages; a word: see the code."""
        checks = Checks()
        checks.text("value", request.value, 20)
        checks.done()
        self.callers.append(caller)
        for number in range(int(request.value) if request.value.isdecimal() else 1):
            yield StringValue(value=str(number))
        if request.value == "refuse":
            yield Refusal(Reason.PRODUCT_NOT_FOUND, "there is no such product")
        if request.value == "break":
            raise RuntimeError("a driver's secret")
        try:
            while request.value == "flood":
                yield StringValue(value=LARGE)
            if request.value == "wait":
                await asyncio.Event().wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cleaned.put_nowait(caller.key_name)
            raise

    @stream(Role.ORDER)
    async def Follow(self, request: StringValue, caller: Caller) -> AsyncGenerator[StringValue | Refusal, None]:
        """One message, and then no further one."""
        self.callers.append(caller)
        yield request
        await asyncio.Event().wait()


class ChangingKeys(Keyring):
    """Keys that are revoked while a server runs."""

    def replace(self, *keys: ApiKey) -> None:
        """From now on these are all."""
        self._keys = keys


class Ticking:
    """The server, and a connection to it.

    Attributes:
        stop: stops the server; the connection stays.
    """

    def __init__(self, channel: grpc.aio.Channel, ticks: Ticks, stop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.channel = channel
        self.ticks = ticks
        self.stop = stop

    def tick(self, what: str, name: str = "shop", *, method: str = TICK, **options: Any) -> Any:
        """A call that has been sent."""
        return self.raw(StringValue(value=what).SerializeToString(), by(name), method=method, **options)

    def raw(self, request: bytes, metadata: Sequence[tuple[str, str]], *, method: str = TICK, **options: Any) -> Any:
        """The same, of bytes."""
        call: Any = self.channel.unary_stream(method, response_deserializer=StringValue.FromString)
        return call(request, metadata=metadata, **options)

    def silent(self, name: str = "shop") -> Any:
        """A call that sends no request yet."""
        return self.channel.stream_stream(TICK, response_deserializer=StringValue.FromString)(metadata=by(name))


@contextlib.asynccontextmanager
async def ticking(url: str, **settings: Any) -> AsyncIterator[Ticking]:
    """A warehouse with keys, and the service of the tests."""
    made: list[Ticks] = []

    def add(server: grpc.aio.Server, streams: Streams) -> None:
        made.append(ticks := Ticks(streams))
        # As generated code does it.
        handlers = {
            name: grpc.unary_stream_rpc_method_handler(
                getattr(ticks, name), StringValue.FromString, StringValue.SerializeToString
            )
            for name in ("Tick", "Follow")
        }
        server.add_registered_method_handlers(SERVICE, handlers)

    known = {"listen": "127.0.0.1:0", "sweep_seconds": 3600, "stop_grace_seconds": 1, "api_keys": KEYS, **settings}
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with plain_logs(), contextlib.AsyncExitStack() as server:
        port = await server.enter_async_context(running(WarehouseSettings(database_url=url, **known), add_more=add))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            yield Ticking(channel, made[0], server.aclose)
