# Made from ../stock.py by tools/sync_client.py. Change that one.
"""The calls of StockService: the catalogue, stock levels and the ledger."""

from collections.abc import Iterable
from datetime import datetime
from typing import Unpack

from stockwarden_client.options import CallContext, CallOptions, EffectOptions, kept_request_id, with_request_id
from stockwarden_client.sync.calling import Calling
from stockwarden_client.v1 import stock_pb2
from stockwarden_client.v1.stock_pb2 import MovementType, StockLevel


class StockCalls(Calling):
    """Methods of `SyncWarehouseClient`."""

    def create_product(self, product: stock_pb2.CreateProductRequest, **call: Unpack[CallOptions]) -> stock_pb2.Product:
        """Add a product; the request id may be left empty. Raises: ProductExists, RequestIdReused, WarehouseError."""
        request = with_request_id(product, call)
        return (self._call(lambda to: to.stock.CreateProduct, request, call)).product

    def get_products(
        self, product_ids: Iterable[int], **call: Unpack[CallOptions]
    ) -> tuple[dict[int, stock_pb2.Product], list[int]]:
        """The products found, by id, and the ids of those that don't exist; several calls if they are long."""
        wanted, found, missing = list(product_ids), dict[int, stock_pb2.Product](), list[int]()
        until = self._until(call)
        while True:
            request = stock_pb2.BatchGetProductsRequest(product_ids=wanted)
            response = self._call(lambda to: to.stock.BatchGetProducts, request, self._rest(call, until))
            found.update((product.product_id, product) for product in response.products)
            missing += response.missing_product_ids
            wanted = list(response.left_out_product_ids)
            if not wanted:
                return found, missing

    def list_products(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        skip: int = 0,
        counted: bool = True,
        changed_since: datetime | None = None,
        **call: Unpack[CallOptions],
    ) -> stock_pb2.ListProductsResponse:
        """A page of the catalogue, by product id, `skip` products further on.

        It may be shorter than `page_size`: there is more as long as it has a next_page_token.

        Args:
            counted: whether to count all products.
            changed_since: only those that were changed then or later, by the database's clock; None: all.
        """
        request = stock_pb2.ListProductsRequest(
            page_size=page_size, page_token=page_token, skip=skip, without_total=not counted
        )
        if changed_since is not None:
            request.changed_since.FromDatetime(changed_since)
        return self._call(lambda to: to.stock.ListProducts, request, call)

    def create_warehouse(
        self, warehouse: stock_pb2.CreateWarehouseRequest, **call: Unpack[CallOptions]
    ) -> stock_pb2.Warehouse:
        """Add a stock location; the request id may be left empty.

        Raises: WarehouseExists, RequestIdReused, or another WarehouseError.
        """
        request = with_request_id(warehouse, call)
        return (self._call(lambda to: to.stock.CreateWarehouse, request, call)).warehouse

    def get_inventory(self, product_id: int, warehouse_id: int, **call: Unpack[CallOptions]) -> StockLevel:
        """One stock level. Raises: ProductNotFound, WarehouseNotFound, StockLevelNotFound, WarehouseError."""
        request = stock_pb2.GetInventoryRequest(product_id=product_id, warehouse_id=warehouse_id)
        return (self._call(lambda to: to.stock.GetInventory, request, call)).stock_level

    def batch_get_inventory(
        self, keys: Iterable[tuple[int, int]], **call: Unpack[CallOptions]
    ) -> stock_pb2.BatchGetInventoryResponse:
        """The stock levels of many (product_id, warehouse_id) pairs; missing ones are named."""
        wanted = [stock_pb2.StockLevelKey(product_id=product, warehouse_id=warehouse) for product, warehouse in keys]
        request = stock_pb2.BatchGetInventoryRequest(keys=wanted)
        return self._call(lambda to: to.stock.BatchGetInventory, request, call)

    def list_inventory(self, product_id: int, **call: Unpack[CallOptions]) -> list[StockLevel]:
        """All stock of a product, preferred warehouses first. Raises: ProductNotFound, or another WarehouseError."""
        levels: list[StockLevel] = []
        token, until = "", self._until(call)
        while True:
            request = stock_pb2.ListInventoryRequest(product_id=product_id, page_token=token)
            page = self._call(lambda to: to.stock.ListInventory, request, self._rest(call, until))
            levels += page.stock_levels
            token = page.next_page_token
            if not token:
                return levels

    def add_stock(
        self,
        product_id: int,
        warehouse_id: int,
        quantity: int,
        *,
        returned: bool = False,
        reference: str = "",
        notes: str = "",
        **call: Unpack[EffectOptions],
    ) -> stock_pb2.AddStockResponse:
        """Put units on hand; `request_id` is required, and to be kept with the delivery.

        Raises: ProductNotFound, WarehouseNotFound, RequestIdReused, or another WarehouseError.
        """
        request = stock_pb2.AddStockRequest(
            request_id=kept_request_id(call),
            product_id=product_id,
            warehouse_id=warehouse_id,
            quantity=quantity,
            type=MovementType.MOVEMENT_TYPE_RETURNED if returned else MovementType.MOVEMENT_TYPE_STOCK_IN,
            reference=reference,
            notes=notes,
        )
        return self._call(lambda to: to.stock.AddStock, request, call)

    def remove_stock(
        self, removal: stock_pb2.RemoveStockRequest, **call: Unpack[CallContext]
    ) -> stock_pb2.RemoveStockResponse:
        """Take free units away; `removal` needs a request id, to be kept with what they are taken for.

        Raises: InsufficientStock, ProductNotFound, WarehouseNotFound, StockLevelNotFound, RequestIdReused, or
            another WarehouseError.
        """
        return self._call(lambda to: to.stock.RemoveStock, removal, call)

    def update_inventory(
        self, count: stock_pb2.UpdateInventoryRequest, **call: Unpack[CallOptions]
    ) -> stock_pb2.UpdateInventoryResponse:
        """Set the counted quantity; the request id may be left empty.

        Raises: InsufficientStock, ReservedMismatch, ProductNotFound, WarehouseNotFound, RequestIdReused, or
            another WarehouseError.
        """
        return self._call(lambda to: to.stock.UpdateInventory, with_request_id(count, call), call)

    def list_movements(
        self, request: stock_pb2.ListMovementsRequest, **call: Unpack[CallOptions]
    ) -> stock_pb2.ListMovementsResponse:
        """A page of the ledger of a product."""
        return self._call(lambda to: to.stock.ListMovements, request, call)
