"""What a caller is told when the answer is no: the table of refusals and faults, as google.rpc.Status.

The texts of drivers, SQL and stack traces go to the log, never to a caller.
"""

import json
from collections.abc import Callable
from functools import lru_cache

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, RetryInfo
from google.rpc.status_pb2 import Status

from service_kit.batcher import BatcherClosed, BatcherFull, BatchFailed
from service_kit.database.database import DatabaseAway, LockRetriesSpent
from service_kit.rates import TooOften
from service_kit.stuck_rows import RowsLocked
from warehouse.auth import PermissionDenied, Unauthenticated
from warehouse.stock.refusals import Reason, Refusal
from warehouse.stock.sizes import NAMED_LINES
from warehouse.validation import InvalidRequest

DOMAIN = "warehouse.v1"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
VIOLATIONS_NAMED_MAX = 20
"""Lines or fields named in the status that a call ends with."""
TRAILING_BYTES_MAX = 4096
"""Of that status: it travels as a header, a third longer, and beside its text once more; many clients and proxies drop
answers with more than 8 KiB of headers."""
TEXT_LENGTH_MAX = 400
"""Characters of the text for people."""
LEFT_OUT = "left_out"
"""In ErrorInfo's metadata: how many lines or fields are not named."""

REFUSAL_CODES = {
    Reason.INSUFFICIENT_STOCK: code_pb2.FAILED_PRECONDITION,
    Reason.PRODUCT_NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.WAREHOUSE_NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.STOCK_LEVEL_NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.RESERVATION_NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.ORDER_NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.RESERVATION_EXPIRED: code_pb2.FAILED_PRECONDITION,
    Reason.RESERVATION_COMMITTED: code_pb2.FAILED_PRECONDITION,
    Reason.RESERVATION_CANCELLED: code_pb2.FAILED_PRECONDITION,
    Reason.RESERVE_CANCELLED: code_pb2.FAILED_PRECONDITION,
    Reason.RESERVED_MISMATCH: code_pb2.FAILED_PRECONDITION,
    Reason.ANSWER_TOO_LARGE: code_pb2.FAILED_PRECONDITION,
    Reason.REQUEST_ID_REUSED: code_pb2.ALREADY_EXISTS,
    Reason.PRODUCT_EXISTS: code_pb2.ALREADY_EXISTS,
    Reason.WAREHOUSE_EXISTS: code_pb2.ALREADY_EXISTS,
    Reason.INVALID_ARGUMENT: code_pb2.INVALID_ARGUMENT,
}


class TooManyCalls(Exception):
    """More calls are in flight than this server takes; nothing was done, ask again a little later."""


class ServerStopping(Exception):
    """Nothing goes on here for long; a stream goes on somewhere else."""


class StreamOver(Exception):
    """A stream has lasted as long as it may; its caller goes on in a new one."""


# exception: status, reason, what the caller reads ("": the exception's own text), when to ask again (seconds)
_FAULTS: tuple[tuple[type[BaseException], int, str, str, float], ...] = (
    (Unauthenticated, code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED", "", 0),
    (PermissionDenied, code_pb2.PERMISSION_DENIED, "PERMISSION_DENIED", "", 0),
    (TooManyCalls, code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_REQUESTS", "too many calls are in flight", 0.1),
    (BatcherFull, code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_REQUESTS", "too many requests are waiting", 0.1),
    (TooOften, code_pb2.RESOURCE_EXHAUSTED, "RATE_LIMITED", "", 1),
    (BatcherClosed, code_pb2.UNAVAILABLE, "SHUTTING_DOWN", "this server is shutting down", 0.1),
    (ServerStopping, code_pb2.UNAVAILABLE, "SHUTTING_DOWN", "this server is stopping; go on in a new stream", 0.1),
    (StreamOver, code_pb2.UNAVAILABLE, "STREAM_OVER", "a stream lasts no longer than this; go on in a new one", 0.1),
    (RowsLocked, code_pb2.ABORTED, "LOCK_RETRIES_SPENT", "", 1),
    (LockRetriesSpent, code_pb2.ABORTED, "LOCK_RETRIES_SPENT", "the stock is contended, ask again", 0.1),
    (DatabaseAway, code_pb2.UNAVAILABLE, "DATABASE_AWAY", "the database does not answer, ask again", 1),
    (BatchFailed, code_pb2.UNAVAILABLE, "OUTCOME_UNKNOWN", "", 0.1),
    (TimeoutError, code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "there was no time left for this call", 0),
)

Metadata = tuple[tuple[str, bytes], ...]


@lru_cache(maxsize=1024)
def status_of_refusal(refusal: Refusal, named_max: int = VIOLATIONS_NAMED_MAX) -> Status:
    """A refusal with its ErrorInfo, and a violation per line (up to `named_max`) for a shortage. Do not change it."""
    details = dict(refusal.details)
    messages: list[Message] = []
    if refusal.shortages:
        named = refusal.shortages[:named_max]
        pairs = [{name: getattr(short, name) for name in short.__struct_fields__} for short in named]
        details["shortages"] = json.dumps(pairs, separators=(",", ":"))
        if len(named) < len(refusal.shortages):
            details[LEFT_OUT] = str(len(refusal.shortages) - len(named))
        messages.append(
            PreconditionFailure(
                violations=[
                    PreconditionFailure.Violation(
                        type=refusal.reason,
                        subject=f"products/{short.product_id}/warehouses/{short.warehouse_id}",
                        description=f"requested {short.requested}, available {short.available}",
                    )
                    for short in named
                ]
            )
        )
    if refusal.reason is Reason.INVALID_ARGUMENT:
        field = BadRequest.FieldViolation(field=details.get("field", ""), description=refusal.message)
        messages.append(BadRequest(field_violations=[field]))
    info = ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=details)
    return _status(REFUSAL_CODES[refusal.reason], refusal.message, info, *messages)


def status_of_error(error: BaseException, named_max: int = VIOLATIONS_NAMED_MAX) -> Status:
    """An exception as its status; INTERNAL, with nothing of its text, for one that is not expected.

    Args:
        named_max: how many fields are named if the request was malformed.
    """
    if isinstance(error, InvalidRequest):
        named = error.violations[:named_max]
        violations = [BadRequest.FieldViolation(field=field, description=problem) for field, problem in named]
        left_out = len(error.violations) - len(named)
        info = ErrorInfo(
            reason="INVALID_ARGUMENT", domain=DOMAIN, metadata={LEFT_OUT: str(left_out)} if left_out else {}
        )
        return _status(code_pb2.INVALID_ARGUMENT, str(error), info, BadRequest(field_violations=violations))
    for kind, code, reason, text, retry_seconds in _FAULTS:
        if isinstance(error, kind):
            metadata = error.metadata if isinstance(error, PermissionDenied) else None
            messages: list[Message] = [ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)]
            if isinstance(error, TooOften):
                retry_seconds = error.wait_seconds
            if retry_seconds:
                messages.append(
                    RetryInfo(retry_delay=Duration(nanos=int(retry_seconds * 1e9) % 10**9, seconds=int(retry_seconds)))
                )
            return _status(code, text or str(error), *messages)
    info = ErrorInfo(reason="INTERNAL", domain=DOMAIN)
    return _status(code_pb2.INTERNAL, "something went wrong in the warehouse; its log says what", info)


@lru_cache(maxsize=1024)
def trailing_refusal(refusal: Refusal) -> tuple[grpc.StatusCode, str, Metadata]:
    """What ends a call that was refused: code, message, trailing metadata."""
    return trailing(_fitting(lambda named_max: status_of_refusal(refusal, named_max)))


def trailing_error(error: BaseException) -> tuple[grpc.StatusCode, str, Metadata]:
    """What ends a call that failed: code, message, trailing metadata."""
    return trailing(_fitting(lambda named_max: status_of_error(error, named_max)))


def _fitting(make: Callable[[int], Status]) -> Status:
    """The status with as many lines named as a header has room for."""
    status = make(VIOLATIONS_NAMED_MAX)
    for named_max in NAMED_LINES:
        if status.ByteSize() <= TRAILING_BYTES_MAX:
            break
        if named_max < VIOLATIONS_NAMED_MAX:
            status = make(named_max)
    return status


def trailing(status: Status) -> tuple[grpc.StatusCode, str, Metadata]:
    """What ends a call with `status`: code, message, trailing metadata."""
    return _CODES[status.code], status.message, ((STATUS_DETAILS_KEY, status.SerializeToString()),)


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _status(code: int, message: str, *details: Message) -> Status:
    short = message if len(message) <= TEXT_LENGTH_MAX else f"{message[: TEXT_LENGTH_MAX - 3]}..."
    status = Status(code=code, message=short)
    for detail in details:
        status.details.add().Pack(detail)
    return status
