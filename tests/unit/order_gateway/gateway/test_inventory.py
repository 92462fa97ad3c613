"""Calls about stock share the circuit breaker of the orders' calls."""

from typing import Any, cast

import pytest

from order_gateway.gateway.breaker import BreakerSettings, GuardedGateway
from order_gateway.gateway.inventory import Inventory, LevelKey
from order_gateway.gateway.port import Call, GatewayFault, WarehouseGateway
from stockwarden_client import ProductNotFound, WarehouseClient, WarehouseUnavailable

CALL = Call("", "c-1")


class Client:
    """A warehouse that fails as told."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    async def get_inventory(self, product_id: int, warehouse_id: int, **_options: Any) -> None:
        self.asked += 1
        raise self.error


def inventory(client: Client) -> tuple[Inventory, GuardedGateway]:
    gateway = GuardedGateway(cast("WarehouseGateway", None), BreakerSettings(failures_max=2))
    return Inventory(cast("WarehouseClient", client), 1, gateway.guarded), gateway


async def test_a_warehouse_that_is_away_is_soon_not_asked_any_more() -> None:
    client = Client(WarehouseUnavailable("away"))
    stock, gateway = inventory(client)
    for _ in range(4):
        with pytest.raises(GatewayFault) as caught:
            await stock.level(LevelKey(1, 1), CALL)
        assert caught.value.code == "WAREHOUSE_UNAVAILABLE"
    assert (client.asked, gateway.state) == (2, "open")


async def test_a_refusal_is_an_answer() -> None:
    client = Client(ProductNotFound("there is no product 1", reason="PRODUCT_NOT_FOUND"))
    stock, gateway = inventory(client)
    for _ in range(4):
        await stock.level(LevelKey(1, 1), CALL)
    assert (client.asked, gateway.state) == (4, "closed")
