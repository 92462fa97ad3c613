"""The catalogue over HTTP."""

from aiohttp import web

from order_gateway.gateway.looking import products_at
from order_gateway.gateway.port import WarehouseGateway
from order_gateway.gateway.stock import CatalogueProduct
from order_gateway.http.calls import reading
from order_gateway.http.framework.operations import Operation
from order_gateway.http.inventory import agreed
from order_gateway.http.wire.errors import success, success_page
from order_gateway.http.wire.fields import ById, PageQuery


class ProductRoutes:
    """The operations on products."""

    def __init__(self, gateway: WarehouseGateway, prefix: str) -> None:
        self._gateway = gateway
        self._prefix = prefix

    def operations(self) -> list[Operation]:
        """All of them."""
        at, tag = f"{self._prefix}/products", "products"
        return [
            Operation("GET", at, self.list, CatalogueProduct, tag, is_list=True),
            Operation("GET", f"{at}/{{id}}", self.show, CatalogueProduct, tag, codes=("PRODUCT_NOT_FOUND",)),
        ]

    async def list(self, request: web.Request, query: PageQuery) -> web.Response:
        """List products by id."""
        skip = (query.page - 1) * query.limit
        found, total = await products_at(self._gateway, skip, query.limit, reading(request))
        return success_page(found, query.page, query.limit, total)

    async def show(self, request: web.Request, path: ById) -> web.Response:
        """Show a product."""
        return success(agreed(await self._gateway.product(path.id, reading(request))))
