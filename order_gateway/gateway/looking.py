"""Looks that take several calls. They are advice only: what was free may be gone when it is asked for."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from order_gateway.gateway.port import Call, StockLine, WarehouseGateway
from order_gateway.gateway.stock import Availability, AvailabilityQuestion, CatalogueProduct

LOOKS_AT_ONCE_MAX = 8


async def free_stock(
    gateway: WarehouseGateway, product_ids: Iterable[int], call: Call
) -> Mapping[int, Sequence[StockLine]]:
    """What is free of each product, preferred warehouses first. Raises: GatewayFault."""
    products = sorted(product_ids)
    found = await asyncio.gather(*(gateway.available(product_id, call) for product_id in products))
    return dict(zip(products, found, strict=True))


async def products_at(
    gateway: WarehouseGateway, skip: int, size: int, call: Call
) -> tuple[list[CatalogueProduct], int]:
    """`size` products by id behind the first `skip`, or fewer at the end; and how many there are in all.

    Raises: GatewayFault.
    """
    found: list[CatalogueProduct] = []
    token = ""
    while True:
        page = await gateway.product_page(0 if token else skip, size - len(found), token, call)
        found += page.products
        token = page.next_token
        # A page of the warehouse may be shorter than was asked for, where products have long descriptions.
        if not token or len(found) >= size:
            return found, page.total


class AvailabilityCheck:
    """Answers whether something is free, here or anywhere; of all who ask, few look at a time."""

    def __init__(self, gateway: WarehouseGateway) -> None:
        self._gateway = gateway
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE_MAX)

    async def of(self, wanted: Sequence[AvailabilityQuestion], call: Call) -> list[Availability]:
        """What is free now, for each of `wanted`; several for the same stock level are judged by their sum.

        Raises: GatewayFault.
        """
        fixed = [
            StockLine(item.product_id, item.warehouse_id, item.quantity)
            for item in wanted
            if item.warehouse_id is not None
        ]
        checked = iter(await self._gateway.check(fixed, call) if fixed else ())
        looks = (self._anywhere(item, call) for item in wanted if item.warehouse_id is None)
        anywhere = iter(await asyncio.gather(*looks))
        return [next(anywhere if item.warehouse_id is None else checked) for item in wanted]

    async def _anywhere(self, item: AvailabilityQuestion, call: Call) -> Availability:
        async with self._looks:
            levels = await self._gateway.available(item.product_id, call)
        if not levels:
            return Availability(item.product_id, None, item.quantity, 0, sufficient=False)
        # An order's line comes from one warehouse, so a sum over several would promise too much.
        best = max(levels, key=lambda level: level.quantity)
        is_enough = best.quantity >= item.quantity
        return Availability(item.product_id, best.warehouse_id, item.quantity, best.quantity, is_enough)
