"""The warehouse over gRPC, through its client library."""

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from decimal import Decimal
from typing import TypeVar

import structlog

from order_gateway.gateway import Call, Done, GatewayFault, Hold, Product, Refusal, StockLine
from warehouse.client import (
    CallOptions,
    DeadlineExceeded,
    InsufficientStock,
    InvalidRequest,
    ProductNotFound,
    Refused,
    RequestIdReused,
    WarehouseClient,
    WarehouseError,
    WarehouseOverloaded,
    line,
)

log = structlog.get_logger(__name__)
T = TypeVar("T")
RETRY_AFTER_DEFAULT_SECONDS = 1.0
NANOS_PER_CENT = 10_000_000


class GrpcGateway:
    """WarehouseGateway over a WarehouseClient."""

    def __init__(self, client: WarehouseClient) -> None:
        self._client = client

    async def reserve(
        self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call
    ) -> Hold | Refusal:
        """Hold stock for an order. Raises: GatewayFault."""
        wanted = [line(wish.product_id, wish.warehouse_id, wish.quantity) for wish in lines]
        answer = await _or_refusal(self._client.reserve(order_id, wanted, ttl_seconds=ttl_seconds, **_options(call)))
        if isinstance(answer, Refusal):
            return answer
        return Hold(
            answer.reservation_id,
            answer.expires_at.ToDatetime(UTC),
            answer.created_at.ToDatetime(UTC),
            tuple(StockLine(held.product_id, held.warehouse_id, held.quantity) for held in answer.lines),
        )

    async def commit(self, reservation_id: str, call: Call) -> Done | Refusal:
        """Sell what is held, taking it again where the hold has expired. Raises: GatewayFault."""
        answer = await _or_refusal(self._client.commit(reservation_id=reservation_id, reacquire=True, **_options(call)))
        return answer if isinstance(answer, Refusal) else Done()

    async def cancel(self, reserve_request_id: str, reason: str, call: Call) -> Done | Refusal:
        """Give back what a Reserve took, or would take later. Raises: GatewayFault."""
        answer = await _or_refusal(
            self._client.cancel(reserve_request_id=reserve_request_id, reason=reason, **_options(call))
        )
        return answer if isinstance(answer, Refusal) else Done()

    async def give_back(self, line: StockLine, reference: str, call: Call) -> Done:
        """Put sold units back on hand. Raises: GatewayFault."""
        answer = await _or_refusal(
            self._client.add_stock(
                line.product_id,
                line.warehouse_id,
                line.quantity,
                returned=True,
                reference=reference,
                **_options(call),
            )
        )
        if isinstance(answer, Refusal):
            raise GatewayFault("WAREHOUSE_ERROR", f"the warehouse does not take returned stock: {answer.code}")
        return Done()

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        """The products that exist, by id. Raises: GatewayFault."""
        with _translated():
            found, _missing = await self._client.get_products(product_ids, **_options(call))
        return {
            product_id: Product(
                product_id,
                _price(product.list_price.units, product.list_price.nanos) if product.HasField("list_price") else None,
                product.list_price.currency_code,
            )
            for product_id, product in found.items()
        }

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        """What is free of a product now; empty for a product that does not exist. Raises: GatewayFault."""
        try:
            with _translated():
                levels = await self._client.list_inventory(product_id, **_options(call))
        except ProductNotFound:
            return ()
        return tuple(StockLine(level.product_id, level.warehouse_id, level.available) for level in levels)

    async def is_serving(self) -> bool:
        """Whether the warehouse answers that it serves."""
        return await self._client.is_serving()


async def _or_refusal(call: Awaitable[T]) -> T | Refusal:
    try:
        with _translated():
            return await call
    except InsufficientStock as refusal:
        details = tuple(
            {
                "product_id": shortage.product_id,
                "warehouse_id": shortage.warehouse_id,
                "requested": shortage.requested,
                "available": shortage.available,
            }
            for shortage in refusal.shortages
        )
        return Refusal(refusal.reason, "not enough stock", details)
    except Refused as refusal:
        return Refusal(refusal.reason, str(refusal), (dict(refusal.metadata),) if refusal.metadata else ())
    except InvalidRequest as refusal:
        violations = tuple({"field": field, "message": text} for field, text in refusal.violations.items())
        return Refusal("INVALID_ARGUMENT", "the warehouse does not accept this", violations)


@contextmanager
def _translated() -> Iterator[None]:
    """Faults become GatewayFault; refusals pass, but for the one that only a bug can cause."""
    try:
        yield
    except DeadlineExceeded as error:
        raise GatewayFault("WAREHOUSE_TIMEOUT", "the warehouse did not answer in time") from error
    except WarehouseOverloaded as error:
        wait = error.retry_after_seconds or RETRY_AFTER_DEFAULT_SECONDS
        raise GatewayFault("WAREHOUSE_OVERLOADED", "the warehouse is busy; try again shortly", wait) from error
    except RequestIdReused as error:
        log.exception("request_id_reused", reason=error.reason)
        raise GatewayFault("WAREHOUSE_ERROR", "the warehouse did not accept this service's call") from error
    except (Refused, InvalidRequest):
        raise
    except WarehouseError as error:
        log.warning("warehouse_fault", reason=error.reason, error=str(error))
        wait = error.retry_after_seconds or RETRY_AFTER_DEFAULT_SECONDS
        raise GatewayFault("WAREHOUSE_UNAVAILABLE", "the warehouse is away; try again shortly", wait) from error


def _price(units: int, nanos: int) -> Decimal:
    return Decimal(units) + Decimal(nanos // NANOS_PER_CENT) / 100


def _options(call: Call) -> CallOptions:
    options: CallOptions = {"correlation_id": call.correlation_id, "traceparent": call.traceparent}
    if call.request_id:
        options["request_id"] = call.request_id
    if call.deadline_seconds is not None:
        options["deadline_seconds"] = call.deadline_seconds
    return options
