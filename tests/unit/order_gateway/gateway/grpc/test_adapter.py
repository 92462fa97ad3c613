"""Calls about stock share the circuit breaker of the orders' calls; what they are refused for tells numbers."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from order_gateway.gateway.breaker import BreakerSettings, GuardedGateway
from order_gateway.gateway.grpc.adapter import GrpcGateway
from order_gateway.gateway.port import Call, Done, GatewayFault, Refusal, StockLine
from order_gateway.gateway.stock import LevelKey
from stockwarden_client import (
    InvalidRequest,
    PermissionDenied,
    ProductNotFound,
    ReservationCancelled,
    WarehouseClient,
    WarehouseUnavailable,
)

CALL = Call("", "c-1")


class Client:
    """A warehouse that fails as told, whatever it is asked."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*_arguments: object, **_options: object) -> Any:
            self.asked.append(name)
            raise self.error

        return call


def of(client: Client) -> GrpcGateway:
    return GrpcGateway(cast("WarehouseClient", client))


def guarded(client: Client) -> GuardedGateway:
    return GuardedGateway(of(client), BreakerSettings(failures_max=2), 1)


async def test_a_warehouse_that_is_away_is_soon_not_asked_any_more() -> None:
    client = Client(WarehouseUnavailable("away"))
    gateway = guarded(client)
    for _ in range(4):
        with pytest.raises(GatewayFault) as caught:
            await gateway.level(LevelKey(1, 1), CALL)
        assert caught.value.code == "WAREHOUSE_UNAVAILABLE"
    assert (client.asked, gateway.state) == (["get_inventory"] * 2, "open")


async def test_a_refusal_is_an_answer() -> None:
    client = Client(ProductNotFound("there is no product 1", reason="PRODUCT_NOT_FOUND"))
    gateway = guarded(client)
    for _ in range(4):
        await gateway.level(LevelKey(1, 1), CALL)
    assert (len(client.asked), gateway.state) == (4, "closed")


CANCELLED = ReservationCancelled("over", reason="RESERVATION_CANCELLED", metadata={"product_id": "7", "state": "7"})


@pytest.mark.parametrize("name", ["sell", "hold"])
async def test_a_refusal_of_a_direct_call_tells_numbers_as_numbers(name: str) -> None:
    refusal = await getattr(of(Client(CANCELLED)), name)("h-1", CALL)
    assert refusal == Refusal("RESERVATION_CANCELLED", str(CANCELLED), ({"product_id": 7, "state": "7"},))


async def test_a_refusal_of_an_order_s_step_is_kept_as_it_came() -> None:
    refusal = await of(Client(CANCELLED)).commit("h-1", CALL)
    assert not isinstance(refusal, Done)
    assert refusal.details == ({"product_id": "7", "state": "7"},)


@pytest.mark.parametrize("name", ["levels", "check", "sweep", "product", "product_page"])
async def test_what_the_warehouse_has_no_reason_to_refuse_is_a_fault(name: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "levels": ([LevelKey(1, 1)],),
        "check": ([StockLine(1, 1, 1)],),
        "product": (1,),
        "product_page": (0, 10, ""),
    }
    gateway = of(Client(InvalidRequest("what?", reason="INVALID_ARGUMENT")))
    with pytest.raises(GatewayFault) as caught:
        await getattr(gateway, name)(*arguments.get(name, ()), CALL)
    assert caught.value.code == "WAREHOUSE_ERROR"


async def test_what_is_wrong_with_the_key_is_a_refusal_and_silence_a_fault() -> None:
    denied = PermissionDenied(
        "no", reason="PERMISSION_DENIED", metadata={"key": "shop", "role": "x", "needed": "order"}
    )
    refusal = await of(Client(denied)).caller(CALL)
    assert isinstance(refusal, Refusal)
    assert "its key 'shop' has the role x" in refusal.message
    with pytest.raises(GatewayFault, match="UNAVAILABLE"):
        await of(Client(WarehouseUnavailable("away", reason="UNAVAILABLE"))).caller(CALL)
