"""What was last known of products, kept in the database: orders are still priced while the warehouse is away."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.gateway.port import Product
from order_gateway.pricing.lru_cache import LruCache
from order_gateway.storage import statements
from service_kit.database.database import Database, Fault

log = structlog.get_logger(__name__)
PRODUCTS_CACHED_MAX = 10_000
PRODUCTS_CACHED_SECONDS = 60.0
"""What this process has written is written again after so long: another one may have written something else since."""


class PriceCatalogue:
    """The memory; it never fails a caller: what it can't keep or find is not known."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._written: LruCache[int, Product] = LruCache(PRODUCTS_CACHED_MAX)

    async def remember(self, products: Mapping[int, Product]) -> None:
        """Keep what is new."""
        fresh = [
            product
            for product_id, product in products.items()
            if self._written.get(product_id, PRODUCTS_CACHED_SECONDS) != product
        ]
        if fresh:
            try:
                await self._write(fresh)
            except Fault as fault:
                log.warning("products_not_remembered", error=str(fault))

    async def learn(self, products: Mapping[int, Product]) -> None:
        """Keep all of these. Raises: DatabaseFault."""
        if products:
            await self._write(list(products.values()))

    async def _write(self, fresh: Sequence[Product]) -> None:
        rows = sorted((one.product_id, one.price, one.currency) for one in fresh)
        document = msgspec.json.encode(rows).decode()

        async def work(connection: AsyncConnection) -> None:
            await connection.exec_driver_sql(statements.REMEMBER_PRODUCTS, {"products": document})

        await self._database.run_in_transaction(work)
        for one in fresh:
            self._written.put(one.product_id, one)

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
