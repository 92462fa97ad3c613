"""The gRPC servicer of catalogue, stock levels and ledger."""

from stockwarden_client.v1 import stock_pb2 as pb
from stockwarden_client.v1.stock_pb2_grpc import StockServiceServicer
from warehouse.auth import Role
from warehouse.reading.paging import Cursor, make_token, page_size, read_token
from warehouse.reading.queries import StockQueries
from warehouse.rpc import wire
from warehouse.rpc.edge import Caller, Edge, rpc
from warehouse.settings import Limits
from warehouse.stock import refusals
from warehouse.stock.commands import Answer, StockCommand
from warehouse.stock.records import Movement, MovementType
from warehouse.stock.refusals import Refusal
from warehouse.stock.sizes import that_fit
from warehouse.validation import ID_MAX, KEYS_MAX, Checks
from warehouse.writing.catalogue import Catalogue, products_page
from warehouse.writing.store import LevelBatcher, StockBatcher

LEVELS_OF_PRODUCT_MAX = 1000
SKIP_MAX = 1_000_000
ID_BYTES = 10
"""What an id takes in a message at most."""


def _role_to_add(request: pb.AddStockRequest) -> Role:
    """Who may sell may give back what was sold; anything else that comes in is stock-keeping."""
    return Role.ORDER if request.type == pb.MOVEMENT_TYPE_RETURNED else Role.ADMIN


class Administration(StockServiceServicer):
    """StockService; the contract is documented in protos/warehouse/v1/stock.proto."""

    def __init__(
        self,
        edge: Edge,
        batcher: StockBatcher,
        levels: LevelBatcher,
        queries: StockQueries,
        catalogue: Catalogue,
        limits: Limits,
        message_bytes_max: int,
    ) -> None:
        self.edge = edge
        self._batcher = batcher
        self._levels = levels
        self._queries = queries
        self._catalogue = catalogue
        self._limits = limits
        self._message_bytes_max = message_bytes_max

    @rpc(Role.ADMIN)
    async def CreateProduct(
        self, request: pb.CreateProductRequest, _caller: Caller
    ) -> pb.CreateProductResponse | Refusal:
        answer = await self._catalogue.create_product(wire.create_product(request))
        if isinstance(answer, Refusal):
            return answer
        assert answer.product is not None
        return pb.CreateProductResponse(product=wire.product(answer.product))

    @rpc(Role.ADMIN)
    async def CreateWarehouse(
        self, request: pb.CreateWarehouseRequest, _caller: Caller
    ) -> pb.CreateWarehouseResponse | Refusal:
        answer = await self._catalogue.create_warehouse(wire.create_warehouse(request))
        if isinstance(answer, Refusal):
            return answer
        assert answer.warehouse is not None
        return pb.CreateWarehouseResponse(warehouse=wire.warehouse(answer.warehouse))

    @rpc(Role.READER)
    async def BatchGetProducts(
        self, request: pb.BatchGetProductsRequest, _caller: Caller
    ) -> pb.BatchGetProductsResponse:
        checks = Checks()
        checks.count("product_ids", len(request.product_ids), KEYS_MAX)
        for position, product_id in enumerate(request.product_ids):
            checks.number(f"product_ids[{position}]", product_id, 1, ID_MAX)
        checks.done()
        found = await self._catalogue.products(list(request.product_ids))
        missing = set(request.product_ids) - {product.product_id for product in found}
        # What doesn't exist is named in any case, so its ids leave that much less room.
        room = self._message_bytes_max - ID_BYTES * len(request.product_ids)
        told = that_fit([wire.product(product) for product in found], room)
        return pb.BatchGetProductsResponse(
            products=told,
            missing_product_ids=sorted(missing),
            left_out_product_ids=[product.product_id for product in found[len(told) :]],
        )

    @rpc(Role.READER)
    async def ListProducts(self, request: pb.ListProductsRequest, _caller: Caller) -> pb.ListProductsResponse:
        size = page_size(request.page_size, self._limits.page_size_default)
        checks = Checks()
        skip = checks.number("skip", request.skip, 0, SKIP_MAX)
        is_partial = request.HasField("changed_since")
        since = wire.since_filter(checks, request.changed_since, "changed_since") if is_partial else None
        checks.done()
        filters = ("products",) if since is None else ("products", since)
        cursor = read_token(request.page_token, filters, (int,))
        read = await self._queries.listed(
            lambda connection: products_page(
                connection,
                int(cursor[0]) if cursor else 0,
                size + 1,
                skip=skip,
                changed_since=since,
                counted=not request.without_total,
            )
        )
        page = that_fit([wire.product(product) for product in read.products[:size]], self._message_bytes_max)
        token = make_token(filters, (page[-1].product_id,)) if len(read.products) > len(page) else ""
        return pb.ListProductsResponse(
            products=page, next_page_token=token, total_size=read.total, read_at=wire.timestamp(read.read_at)
        )

    @rpc(Role.READER)
    async def GetInventory(self, request: pb.GetInventoryRequest, caller: Caller) -> pb.GetInventoryResponse | Refusal:
        checks = Checks()
        key = (
            checks.number("product_id", request.product_id, 1, ID_MAX),
            checks.number("warehouse_id", request.warehouse_id, 1, ID_MAX),
        )
        checks.done()
        level = (await self._levels.submit((key,), caller.deadline)).get(key)
        if level is None:
            return refusals.level_not_found(key, *await self._queries.existing([key]))
        return pb.GetInventoryResponse(stock_level=wire.stock_level(level))

    @rpc(Role.READER)
    async def BatchGetInventory(
        self, request: pb.BatchGetInventoryRequest, caller: Caller
    ) -> pb.BatchGetInventoryResponse:
        checks = Checks()
        checks.count("keys", len(request.keys), KEYS_MAX)
        for position, key in enumerate(request.keys):
            checks.number(f"keys[{position}].product_id", key.product_id, 1, ID_MAX)
            checks.number(f"keys[{position}].warehouse_id", key.warehouse_id, 1, ID_MAX)
        checks.done()
        keys = tuple(dict.fromkeys((key.product_id, key.warehouse_id) for key in request.keys))
        levels = await self._levels.submit(keys, caller.deadline)
        return pb.BatchGetInventoryResponse(
            stock_levels=[wire.stock_level(levels[key]) for key in keys if key in levels],
            missing=[pb.StockLevelKey(product_id=key[0], warehouse_id=key[1]) for key in keys if key not in levels],
        )

    @rpc(Role.READER)
    async def ListInventory(
        self, request: pb.ListInventoryRequest, _caller: Caller
    ) -> pb.ListInventoryResponse | Refusal:
        checks = Checks()
        checks.number("product_id", request.product_id, 1, ID_MAX)
        checks.done()
        size = page_size(request.page_size, LEVELS_OF_PRODUCT_MAX)
        cursor = read_token(request.page_token, ("levels", request.product_id), (int, int))
        after = (int(cursor[0]), int(cursor[1])) if cursor else None
        found = await self._queries.levels_of_product(request.product_id, after, size + 1)
        if not found and not cursor and not await self._catalogue.products([request.product_id]):
            return refusals.level_not_found((request.product_id, 0), (), ())
        page = that_fit([wire.stock_level(level) for _, level in found[:size]], self._message_bytes_max)
        token = ""
        if len(found) > len(page):
            priority, last = found[len(page) - 1]
            token = make_token(("levels", request.product_id), (priority, last.warehouse_id))
        return pb.ListInventoryResponse(stock_levels=page, next_page_token=token)

    @rpc(_role_to_add)
    async def AddStock(self, request: pb.AddStockRequest, caller: Caller) -> pb.AddStockResponse | Refusal:
        command = wire.change_stock(request, caller, (MovementType.STOCK_IN, MovementType.RETURNED), 1)
        outcome = await self._change(command, caller)
        return outcome if isinstance(outcome, Refusal) else pb.AddStockResponse(**outcome)

    @rpc(Role.ADMIN)
    async def RemoveStock(self, request: pb.RemoveStockRequest, caller: Caller) -> pb.RemoveStockResponse | Refusal:
        command = wire.change_stock(request, caller, (MovementType.STOCK_OUT, MovementType.DAMAGED), -1)
        outcome = await self._change(command, caller)
        return outcome if isinstance(outcome, Refusal) else pb.RemoveStockResponse(**outcome)

    @rpc(Role.ADMIN)
    async def UpdateInventory(
        self, request: pb.UpdateInventoryRequest, caller: Caller
    ) -> pb.UpdateInventoryResponse | Refusal:
        outcome = await self._change(wire.count_stock(request, caller), caller)
        return outcome if isinstance(outcome, Refusal) else pb.UpdateInventoryResponse(**outcome)

    async def _change(self, command: StockCommand, caller: Caller) -> wire.LevelAndMovement | Refusal:
        answer: Answer | Refusal = await self._batcher.submit(command, caller.deadline)
        return answer if isinstance(answer, Refusal) else wire.level_and_movement(answer)

    @rpc(Role.READER)
    async def ListMovements(self, request: pb.ListMovementsRequest, _caller: Caller) -> pb.ListMovementsResponse:
        checks = Checks()
        checks.number("product_id", request.product_id, 1, ID_MAX)
        checks.number("warehouse_id", request.warehouse_id, 0, ID_MAX)
        kind = wire.movement_type_filter(checks, request.type)
        since = wire.since_filter(checks, request.since) if request.HasField("since") else None
        checks.done()
        size = page_size(request.page_size, self._limits.page_size_default)
        filters = (request.product_id, request.warehouse_id, request.type, since or 0)
        cursor = read_token(request.page_token, filters, (int, int))
        found = await self._ledger(request, kind, since, cursor, size + 1)
        page = that_fit([wire.movement(item) for item in found[:size]], self._message_bytes_max)
        token = make_token(filters, (page[-1].warehouse_id, page[-1].sequence)) if len(found) > len(page) else ""
        return pb.ListMovementsResponse(movements=page, next_page_token=token)

    async def _ledger(
        self,
        request: pb.ListMovementsRequest,
        kind: MovementType | None,
        since: int | None,
        cursor: Cursor | None,
        size: int,
    ) -> list[Movement]:
        """The next `size` movements after the (warehouse_id, sequence) of `cursor`, one warehouse after the other."""
        at, before = (int(cursor[0]), int(cursor[1])) if cursor else (0, None)
        found: list[Movement] = []
        ids = [request.warehouse_id] if request.warehouse_id else await self._warehouses_from(request.product_id, at)
        while ids and len(found) < size:
            for warehouse_id in ids:
                if len(found) < size:
                    start = before if warehouse_id == at else None
                    key = (request.product_id, warehouse_id)
                    found += await self._queries.movements(key, kind, since, start, size - len(found))
            ids = [] if request.warehouse_id else await self._warehouses_from(request.product_id, ids[-1] + 1)
        return found

    async def _warehouses_from(self, product_id: int, least: int) -> list[int]:
        return await self._queries.warehouses_of_product(product_id, least, LEVELS_OF_PRODUCT_MAX)
