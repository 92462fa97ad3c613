"""The demo catalogue of `make run`. Every call has a fixed request id, so loading it twice changes nothing."""

from google.type.money_pb2 import Money

from stockwarden_client import ClientSettings, WarehouseClient
from stockwarden_client.v1.stock_pb2 import CreateProductRequest, CreateWarehouseRequest

UNITS = 100
PRODUCTS = (
    (1, "TSHIRT", "T-shirt", 19, 99),
    (2, "HOODIE", "Hoodie", 29, 99),
    (3, "MUG", "Mug", 9, 99),
)
WAREHOUSES = ((1, "MAIN", "Main warehouse"), (2, "EAST", "East warehouse"))
_NANOS_PER_CENT = 10_000_000


async def load_demo(target: str, api_key: str) -> None:
    """Make the demo's products and warehouses and put stock on hand. Raises: WarehouseError."""
    async with WarehouseClient(ClientSettings(target=target, api_key=api_key)) as warehouse:
        for number, code, name in WAREHOUSES:
            await warehouse.create_warehouse(
                CreateWarehouseRequest(
                    request_id=f"demo-warehouse-{number}", warehouse_id=number, code=code, name=name, priority=number
                )
            )
        for number, sku, name, units, cents in PRODUCTS:
            price = Money(currency_code="USD", units=units, nanos=cents * _NANOS_PER_CENT)
            await warehouse.create_product(
                CreateProductRequest(
                    request_id=f"demo-product-{number}", product_id=number, sku=sku, name=name, list_price=price
                )
            )
            for warehouse_id, _, _ in WAREHOUSES:
                request_id = f"demo-stock-{number}-{warehouse_id}"
                await warehouse.add_stock(number, warehouse_id, UNITS, notes="demo data", request_id=request_id)
