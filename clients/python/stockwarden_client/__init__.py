"""The client library of the warehouse: everything a caller needs in one import.

    async with WarehouseClient(ClientSettings(target="127.0.0.1:50051")) as warehouse:
        try:
            lines = [line(product_id=1, warehouse_id=1, quantity=2)]
            hold = await warehouse.reserve("17", lines, ttl_seconds=900, request_id="reserve-17")
        except InsufficientStock as refusal:
            print(refusal.shortages)

A call is repeated, always with the same request id, while its deadline allows it: when the server is
away, restarting or overloaded, and when an answer was lost. (A client that was never answered gives up after
`absent_seconds` where nobody listens at the target.) What comes out is a protobuf message or an exception; `errors`
draws their hierarchy.

`SyncWarehouseClient` has the same calls without `await`, for programs of threads (Flask, Django, a script):

    with SyncWarehouseClient(ClientSettings(target="127.0.0.1:50051")) as warehouse:
        warehouse.cancel(order_id="17", request_id="cancel-17")

What would have its effect twice if it were made twice (`reserve`, `add_stock`, `remove_stock`) needs a request id,
which the caller keeps with what it is for: a program that runs again, after it died or by mistake, changes nothing.
"""

from stockwarden_client.connection import ClientSettings
from stockwarden_client.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    InsufficientStock,
    InvalidRequest,
    MessageTooLarge,
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
)
from stockwarden_client.holds import HoldCalls
from stockwarden_client.messages import line
from stockwarden_client.options import CallContext, CallOptions, EffectOptions, new_request_id
from stockwarden_client.stock import StockCalls
from stockwarden_client.sync.holds import HoldCalls as SyncHoldCalls
from stockwarden_client.sync.stock import StockCalls as SyncStockCalls
from stockwarden_client.v1 import stock_pb2, warehouse_pb2
from stockwarden_client.v1.warehouse_pb2 import Line, ReservationState


class WarehouseClient(HoldCalls, StockCalls):
    """A connection to the warehouse, for any number of concurrent calls. Every method raises WarehouseError.

    Use it as an async context manager, or call `close`. Methods that change something are safe to repeat
    with the same `request_id`. TLS files that change are used for new connections, without a restart.

    Args:
        observe: gives a context manager for each call, which may add to its metadata and sees how it ended.
    """


class SyncWarehouseClient(SyncHoldCalls, SyncStockCalls):
    """The same, with calls that block their thread; one client serves any number of threads.

    Use it as a context manager, or call `close`. Make it in the process that uses it: gRPC does not survive a fork.

    Args:
        observe: as of `WarehouseClient`.
    """


__all__ = [
    "AnswerTooLarge",
    "CallContext",
    "CallOptions",
    "ClientSettings",
    "DeadlineExceeded",
    "EffectOptions",
    "InsufficientStock",
    "InvalidRequest",
    "Line",
    "MessageTooLarge",
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
    "SyncWarehouseClient",
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
