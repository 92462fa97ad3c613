"""A warehouse with keys in this process, and callers who must not notice an attack on it."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from stockwarden_client.v1 import warehouse_pb2 as pb
from stockwarden_client.v1 import warehouse_pb2_grpc
from tests.kits.secrets_used import hashed, key_of
from tests.kits.warehouse_kit import No, outcome
from warehouse.auth import ApiKey, Role
from warehouse.server import running
from warehouse.settings import WarehouseSettings

RESERVE = "/warehouse.v1.WarehouseService/Reserve"
SOON_SECONDS = 5


def key(name: str, role: Role = Role.ORDER) -> ApiKey:
    """A key with a name."""
    return ApiKey(name=name, role=role, sha256=hashed(key_of(name)))


def by(name: str) -> Sequence[tuple[str, str]]:
    """The metadata of a caller with a key."""
    return (("x-api-key", key_of(name)),)


KEYS = (key("shop"), key("till"), key("office", Role.ADMIN))
OTHERWISE: dict[str, Any] = {"listen": "127.0.0.1:0", "sweep_seconds": 3600, "stop_grace_seconds": 1}
QUESTION = pb.CheckStockRequest(items=[pb.Line(product_id=1, warehouse_id=1, quantity=1)])


@contextlib.asynccontextmanager
async def guarded(url: str, **settings: Any) -> AsyncIterator[int]:
    """A warehouse with keys; its port."""
    async with running(WarehouseSettings(database_url=url, **OTHERWISE, api_keys=KEYS, **settings)) as port:
        yield port


class Known:
    """A caller with a key, on a connection of its own."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self.holds: warehouse_pb2_grpc.WarehouseServiceAsyncStub = warehouse_pb2_grpc.WarehouseServiceStub(channel)
        self.name = name

    async def is_answered(self) -> bool:
        """Whether a call gets through to the stock (there is no such product)."""
        ended = await outcome(self.holds.CheckStock(QUESTION, metadata=by(self.name), timeout=SOON_SECONDS))
        return not isinstance(ended, No) or ended.code == "NOT_FOUND"


@contextlib.asynccontextmanager
async def known_to(port: int, name: str = "shop") -> AsyncIterator[Known]:
    """A caller, connected."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", (("grpc.use_local_subchannel_pool", 1),)) as channel:
        caller = Known(channel, name)
        assert await caller.is_answered()
        yield caller
