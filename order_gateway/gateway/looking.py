"""A look at what is free of several products. It is advice only: what was free may be gone when it is asked for."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from order_gateway.gateway.port import Call, StockLine, WarehouseGateway


async def free_stock(
    gateway: WarehouseGateway, product_ids: Iterable[int], call: Call
) -> Mapping[int, Sequence[StockLine]]:
    """What is free of each product, preferred warehouses first. Raises: GatewayFault."""
    products = sorted(product_ids)
    found = await asyncio.gather(*(gateway.available(product_id, call) for product_id in products))
    return dict(zip(products, found, strict=True))
