"""Between this service and the warehouse's client library: options of calls, refusals and faults."""

import re
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog

from order_gateway.gateway.port import Call, GatewayFault, Refusal
from stockwarden_client import (
    CallOptions,
    DeadlineExceeded,
    EffectOptions,
    InsufficientStock,
    InvalidRequest,
    MessageTooLarge,
    PermissionDenied,
    Refused,
    RequestIdReused,
    Unauthenticated,
    WarehouseBusy,
    WarehouseError,
    WarehouseOverloaded,
    WarehouseUnavailable,
)

log = structlog.get_logger(__name__)
T = TypeVar("T")
RETRY_AFTER_DEFAULT_SECONDS = 1.0
DENIED_RETRY_AFTER_SECONDS = 30.0
"""A person has to do something first."""
_NUMBERS = frozenset({"product_id", "warehouse_id", "requested", "available", "reserved", "on_hand"})
_UNPRINTABLE = re.compile(r"[^ -~]")


async def or_refusal(call: Awaitable[T]) -> T | Refusal:
    """The answer of a call, or the warehouse's no as a value. Raises: GatewayFault."""
    try:
        return await call
    except InsufficientStock as refusal:
        details: tuple[dict[str, object], ...] = tuple(
            {
                "product_id": shortage.product_id,
                "warehouse_id": shortage.warehouse_id,
                "requested": shortage.requested,
                "available": shortage.available,
            }
            for shortage in refusal.shortages
        )
        if refusal.left_out:
            details += ({"left_out": refusal.left_out},)
        return Refusal(refusal.reason, "not enough stock", details)
    except InvalidRequest as refusal:
        violations = tuple({"field": field, "message": text} for field, text in refusal.violations.items())
        return Refusal("INVALID_ARGUMENT", "the warehouse does not accept this", violations)
    except WarehouseError as error:
        fault = translated(error)
        if fault is None:
            return Refusal(error.reason, str(error), (dict(error.metadata),) if error.metadata else ())
        raise fault from error


async def or_typed_refusal(call: Awaitable[T]) -> T | Refusal:
    """The same, with the numbers in a refusal as numbers: the wire has strings. Raises: GatewayFault."""
    answer = await or_refusal(call)
    if isinstance(answer, Refusal):
        return Refusal(answer.code, answer.message, tuple(_typed(item) for item in answer.details))
    return answer


def sure(answer: T | Refusal) -> T:
    """The answer of a call that the warehouse has no reason to refuse. Raises: GatewayFault."""
    if isinstance(answer, Refusal):
        raise GatewayFault("WAREHOUSE_ERROR", f"the warehouse did not accept this service's call: {answer.code}")
    return answer


def unknown(error: WarehouseError) -> GatewayFault:
    """A fault that is worth no line in the log: the warehouse is away, or older than the question."""
    return GatewayFault("WAREHOUSE_UNAVAILABLE", error.reason)


@contextmanager
def translating() -> Iterator[None]:
    """Faults become GatewayFault; refusals pass, but for the one that only a bug can cause."""
    try:
        yield
    except WarehouseError as error:
        fault = translated(error)
        if fault is None:
            raise
        raise fault from error


def translated(error: WarehouseError) -> GatewayFault | None:
    """A fault as the order service knows it; None for a refusal."""
    if isinstance(error, DeadlineExceeded) and error.is_silence:
        return GatewayFault("WAREHOUSE_TIMEOUT", "the warehouse did not answer in time")
    wait = error.retry_after_seconds or RETRY_AFTER_DEFAULT_SECONDS
    if isinstance(error, WarehouseOverloaded):
        return GatewayFault("WAREHOUSE_OVERLOADED", "the warehouse is busy; try again shortly", wait)
    if isinstance(error, MessageTooLarge):
        log.error("message_too_large", error=str(error))
        return GatewayFault("WAREHOUSE_ERROR", "what the warehouse answers is larger than this service takes")
    if isinstance(error, WarehouseBusy | DeadlineExceeded):
        return GatewayFault("WAREHOUSE_BUSY", "the warehouse did not get to it in time; try again shortly", wait)
    if isinstance(error, RequestIdReused):
        log.error("request_id_reused", reason=error.reason, exc_info=error)
        return GatewayFault("WAREHOUSE_ERROR", "the warehouse did not accept this service's call")
    if isinstance(error, Refused | InvalidRequest):
        return None
    if isinstance(error, PermissionDenied | Unauthenticated):
        log.error("warehouse_denies", reason=error.reason, error=str(error), **error.metadata)
        return GatewayFault("WAREHOUSE_DENIED", denial(error), DENIED_RETRY_AFTER_SECONDS)
    log.warning("warehouse_fault", reason=error.reason, error=str(error))
    if isinstance(error, WarehouseUnavailable):
        return GatewayFault("WAREHOUSE_UNAVAILABLE", "the warehouse is away; try again shortly", wait)
    return GatewayFault("WAREHOUSE_ERROR", "the warehouse could not do this; its log says why", wait)


def denial(error: PermissionDenied | Unauthenticated) -> str:
    """What is wrong with this service's key to the warehouse, and what to do about it."""
    if isinstance(error, Unauthenticated):
        return "the warehouse does not know this service's key: set ORDERS_WAREHOUSE_API_KEY to a key that it knows"
    known = error.metadata
    return (
        f"the warehouse does not let this service do this: its key {known.get('key', '')!r} has the role "
        f"{known.get('role', 'of less')}, and this needs {known.get('needed', 'more')} (ORDERS_WAREHOUSE_API_KEY)"
    )


def _typed(detail: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: int(value)
        if isinstance(value, str) and name in _NUMBERS and value.isascii() and value.isdigit()
        else value
        for name, value in detail.items()
    }


def printable(actor: str) -> str:
    """An actor as gRPC metadata can carry it."""
    return actor if actor.isascii() and actor.isprintable() else _UNPRINTABLE.sub("?", actor)


def effect_options(call: Call) -> EffectOptions:
    """The same for a call that would have its effect twice if it were made twice."""
    options: EffectOptions = {**call_options(call), "request_id": call.request_id}
    return options


def call_options(call: Call) -> CallOptions:
    """What goes along with a call, as the client library takes it."""
    options: CallOptions = {"correlation_id": call.correlation_id, "traceparent": call.traceparent}
    if call.request_id:
        options["request_id"] = call.request_id
    if call.actor:
        options["actor"] = printable(call.actor)
    if call.deadline_seconds is not None:
        options["deadline_seconds"] = call.deadline_seconds
    return options
