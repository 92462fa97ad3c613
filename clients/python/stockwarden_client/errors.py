"""How calls to the warehouse fail, as exceptions; callers find all of them in stockwarden_client.

WarehouseError
+-- Refused                       the warehouse said no; nothing happened
|   +-- InsufficientStock         .shortages
|   +-- NotFound
|   |   +-- ProductNotFound, WarehouseNotFound, StockLevelNotFound, ReservationNotFound, OrderNotFound
|   +-- ReservationExpired, ReservationCommitted, ReservationCancelled
|   +-- ReserveCancelled          the order was cancelled before its Reserve arrived
|   +-- AnswerTooLarge            the order has too many reservations for one answer
|   +-- RequestIdReused           the request id was used for something else
|   +-- ReservedMismatch, ProductExists, WarehouseExists
+-- InvalidRequest                .violations; the caller's bug
+-- MessageTooLarge               the request or its answer is longer than a message may be
+-- Unauthenticated
+-- PermissionDenied
+-- WarehouseFault                something does not work; what became of the call is not known
    +-- WarehouseUnavailable      server or its database away, until the deadline
    +-- WarehouseOverloaded       too many calls in flight, until the deadline
    +-- WarehouseBusy             lock retries spent, until the deadline
    +-- DeadlineExceeded          no answer in time
    +-- WarehouseBroken           a bug: INTERNAL, or a status that the contract does not know
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "warehouse.v1"


class WarehouseError(Exception):
    """A call did not succeed.

    Attributes:
        reason: the ErrorInfo reason of a refusal, otherwise the name of the gRPC status.
        metadata: the ErrorInfo metadata, all strings.
        retry_after_seconds: when the server suggests to ask again; None if it does not.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after_seconds = retry_after_seconds


class Refused(WarehouseError):
    """The warehouse said no; nothing happened. Also the class of reasons this client does not know yet."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """A line that asked for more units than were available."""

    product_id: int
    warehouse_id: int
    requested: int
    available: int


class InsufficientStock(Refused):
    """Some lines asked for more than there is; `shortages` names them, `left_out` says how many more there are."""

    @property
    def shortages(self) -> tuple[Shortage, ...]:
        """The lines that fell short."""
        return tuple(
            Shortage(int(item["product_id"]), int(item["warehouse_id"]), int(item["requested"]), int(item["available"]))
            for item in json.loads(self.metadata.get("shortages") or "[]")
        )

    @property
    def left_out(self) -> int:
        """How many lines more fell short, that the answer had no room for."""
        return int(self.metadata.get("left_out", "0"))


class NotFound(Refused):
    """Something the call names does not exist; `metadata` holds its id."""


class ProductNotFound(NotFound): ...


class WarehouseNotFound(NotFound): ...


class StockLevelNotFound(NotFound): ...


class ReservationNotFound(NotFound): ...


class OrderNotFound(NotFound): ...


class ReservationExpired(Refused): ...


class ReservationCommitted(Refused): ...


class ReservationCancelled(Refused): ...


class ReserveCancelled(Refused): ...


class AnswerTooLarge(Refused): ...


class RequestIdReused(Refused): ...


class ReservedMismatch(Refused): ...


class ProductExists(Refused): ...


class WarehouseExists(Refused): ...


class InvalidRequest(WarehouseError):
    """The request is malformed; `violations` maps each field to what is wrong with it."""

    def __init__(self, message: str, *, violations: Mapping[str, str] | None = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.violations: dict[str, str] = dict(violations or {})


class MessageTooLarge(WarehouseError):
    """The request, or its answer, is longer than a message may be here or over there; repeating it is of no use.

    Ask for less at a time, or set `message_size_max_bytes` of this client to what the server sends.
    """


class Unauthenticated(WarehouseError): ...


class PermissionDenied(WarehouseError): ...


class WarehouseFault(WarehouseError):
    """Something does not work. A mutating call may have had its effect: repeat it with the same request id."""


class WarehouseUnavailable(WarehouseFault):
    """The server, or its database, is away."""

    @property
    def is_absent(self) -> bool:
        """Whether nobody listens at the target, or its name stands for no address."""
        return not self.metadata and any(sign in str(self) for sign in _ABSENCES)


# gRPC has no code for it. "refused" is the system's word for nobody being there, the others are its resolvers'.
_ABSENCES = ("Connection refused", "DNS resolution failed", "Domain name not found")


class WarehouseOverloaded(WarehouseFault): ...


class WarehouseBusy(WarehouseFault): ...


class DeadlineExceeded(WarehouseFault):
    """There was no answer in time; or there was one, which says that the server had no time for the call.

    Attributes:
        is_silence: which of the two.
    """

    is_silence = True


class WarehouseBroken(WarehouseFault): ...


REFUSALS: Mapping[str, type[Refused]] = {
    "INSUFFICIENT_STOCK": InsufficientStock,
    "PRODUCT_NOT_FOUND": ProductNotFound,
    "WAREHOUSE_NOT_FOUND": WarehouseNotFound,
    "STOCK_LEVEL_NOT_FOUND": StockLevelNotFound,
    "RESERVATION_NOT_FOUND": ReservationNotFound,
    "ORDER_NOT_FOUND": OrderNotFound,
    "RESERVATION_EXPIRED": ReservationExpired,
    "RESERVATION_COMMITTED": ReservationCommitted,
    "RESERVATION_CANCELLED": ReservationCancelled,
    "RESERVE_CANCELLED": ReserveCancelled,
    "ANSWER_TOO_LARGE": AnswerTooLarge,
    "REQUEST_ID_REUSED": RequestIdReused,
    "RESERVED_MISMATCH": ReservedMismatch,
    "PRODUCT_EXISTS": ProductExists,
    "WAREHOUSE_EXISTS": WarehouseExists,
}
REFUSAL_STATUSES = frozenset(
    {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS}
)
"""Faults carry an ErrorInfo too; only with these it is a refusal."""
STATUSES: Mapping[grpc.StatusCode, type[WarehouseError]] = {
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: WarehouseOverloaded,
    grpc.StatusCode.ABORTED: WarehouseBusy,
    grpc.StatusCode.UNAVAILABLE: WarehouseUnavailable,
    # The server gave up the call while it was stopping; a caller who gives up gets asyncio.CancelledError instead.
    grpc.StatusCode.CANCELLED: WarehouseUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
RETRIED = (WarehouseUnavailable, WarehouseOverloaded, WarehouseBusy, DeadlineExceeded)


class RpcError(Protocol):
    """What gRPC raises, whether calls are awaited or not."""

    def code(self) -> grpc.StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Any: ...


def from_rpc_error(error: RpcError) -> WarehouseError:
    """The exception that a failed call stands for."""
    details = b""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            details = value
    try:
        status = status_pb2.Status.FromString(details)
    except DecodeError:
        status = status_pb2.Status()
    return _translate(error.code(), error.details() or "", status.details)


def from_status(status: status_pb2.Status) -> WarehouseError:
    """The exception that a google.rpc.Status (one result of BatchReserve) stands for."""
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    return _translate(code, status.message, status.details)


SIZE_WORDS = ("larger than max", "metadata size exceeds")
"""What gRPC itself says when a message or its headers are too long; it gives no details with it."""


def _is_about_size(code: grpc.StatusCode, message: str, details: Sequence[Any]) -> bool:
    return code is grpc.StatusCode.RESOURCE_EXHAUSTED and not details and any(words in message for words in SIZE_WORDS)


def _translate(code: grpc.StatusCode, message: str, details: Sequence[Any]) -> WarehouseError:
    info, invalid, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for packed in details:
        for known in (info, invalid, retry):
            packed.Unpack(known)
    retry_after = retry.retry_delay.ToTimedelta().total_seconds() or None
    common: dict[str, Any] = {"metadata": dict(info.metadata), "retry_after_seconds": retry_after}
    if _is_about_size(code, message, details):
        return MessageTooLarge(message, reason="MESSAGE_TOO_LARGE", **common)
    if code in STATUSES:
        fault = STATUSES[code](message, reason=info.reason or code.name, **common)
        if isinstance(fault, DeadlineExceeded):
            fault.is_silence = not details
        return fault
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        violations = {violation.field: violation.description for violation in invalid.field_violations}
        return InvalidRequest(message, violations=violations, reason=info.reason or code.name, **common)
    if code in REFUSAL_STATUSES and info.domain == DOMAIN and info.reason:
        return REFUSALS.get(info.reason, Refused)(message, reason=info.reason, **common)
    return WarehouseBroken(message, reason=code.name, **common)
