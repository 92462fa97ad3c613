"""The client library of the warehouse: everything a caller needs in one import.

    async with WarehouseClient(ClientSettings(target="127.0.0.1:50051")) as warehouse:
        try:
            hold = await warehouse.reserve("17", [line(product_id=1, warehouse_id=1, quantity=2)], ttl_seconds=900)
        except InsufficientStock as refusal:
            print(refusal.shortages)

A call is repeated, always with the same request id, while its deadline allows it: when the server is
away, restarting or overloaded, and when an answer was lost. What comes out is a protobuf
message or an exception; warehouse.client_errors draws their hierarchy.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, TypedDict, TypeVar, Unpack

import grpc
import tenacity
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import BaseModel, Field, model_validator

from generated.warehouse.v1 import stock_pb2, stock_pb2_grpc, warehouse_pb2, warehouse_pb2_grpc
from generated.warehouse.v1.stock_pb2 import MovementType, StockLevel
from generated.warehouse.v1.warehouse_pb2 import IfExpired, Line, Reservation, ReservationState
from warehouse.client_errors import (
    RETRIED,
    DeadlineExceeded,
    InsufficientStock,
    InvalidRequest,
    NotFound,
    OrderNotFound,
    PermissionDenied,
    ProductExists,
    ProductNotFound,
    Refused,
    RequestIdReused,
    ReservationCancelled,
    ReservationCommitted,
    ReservationExpired,
    ReservationNotFound,
    ReserveCancelled,
    ReservedMismatch,
    Shortage,
    StockLevelNotFound,
    Unauthenticated,
    WarehouseBroken,
    WarehouseBusy,
    WarehouseError,
    WarehouseExists,
    WarehouseFault,
    WarehouseNotFound,
    WarehouseOverloaded,
    WarehouseUnavailable,
    from_rpc_error,
    from_status,
)

ResponseT = TypeVar("ResponseT")
Observe = Callable[[str, list[tuple[str, str]]], AbstractContextManager[object]]


class ClientSettings(BaseModel):
    """Where the warehouse is, and how long to insist."""

    target: str = Field("127.0.0.1:50051", description="host:port, or several separated by commas (IP addresses then)")
    api_key: str = Field("", description="sent as x-api-key; empty: none", repr=False)
    deadline_seconds: float = Field(10, gt=0, le=600, description="for one call with all its repetitions")
    attempt_timeout_seconds: float = Field(3, gt=0, le=600, description="after this an answer counts as lost")
    retry_wait_initial_seconds: float = Field(0.02, gt=0, le=10)
    retry_wait_max_seconds: float = Field(1, gt=0, le=60)
    connections: int = Field(
        1, ge=1, le=64, description="TCP connections; more than one reach several worker processes"
    )
    keepalive_seconds: float = Field(30, ge=10, le=3600, description="silence after which a connection is tested")
    message_size_max_bytes: int = Field(4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    tls: bool = Field(False, description="encrypt; implied by the files below")
    tls_ca: Path | None = Field(None, description="PEM file of the CA; unset: the system's")
    tls_cert: Path | None = Field(None, description="PEM file with this client's certificate, for mutual TLS")
    tls_key: Path | None = Field(None, description="PEM file with its private key")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both or none")
        if self.attempt_timeout_seconds > self.deadline_seconds:
            raise ValueError("attempt_timeout_seconds must not be longer than deadline_seconds")
        return self


class CallOptions(TypedDict, total=False):
    """What every call takes besides its own arguments."""

    request_id: str
    """The idempotency key of a mutating call; a random one unless given."""
    deadline_seconds: float
    """For the call with all its repetitions, instead of the setting."""
    correlation_id: str
    """Travels into the warehouse's rows, events and logs."""
    traceparent: str
    """W3C trace context, passed on as it is."""
    actor: str
    """On whose behalf, in ASCII; the ledger names them after the key."""


def line(product_id: int, warehouse_id: int, quantity: int) -> Line:
    """`quantity` units of a product in a warehouse."""
    return Line(product_id=product_id, warehouse_id=warehouse_id, quantity=quantity)


def new_request_id() -> str:
    """A fresh idempotency key. Keep it if the call must survive this process."""
    return str(uuid.uuid4())


class WarehouseClient:
    """A connection to the warehouse, for any number of concurrent calls. Every method raises WarehouseError.

    Use it as an async context manager, or call `close`. Methods that change something are safe to repeat
    with the same `request_id`.

    Args:
        observe: gives a context manager for each call, which may add to its metadata and sees how it ended.
    """

    def __init__(self, settings: ClientSettings | None = None, observe: Observe | None = None) -> None:
        self.settings = settings or ClientSettings()
        self._observe = observe
        self._channels = [open_channel(self.settings) for _ in range(self.settings.connections)]
        self._stubs = [
            (warehouse_pb2_grpc.WarehouseServiceStub(channel), stock_pb2_grpc.StockServiceStub(channel))
            for channel in self._channels
        ]
        self._turn = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up; calls in flight end as cancelled."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def check_stock(self, items: Iterable[Line], **call: Unpack[CallOptions]) -> warehouse_pb2.CheckStockResponse:
        """What is available now. Advice only: nothing is held."""
        return await self._call(self._warehouse.CheckStock, warehouse_pb2.CheckStockRequest(items=items), call)

    async def reserve(
        self,
        order_id: str,
        lines: Iterable[Line],
        *,
        ttl_seconds: float | None = None,
        allow_partial: bool = False,
        **call: Unpack[CallOptions],
    ) -> Reservation:
        """Hold stock for an order, for `ttl_seconds` (None: the server's default).

        Raises: InsufficientStock, ProductNotFound, WarehouseNotFound, StockLevelNotFound, ReserveCancelled,
            RequestIdReused, or another WarehouseError.
        """
        request = warehouse_pb2.ReserveRequest(
            request_id=_request_id(call),
            order_id=order_id,
            lines=lines,
            ttl=None if ttl_seconds is None else _duration(ttl_seconds),
            allow_partial=allow_partial,
        )
        return (await self._call(self._warehouse.Reserve, request, call)).reservation

    async def batch_reserve(
        self, requests: Iterable[warehouse_pb2.ReserveRequest], **call: Unpack[CallOptions]
    ) -> list[Reservation | WarehouseError]:
        """Many independent holds in one call; per request the hold or why there is none. Each needs a request_id."""
        request = warehouse_pb2.BatchReserveRequest(requests=requests)
        response = await self._call(self._warehouse.BatchReserve, request, call)
        return [
            result.reservation if result.HasField("reservation") else from_status(result.error)
            for result in response.results
        ]

    async def commit(
        self,
        *,
        reservation_id: str | None = None,
        order_id: str | None = None,
        lines: Iterable[Line] = (),
        reacquire: bool = False,
        **call: Unpack[CallOptions],
    ) -> list[Reservation]:
        """Sell what a reservation, or all open holds of an order, hold; only `lines` of it if given.

        Args:
            reacquire: if the hold has expired, take the stock again where it is still there.

        Raises: ReservationNotFound, OrderNotFound, ReservationExpired, ReservationCancelled, InsufficientStock,
            RequestIdReused, or another WarehouseError.
        """
        request = warehouse_pb2.CommitRequest(
            request_id=_request_id(call),
            lines=lines,
            **_given(reservation_id=reservation_id, order_id=order_id),
            if_expired=IfExpired.IF_EXPIRED_REACQUIRE if reacquire else IfExpired.IF_EXPIRED_REFUSE,
        )
        return list((await self._call(self._warehouse.Commit, request, call)).reservations)

    async def cancel(
        self,
        *,
        reservation_id: str | None = None,
        order_id: str | None = None,
        reserve_request_id: str | None = None,
        reason: str = "",
        **call: Unpack[CallOptions],
    ) -> list[Reservation]:
        """Give held stock back: one reservation, all of an order, or what a Reserve took or would take later.

        Raises: ReservationNotFound (by reservation_id), ReservationCommitted, RequestIdReused, or another
            WarehouseError.
        """
        request = warehouse_pb2.CancelRequest(
            request_id=_request_id(call),
            reason=reason,
            **_given(reservation_id=reservation_id, order_id=order_id, reserve_request_id=reserve_request_id),
        )
        return list((await self._call(self._warehouse.Cancel, request, call)).reservations)

    async def extend(self, reservation_id: str, ttl_seconds: float, **call: Unpack[CallOptions]) -> Reservation:
        """Let a hold end `ttl_seconds` from now, or when it would have ended if that is later.

        Raises: ReservationNotFound, ReservationExpired, ReservationCommitted, ReservationCancelled,
            RequestIdReused, or another WarehouseError.
        """
        request = warehouse_pb2.ExtendRequest(
            request_id=_request_id(call), reservation_id=reservation_id, ttl=_duration(ttl_seconds)
        )
        return (await self._call(self._warehouse.Extend, request, call)).reservation

    async def get_reservation(self, reservation_id: str, **call: Unpack[CallOptions]) -> Reservation:
        """One reservation as it is now. Raises: ReservationNotFound, or another WarehouseError."""
        request = warehouse_pb2.GetReservationRequest(reservation_id=reservation_id)
        return (await self._call(self._warehouse.GetReservation, request, call)).reservation

    async def list_reservations(
        self, request: warehouse_pb2.ListReservationsRequest, **call: Unpack[CallOptions]
    ) -> warehouse_pb2.ListReservationsResponse:
        """A page of reservations by order, product or state."""
        return await self._call(self._warehouse.ListReservations, request, call)

    async def sweep_expired(self, **call: Unpack[CallOptions]) -> int:
        """Expire overdue holds now; how many there were."""
        return (await self._call(self._warehouse.SweepExpired, warehouse_pb2.SweepExpiredRequest(), call)).expired

    async def create_product(
        self, product: stock_pb2.CreateProductRequest, **call: Unpack[CallOptions]
    ) -> stock_pb2.Product:
        """Add a product; the request id may be left empty. Raises: ProductExists, RequestIdReused, WarehouseError."""
        request = _with_request_id(product, call)
        return (await self._call(self._stock.CreateProduct, request, call)).product

    async def get_products(
        self, product_ids: Iterable[int], **call: Unpack[CallOptions]
    ) -> tuple[dict[int, stock_pb2.Product], list[int]]:
        """The products found, by id, and the ids of those that don't exist."""
        request = stock_pb2.BatchGetProductsRequest(product_ids=product_ids)
        response = await self._call(self._stock.BatchGetProducts, request, call)
        return {product.product_id: product for product in response.products}, list(response.missing_product_ids)

    async def list_products(
        self, *, page_size: int = 0, page_token: str = "", skip: int = 0, **call: Unpack[CallOptions]
    ) -> stock_pb2.ListProductsResponse:
        """A page of the catalogue, by product id, `skip` products further on."""
        request = stock_pb2.ListProductsRequest(page_size=page_size, page_token=page_token, skip=skip)
        return await self._call(self._stock.ListProducts, request, call)

    async def create_warehouse(
        self, warehouse: stock_pb2.CreateWarehouseRequest, **call: Unpack[CallOptions]
    ) -> stock_pb2.Warehouse:
        """Add a stock location; the request id may be left empty.

        Raises: WarehouseExists, RequestIdReused, or another WarehouseError.
        """
        request = _with_request_id(warehouse, call)
        return (await self._call(self._stock.CreateWarehouse, request, call)).warehouse

    async def get_inventory(self, product_id: int, warehouse_id: int, **call: Unpack[CallOptions]) -> StockLevel:
        """One stock level. Raises: ProductNotFound, WarehouseNotFound, StockLevelNotFound, WarehouseError."""
        request = stock_pb2.GetInventoryRequest(product_id=product_id, warehouse_id=warehouse_id)
        return (await self._call(self._stock.GetInventory, request, call)).stock_level

    async def batch_get_inventory(
        self, keys: Iterable[tuple[int, int]], **call: Unpack[CallOptions]
    ) -> stock_pb2.BatchGetInventoryResponse:
        """The stock levels of many (product_id, warehouse_id) pairs; missing ones are named."""
        wanted = [stock_pb2.StockLevelKey(product_id=product, warehouse_id=warehouse) for product, warehouse in keys]
        request = stock_pb2.BatchGetInventoryRequest(keys=wanted)
        return await self._call(self._stock.BatchGetInventory, request, call)

    async def list_inventory(self, product_id: int, **call: Unpack[CallOptions]) -> list[StockLevel]:
        """All stock of a product, preferred warehouses first. Raises: ProductNotFound, or another WarehouseError."""
        request = stock_pb2.ListInventoryRequest(product_id=product_id)
        return list((await self._call(self._stock.ListInventory, request, call)).stock_levels)

    async def add_stock(
        self,
        product_id: int,
        warehouse_id: int,
        quantity: int,
        *,
        returned: bool = False,
        reference: str = "",
        notes: str = "",
        **call: Unpack[CallOptions],
    ) -> stock_pb2.AddStockResponse:
        """Put units on hand. Raises: ProductNotFound, WarehouseNotFound, RequestIdReused, or another WarehouseError."""
        request = stock_pb2.AddStockRequest(
            request_id=_request_id(call),
            product_id=product_id,
            warehouse_id=warehouse_id,
            quantity=quantity,
            type=MovementType.MOVEMENT_TYPE_RETURNED if returned else MovementType.MOVEMENT_TYPE_STOCK_IN,
            reference=reference,
            notes=notes,
        )
        return await self._call(self._stock.AddStock, request, call)

    async def remove_stock(
        self, removal: stock_pb2.RemoveStockRequest, **call: Unpack[CallOptions]
    ) -> stock_pb2.RemoveStockResponse:
        """Take free units away; the request id may be left empty.

        Raises: InsufficientStock, ProductNotFound, WarehouseNotFound, StockLevelNotFound, RequestIdReused, or
            another WarehouseError.
        """
        return await self._call(self._stock.RemoveStock, _with_request_id(removal, call), call)

    async def update_inventory(
        self, count: stock_pb2.UpdateInventoryRequest, **call: Unpack[CallOptions]
    ) -> stock_pb2.UpdateInventoryResponse:
        """Set the counted quantity; the request id may be left empty.

        Raises: InsufficientStock, ReservedMismatch, ProductNotFound, WarehouseNotFound, RequestIdReused, or
            another WarehouseError.
        """
        return await self._call(self._stock.UpdateInventory, _with_request_id(count, call), call)

    async def list_movements(
        self, request: stock_pb2.ListMovementsRequest, **call: Unpack[CallOptions]
    ) -> stock_pb2.ListMovementsResponse:
        """A page of the ledger of a product."""
        return await self._call(self._stock.ListMovements, request, call)

    async def is_serving(self, service: str = "warehouse.v1.WarehouseService", *, timeout_seconds: float = 1) -> bool:
        """Whether the server is there and says that it serves; one try, never raises WarehouseError."""
        stub = health_pb2_grpc.HealthStub(self._channels[0])
        try:
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds, metadata=self._metadata({})
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    @property
    def _warehouse(self) -> "warehouse_pb2_grpc.WarehouseServiceAsyncStub":
        self._turn += 1
        return self._stubs[self._turn % len(self._stubs)][0]

    @property
    def _stock(self) -> "stock_pb2_grpc.StockServiceAsyncStub":
        self._turn += 1
        return self._stubs[self._turn % len(self._stubs)][1]

    async def _call(
        self, method: Callable[..., Awaitable[ResponseT]], request: Message, call: CallOptions
    ) -> ResponseT:
        metadata = self._metadata(call)
        deadline = time.monotonic() + call.get("deadline_seconds", self.settings.deadline_seconds)
        if self._observe is None:
            return await self._insist(method, request, metadata, deadline)
        with self._observe(type(request).__name__.removesuffix("Request"), metadata):
            return await self._insist(method, request, metadata, deadline)

    async def _insist(
        self,
        method: Callable[..., Awaitable[ResponseT]],
        request: Message,
        metadata: list[tuple[str, str]],
        deadline: float,
    ) -> ResponseT:
        async def attempt() -> ResponseT:
            timeout = min(self.settings.attempt_timeout_seconds, deadline - time.monotonic())
            try:
                return await method(request, timeout=max(timeout, 0), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error

        try:
            return await attempt()
        except RETRIED as error:
            return await self._retry(attempt, error, deadline)

    async def _retry(
        self, attempt: Callable[[], Awaitable[ResponseT]], failure: WarehouseError, deadline: float
    ) -> ResponseT:
        growing = tenacity.wait_random_exponential(
            multiplier=self.settings.retry_wait_initial_seconds, max=self.settings.retry_wait_max_seconds
        )

        def wait(state: tenacity.RetryCallState) -> float:
            failure = state.outcome.exception() if state.outcome else None
            return float(growing(state)) + _asked_wait_seconds(failure)

        def out_of_time(state: tenacity.RetryCallState) -> bool:
            return time.monotonic() + state.upcoming_sleep >= deadline

        pause = self.settings.retry_wait_initial_seconds * random.random() + _asked_wait_seconds(failure)  # noqa: S311
        if time.monotonic() + pause >= deadline:
            raise failure
        await asyncio.sleep(pause)
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(RETRIED), wait=wait, stop=out_of_time, reraise=True
        )
        return await retrying(attempt)

    def _metadata(self, call: CallOptions) -> list[tuple[str, str]]:
        known = (
            ("x-api-key", self.settings.api_key),
            ("x-correlation-id", call.get("correlation_id", "")),
            ("traceparent", call.get("traceparent", "")),
            ("x-actor", call.get("actor", "")),
        )
        return [(name, value) for name, value in known if value]


def open_channel(settings: ClientSettings) -> grpc.aio.Channel:
    """A channel to the warehouse as `settings` say: addresses, TLS, keepalive, sizes."""
    keepalive_ms = int(settings.keepalive_seconds * 1000)
    options: list[tuple[str, Any]] = [
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.max_receive_message_length", settings.message_size_max_bytes),
        ("grpc.max_send_message_length", settings.message_size_max_bytes),
        ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
        # The retries here know the request id and the deadline; those inside the channel would multiply them.
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", int(settings.connections > 1)),
    ]
    target = _target(settings.target)
    if not (settings.tls or settings.tls_ca or settings.tls_cert):
        return grpc.aio.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(settings.tls_ca),
        private_key=_read(settings.tls_key),
        certificate_chain=_read(settings.tls_cert),
    )
    return grpc.aio.secure_channel(target, credentials, options)


def _target(addresses: str) -> str:
    several = [address.strip().replace("localhost", "127.0.0.1") for address in addresses.split(",")]
    if len(several) == 1:
        return addresses.strip()
    return ("ipv6:" if several[0].startswith("[") else "ipv4:") + ",".join(several)


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9) % 1_000_000_000)


def _asked_wait_seconds(failure: BaseException | None) -> float:
    asked = getattr(failure, "retry_after_seconds", None) or 0.0
    return float(asked * random.uniform(1, 1.2))  # noqa: S311 - jitter, not a secret


def _given(**fields: str | None) -> dict[str, Any]:
    """Only the fields that are set: in a oneof even an empty one counts."""
    return {name: value for name, value in fields.items() if value is not None}


def _request_id(call: CallOptions) -> str:
    return call.get("request_id") or new_request_id()


def _with_request_id(request: Any, call: CallOptions) -> Any:
    if request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = _request_id(call)
    return copy


__all__ = [
    "CallOptions",
    "ClientSettings",
    "DeadlineExceeded",
    "InsufficientStock",
    "InvalidRequest",
    "Line",
    "NotFound",
    "OrderNotFound",
    "PermissionDenied",
    "ProductExists",
    "ProductNotFound",
    "Refused",
    "RequestIdReused",
    "ReservationCancelled",
    "ReservationCommitted",
    "ReservationExpired",
    "ReservationNotFound",
    "ReservationState",
    "ReserveCancelled",
    "ReservedMismatch",
    "Shortage",
    "StockLevelNotFound",
    "Unauthenticated",
    "WarehouseBroken",
    "WarehouseBusy",
    "WarehouseClient",
    "WarehouseError",
    "WarehouseExists",
    "WarehouseFault",
    "WarehouseNotFound",
    "WarehouseOverloaded",
    "WarehouseUnavailable",
    "line",
    "new_request_id",
    "stock_pb2",
    "warehouse_pb2",
]
