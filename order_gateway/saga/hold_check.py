"""Makes sure, before a customer is charged, that what the order held is still there."""

import asyncio
from collections import Counter

import structlog

from order_gateway.gateway.looking import free_stock
from order_gateway.gateway.port import Call, GatewayFault, HoldState, WarehouseGateway
from order_gateway.lifecycle import Order
from service_kit.tracing import current_traceparent

log = structlog.get_logger(__name__)


class HoldCheck:
    """One look at the warehouse; COMMIT still decides.

    Args:
        deadline_seconds: for the look, with all that it asks.
    """

    def __init__(self, gateway: WarehouseGateway, deadline_seconds: float) -> None:
        self._gateway = gateway
        self._deadline_seconds = deadline_seconds

    async def can_be_sold(self, order: Order) -> bool:
        """Whether the hold is there, or is over but its stock is free; also where the warehouse does not answer."""
        call = Call("", order.correlation_id, current_traceparent(), self._deadline_seconds, order.actor)
        try:
            async with asyncio.timeout(self._deadline_seconds):
                state = await self._gateway.state_of(order.reservations[0].reservation_id, call)
                if state is HoldState.EXPIRED:
                    return await self._is_free(order, call)
        except (GatewayFault, TimeoutError) as fault:
            # Customers may pay while the warehouse is away; if the stock is gone then, they are refunded.
            log.info("charged_without_a_look", order_id=order.id, error=str(fault))
            return True
        return state in (HoldState.RESERVED, HoldState.COMMITTED)

    async def _is_free(self, order: Order, call: Call) -> bool:
        """Whether what an expired hold had could be taken again now."""
        wanted: Counter[tuple[int, int]] = Counter()
        for held in order.reservations:
            wanted[held.product_id, held.warehouse_id] += held.quantity
        stock = await free_stock(self._gateway, {product_id for product_id, _ in wanted}, call)
        free = {(line.product_id, line.warehouse_id): line.quantity for lines in stock.values() for line in lines}
        return all(free.get(key, 0) >= quantity for key, quantity in wanted.items())
