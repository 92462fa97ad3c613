"""What was last known of products, kept in the database: orders are still priced while the warehouse is away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway import statements
from order_gateway.gateway import GatewayFault, Product
from service_kit.database import Database, Fault

log = structlog.get_logger(__name__)
Pages = Callable[[], AsyncIterator[Mapping[int, Product]]]


class KnownProducts:
    """The memory; it never fails a caller: what it can't keep or find is not known."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[int, Product] = {}

    async def remember(self, products: Mapping[int, Product]) -> None:
        """Keep what is new."""
        fresh = [product for product_id, product in products.items() if self._kept.get(product_id) != product]
        if not fresh:
            return
        rows = sorted((one.product_id, one.price, one.currency) for one in fresh)
        document = msgspec.json.encode(rows).decode()

        async def work(connection: AsyncConnection) -> None:
            await connection.exec_driver_sql(statements.REMEMBER_PRODUCTS, {"products": document})

        try:
            await self._database.run_in_transaction(work)
        except Fault as fault:
            log.warning("products_not_remembered", error=str(fault))
        else:
            self._kept.update({one.product_id: one for one in fresh})

    async def recall(self, product_ids: Iterable[int]) -> dict[int, Product]:
        """Those of `product_ids` that were ever seen."""
        document = msgspec.json.encode([[product_id] for product_id in sorted(product_ids)]).decode()

        async def work(connection: AsyncConnection) -> dict[int, Product]:
            rows = await connection.exec_driver_sql(statements.RECALL_PRODUCTS, {"products": document})
            return {int(row.product_id): Product(int(row.product_id), row.price, row.currency) for row in rows}

        try:
            return await self._database.run_in_transaction(work)
        except Fault as fault:
            log.warning("products_not_recalled", error=str(fault))
            return {}

    async def follow(self, pages: Pages, every_seconds: float, retry_seconds: float) -> None:
        """Keep the whole catalogue, again and again; runs until cancelled."""
        while True:
            pause = every_seconds
            try:
                async for page in pages():
                    await self.remember(page)
            except GatewayFault as fault:
                log.info("catalogue_not_read", error=str(fault))
                pause = retry_seconds
            await asyncio.sleep(pause)
