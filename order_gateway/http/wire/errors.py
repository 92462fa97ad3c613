"""Errors as clients see them: one envelope, a code from a fixed table, never a driver's text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from order_gateway.gateway.port import GatewayFault, Refusal
from order_gateway.lifecycle import Illegal, OrderNotFound
from order_gateway.saga.steps import StepFault
from order_gateway.storage.creating import ClaimLost
from service_kit.batcher import BatcherClosed, BatcherFull
from service_kit.database.database import Fault
from service_kit.rates import TooOften

log = structlog.get_logger(__name__)
encode = msgspec.json.Encoder(decimal_format="number").encode

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
CORRELATION_ID: web.RequestKey[str] = web.RequestKey("correlation_id", str)
ERROR_CODE: web.RequestKey[str] = web.RequestKey("error_code", str)
"""What a request was refused with, for logs and metrics; empty if it was not."""
DATABASE_RETRY_AFTER_SECONDS = 1.0
_INTERNAL = "something went wrong here; the request id helps to find out what"

STATUS: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "PRODUCT_NOT_FOUND": 404,
    "WAREHOUSE_NOT_FOUND": 404,
    "STOCK_LEVEL_NOT_FOUND": 404,
    "RESERVATION_NOT_FOUND": 404,
    "ORDER_NOT_FOUND": 404,
    "REFUND_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "BODY_TIMEOUT": 408,
    "INSUFFICIENT_STOCK": 409,
    "RESERVATION_EXPIRED": 409,
    "RESERVATION_COMMITTED": 409,
    "RESERVATION_CANCELLED": 409,
    "RESERVE_CANCELLED": 409,
    "ANSWER_TOO_LARGE": 409,
    "REQUEST_ID_REUSED": 409,
    "REQUEST_IN_PROGRESS": 409,
    "RESERVED_MISMATCH": 409,
    "PRICE_MISMATCH": 409,
    "PRICE_UNKNOWN": 409,
    "CURRENCY_MISMATCH": 409,
    "INVALID_ORDER_STATE": 409,
    "HOLD_OF_ORDER": 409,
    "ORDER_CANCELLED": 409,
    "ORDER_NOT_SETTLED": 409,
    "PAYMENT_EXPIRED": 409,
    "PAYMENT_IN_PROGRESS": 409,
    "BODY_TOO_LARGE": 413,
    "PAYMENT_DECLINED": 422,
    "RATE_LIMITED": 429,
    "TOO_MANY_REQUESTS": 429,
    "WAREHOUSE_OVERLOADED": 429,
    "INTERNAL": 500,
    "WAREHOUSE_ERROR": 503,
    "WAREHOUSE_UNAVAILABLE": 503,
    "WAREHOUSE_BUSY": 503,
    "WAREHOUSE_DENIED": 503,
    "PAYMENT_PENDING": 503,
    "NOT_READY": 503,
    "DATABASE_UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "WAREHOUSE_TIMEOUT": 504,
}
"""What each code is answered with; codes that are not here are 409."""
STATUS_OTHERWISE = 409
CLIENT_GONE = 499
"""As nginx has it: the client hung up before its request was here, or before its answer. In logs and metrics only."""


class ApiError(Exception):
    """An answer that is not the one hoped for.

    Attributes:
        details: one entry per line or field concerned.
        headers: added to the answer.
    """

    def __init__(
        self,
        code: str,
        message: str,
        details: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = list(details)
        self.headers = dict(headers or {})


def success(data: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in the envelope."""
    return _response({"success": True, "data": data}, status, headers)


def success_page(data: Sequence[object], page: int, limit: int, total: int) -> web.Response:
    """A page of a list in the envelope."""
    meta = {"page": page, "limit": limit, "total": total, "total_page": -(-total // limit)}
    return _response({"success": True, "data": data, "meta": meta}, 200, None)


def failure(request: web.BaseRequest, error: ApiError) -> web.Response:
    """A refusal or fault in the envelope."""
    request[ERROR_CODE] = error.code
    body = {
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "request_id": request.get(REQUEST_ID, ""),
    }
    status = STATUS.get(error.code, STATUS_OTHERWISE)
    return _response({"success": False, "error": body}, status, error.headers)


def from_refusal(refusal: Refusal) -> ApiError:
    """A refusal as an answer."""
    return ApiError(refusal.code, refusal.message, refusal.details)


def from_illegal(illegal: Illegal) -> ApiError:
    """An event that an order does not allow, as an answer."""
    headers = {"Retry-After": "1"} if illegal.code in ("PAYMENT_IN_PROGRESS", "ORDER_NOT_SETTLED") else {}
    return ApiError(illegal.code, illegal.message, (), headers)


def request_in_progress() -> ApiError:
    """Another request with the same Idempotency-Key is in progress."""
    message = "a request with this Idempotency-Key is being worked on; ask again shortly"
    return ApiError("REQUEST_IN_PROGRESS", message, (), {"Retry-After": "1"})


def too_often(error: TooOften) -> ApiError:
    """One request too many under a name, as an answer."""
    return ApiError("RATE_LIMITED", str(error), (), {"Retry-After": str(math.ceil(error.wait_seconds))})


def gone() -> web.Response:
    """What is left of a request whose client hung up; nobody gets it."""
    return web.Response(status=CLIENT_GONE)


async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a handler answers, failures in the envelope; of what nobody foresaw it only says that it happened."""
    try:
        return await handler(request)
    except ApiError as error:
        return failure(request, error)
    except web.HTTPException as error:
        # That of a path which is not there is kept by the request; it must not lead back to the request.
        error.__traceback__ = None
        return failure(request, _from_http(error))
    except Exception as error:
        if isinstance(error, ConnectionError | web.RequestPayloadError) and request.transport is None:
            return gone()
        return failure(request, _from_fault(error))


error_middleware = web.middleware(answered)


def _from_fault(error: Exception) -> ApiError:
    """What went wrong elsewhere, as an answer; logged, unless it is the client's doing."""
    match error:
        case web.RequestPayloadError():
            return ApiError("INVALID_ARGUMENT", "the body can't be decoded as its headers say")
        case OrderNotFound():
            return ApiError("ORDER_NOT_FOUND", str(error))
        case GatewayFault() | StepFault():
            log.warning("outside_fault", code=error.code, error=str(error))
            return ApiError(error.code, str(error), (), _retry_after(error.retry_after_seconds))
        case ClaimLost():
            return request_in_progress()
        case TooOften():
            return too_often(error)
        case BatcherFull():
            return ApiError("TOO_MANY_REQUESTS", "too much waits here; try again shortly", (), _retry_after(1))
        case Fault() | BatcherClosed():
            log.warning("database_fault", error=str(error), cause=repr(error.__cause__))
            message = "the service can't reach its data; try again shortly"
            return ApiError("DATABASE_UNAVAILABLE", message, (), _retry_after(DATABASE_RETRY_AFTER_SECONDS))
    log.error("unforeseen", exc_info=error)
    return ApiError("INTERNAL", _INTERNAL)


def _from_http(error: web.HTTPException) -> ApiError:
    if isinstance(error, web.HTTPNotFound):
        return ApiError("NOT_FOUND", "there is nothing at this address")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return ApiError("METHOD_NOT_ALLOWED", f"this address allows {allowed}", (), {"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return ApiError("BODY_TOO_LARGE", "the body is too large")
    if error.status >= 500:
        return ApiError("INTERNAL", _INTERNAL)
    return ApiError("INVALID_ARGUMENT", error.reason or "the request is not valid")


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, round(seconds)))}


def _response(body: object, status: int, headers: Mapping[str, str] | None) -> web.Response:
    return web.Response(
        body=encode(body), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )
