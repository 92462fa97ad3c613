"""What the tests of the warehouse share: a server in this process, its stubs, what a 'no' says, direct SQL."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import pymysql
import structlog
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy.engine import make_url

from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import stock_pb2_grpc, warehouse_pb2_grpc
from stockwarden_client.v1 import warehouse_pb2 as pb
from warehouse.audit.checking import audit
from warehouse.server import running
from warehouse.settings import WarehouseSettings

ResponseT = TypeVar("ResponseT")
RESERVED = pb.RESERVATION_STATE_RESERVED
COMMITTED = pb.RESERVATION_STATE_COMMITTED
CANCELLED = pb.RESERVATION_STATE_CANCELLED
EXPIRED = pb.RESERVATION_STATE_EXPIRED
_numbers = itertools.count(1)


def fresh(prefix: str) -> str:
    """An id that no other test uses."""
    return f"{prefix}-{next(_numbers)}"


@dataclass(frozen=True)
class No:
    """How a call ended that was not answered."""

    code: str
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    retry_seconds: float | None = None


def no_of_status(status: Status, code: str) -> No:
    """A google.rpc.Status, unpacked."""
    info, invalid, retry, shortage = ErrorInfo(), BadRequest(), RetryInfo(), PreconditionFailure()
    for detail in status.details:
        for known in (info, invalid, retry, shortage):
            detail.Unpack(known)
    return No(
        code,
        info.reason,
        status.message,
        dict(info.metadata),
        tuple(violation.field for violation in invalid.field_violations),
        tuple(violation.subject for violation in shortage.violations),
        retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )


async def outcome(call: Awaitable[ResponseT]) -> ResponseT | No:
    """The answer to a call, or how it ended."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        details = trailing.get("grpc-status-details-bin", b"")
        assert isinstance(details, bytes)
        unpacked = no_of_status(Status.FromString(details), error.code().name)
        return unpacked if unpacked.message else No(error.code().name, unpacked.reason, error.details() or "")


async def refused(call: Awaitable[Any]) -> No:
    """How a call ended that must not be answered."""
    ended = await outcome(call)
    assert isinstance(ended, No), f"expected a refusal, got {ended}"
    return ended


@dataclass(frozen=True)
class Calls:
    """The stubs of one connection."""

    channel: grpc.aio.Channel
    holds: "warehouse_pb2_grpc.WarehouseServiceAsyncStub"
    stock: "stock_pb2_grpc.StockServiceAsyncStub"
    health: health_pb2_grpc.HealthStub

    async def status(self, service: str = "") -> int:
        """What the health service says."""
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return int(answer.status)

    async def keep(self, levels: Mapping[tuple[int, int], int]) -> None:
        """Make the products and warehouses of `levels`, and put that much on hand."""
        for product_id in sorted({key[0] for key in levels}):
            await self.stock.CreateProduct(
                stock.CreateProductRequest(
                    request_id=fresh("product"), product_id=product_id, sku=f"SKU-{product_id}", name="Thing"
                )
            )
        for warehouse_id in sorted({key[1] for key in levels}):
            await self.stock.CreateWarehouse(
                stock.CreateWarehouseRequest(
                    request_id=fresh("warehouse"), warehouse_id=warehouse_id, code=f"WH-{warehouse_id}"
                )
            )
        for (product_id, warehouse_id), quantity in levels.items():
            await self.stock.AddStock(
                stock.AddStockRequest(
                    request_id=fresh("stock"), product_id=product_id, warehouse_id=warehouse_id, quantity=quantity
                )
            )

    async def hold(self, *lines: tuple[int, int, int], **fields: Any) -> pb.Reservation:
        """Reserve `lines` (product, warehouse, quantity); the reservation."""
        return (await self.holds.Reserve(reserve(*lines, **fields))).reservation

    async def level(self, product_id: int = 1, warehouse_id: int = 1) -> tuple[int, int]:
        """(on_hand, reserved)."""
        request = stock.GetInventoryRequest(product_id=product_id, warehouse_id=warehouse_id)
        found = (await self.stock.GetInventory(request)).stock_level
        return found.on_hand, found.reserved

    async def state(self, reservation_id: str) -> int:
        """A reservation's state."""
        request = pb.GetReservationRequest(reservation_id=reservation_id)
        return (await self.holds.GetReservation(request)).reservation.state


def lines(*triples: tuple[int, int, int]) -> list[pb.Line]:
    """Lines of (product, warehouse, quantity)."""
    return [pb.Line(product_id=a, warehouse_id=b, quantity=c) for a, b, c in triples]


def reserve(*triples: tuple[int, int, int], ttl_seconds: int | None = None, **fields: Any) -> pb.ReserveRequest:
    """A Reserve of `triples`, with a fresh request id and order id unless given."""
    values = {"request_id": fresh("request"), "order_id": fresh("order"), **fields}
    ttl = None if ttl_seconds is None else Duration(seconds=ttl_seconds)
    return pb.ReserveRequest(lines=lines(*triples), ttl=ttl, **values)


def commit(**fields: Any) -> pb.CommitRequest:
    """A Commit with a fresh request id unless given."""
    return pb.CommitRequest(**{"request_id": fresh("request"), **fields})


def cancel(**fields: Any) -> pb.CancelRequest:
    """A Cancel with a fresh request id unless given."""
    return pb.CancelRequest(**{"request_id": fresh("request"), **fields})


def extend(reservation_id: str, seconds: int, **fields: Any) -> pb.ExtendRequest:
    """An Extend with a fresh request id unless given."""
    values = {"request_id": fresh("request"), **fields}
    return pb.ExtendRequest(reservation_id=reservation_id, ttl=Duration(seconds=seconds), **values)


@contextlib.asynccontextmanager
async def calling(
    target: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (("grpc.use_local_subchannel_pool", 1),),
) -> AsyncIterator[Calls]:
    """Stubs for the server at `target`, on a connection of their own."""
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options)
    async with channel:
        yield Calls(
            channel,
            warehouse_pb2_grpc.WarehouseServiceStub(channel),
            stock_pb2_grpc.StockServiceStub(channel),
            health_pb2_grpc.HealthStub(channel),
        )


@contextlib.asynccontextmanager
async def plain_logs() -> AsyncIterator[None]:
    """Tracebacks as the services write them: the coloured ones of a terminal take seconds each."""
    before = structlog.get_config()
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
    try:
        yield
    finally:
        structlog.configure(**before)


@contextlib.asynccontextmanager
async def serving(url: str, **settings: Any) -> AsyncIterator[Calls]:
    """A server in this process, and stubs for it. Unless set, it never sweeps by itself."""
    known = {"listen": "127.0.0.1:0", "sweep_seconds": 3600, "stop_grace_seconds": 1, **settings}
    async with (
        plain_logs(),
        running(WarehouseSettings(database_url=url, **known)) as port,
        calling(f"127.0.0.1:{port}") as calls,
    ):
        yield calls


@contextlib.contextmanager
def connection(url: str) -> Iterator["pymysql.Connection[pymysql.cursors.Cursor]"]:
    """A plain connection to the database of `url`, in autocommit mode."""
    parsed = make_url(url)
    made = pymysql.connect(
        host=parsed.host or "127.0.0.1",
        port=parsed.port or 3306,
        user=parsed.username,
        password=str(parsed.password or ""),
        database=parsed.database,
        autocommit=True,
        ssl_disabled=True,  # making a TLS context that is not needed would take 0.1 s each time
    )
    try:
        yield made
    finally:
        made.close()


def sql(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement directly on the database; its rows."""
    with connection(url) as made, made.cursor() as cursor:
        cursor.execute(statement, values or None)
        return list(cursor.fetchall())


def scalar(url: str, statement: str, *values: Any) -> Any:
    """The one value that a statement gives."""
    return sql(url, statement, *values)[0][0]


async def assert_clean(url: str) -> None:
    """The audit finds nothing wrong."""
    report = await audit(url)
    wrong = [(check.title, check.findings) for check in report.checks if check.findings]
    assert report.is_clean, wrong


async def make_overdue(url: str, *reservation_ids: str) -> None:
    """Let these holds (all, if none is named) have expired a second ago, as if they were made for that long."""
    where = "state = 'RESERVED'"
    if reservation_ids:
        where += f" AND reservation_id IN ({', '.join(['%s'] * len(reservation_ids))})"
    # In a thread: the servers in this process must be able to let go of the rows.
    await asyncio.to_thread(
        sql,
        url,
        "UPDATE reservations SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND,"
        f" created_at = created_at - INTERVAL 1 DAY WHERE {where}",
        *reservation_ids,
    )


async def until_someone_waits_for_a_lock(url: str) -> None:
    """Returns once a transaction waits for a row that another one holds; fails after 5 seconds."""
    query = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    deadline = time.monotonic() + 5
    while not await asyncio.to_thread(scalar, url, query):
        assert time.monotonic() < deadline, "nobody waits for a lock"
        # The table is a cache that the server renews only after 0.1 s without readers.
        await asyncio.sleep(0.15)


@contextlib.asynccontextmanager
async def nobody_reads(url: str, table: str) -> AsyncIterator[None]:
    """Whoever reads the table waits."""
    with connection(url) as made, made.cursor() as cursor:
        await asyncio.to_thread(cursor.execute, f"LOCK TABLES {table} WRITE")
        yield
        await asyncio.to_thread(cursor.execute, "UNLOCK TABLES")
