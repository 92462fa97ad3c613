"""What opens the circuit breaker, and what does not: silence and absence do, answers and late looks don't."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

import stockwarden_client as client
from order_gateway.gateway.breaker import BreakerSettings, GuardedGateway
from order_gateway.gateway.grpc.translation import translated
from order_gateway.gateway.port import Call, GatewayFault, WarehouseGateway

CALL = Call("", "c-1")
LONG_SECONDS = 0.01
IMPATIENT = BreakerSettings(failures_max=3, silence_seconds=LONG_SECONDS)
PATIENT = BreakerSettings(failures_max=3, silence_seconds=60)


class Warehouse:
    """Every call waits, then fails with `fault`."""

    def __init__(self, fault: GatewayFault, seconds: float = 0.0, *, is_well: bool = True) -> None:
        self.fault = fault
        self.seconds = seconds
        self.is_well = is_well

    async def reserve(self, *_: object) -> Any:
        await asyncio.sleep(self.seconds)
        raise self.fault

    products = available = commit = cancel = give_back = reserve

    async def is_serving(self) -> bool:
        return self.is_well


def silence() -> client.DeadlineExceeded:
    return client.DeadlineExceeded("no answer", reason="DEADLINE_EXCEEDED")


def told_late() -> client.DeadlineExceeded:
    told = client.DeadlineExceeded("there was no time left for this call", reason="DEADLINE_EXCEEDED")
    told.is_silence = False
    return told


DENIED = {"key": "shop", "role": "order", "needed": "admin"}
ANSWERS = [
    (client.PermissionDenied("no", reason="PERMISSION_DENIED", metadata=DENIED), "WAREHOUSE_DENIED"),
    (client.Unauthenticated("who?", reason="UNAUTHENTICATED"), "WAREHOUSE_DENIED"),
    (client.WarehouseBroken("a bug", reason="INTERNAL"), "WAREHOUSE_ERROR"),
    (client.WarehouseBroken("an older one", reason="UNIMPLEMENTED"), "WAREHOUSE_ERROR"),
    (client.WarehouseOverloaded("busy", reason="RESOURCE_EXHAUSTED"), "WAREHOUSE_OVERLOADED"),
    (client.WarehouseBusy("locks", reason="LOCK_RETRIES_SPENT"), "WAREHOUSE_BUSY"),
    (client.RequestIdReused("again", reason="REQUEST_ID_REUSED"), "WAREHOUSE_ERROR"),
    (told_late(), "WAREHOUSE_BUSY"),
]


async def state_after_calls(
    warehouse: Warehouse, call: Callable[[GuardedGateway], Awaitable[Any]], settings: BreakerSettings = IMPATIENT
) -> str:
    gateway = GuardedGateway(cast("WarehouseGateway", warehouse), settings)
    for _ in range(5):
        with pytest.raises(GatewayFault):
            await call(gateway)
        await asyncio.sleep(0)
    return gateway.state


def reserve(gateway: GuardedGateway) -> Awaitable[Any]:
    return gateway.reserve("1", [], 60, CALL)


@pytest.mark.parametrize(("error", "code"), ANSWERS)
async def test_an_answer_is_an_answer(error: client.WarehouseError, code: str) -> None:
    fault = translated(error)
    assert fault is not None
    assert fault.code == code
    warehouse = Warehouse(fault, 2 * LONG_SECONDS)
    for call in (reserve, lambda gateway: gateway.products([1], CALL), lambda gateway: gateway.available(1, CALL)):
        assert await state_after_calls(warehouse, call) == "closed"


async def test_a_refused_key_is_told_with_what_it_lacks() -> None:
    fault = translated(ANSWERS[0][0])
    assert fault is not None
    assert "its key 'shop' has the role order, and this needs admin (ORDERS_WAREHOUSE_API_KEY)" in str(fault)


@pytest.mark.parametrize("error", [silence(), client.WarehouseUnavailable("away", reason="UNAVAILABLE")])
async def test_silence_and_absence_open_it(error: client.WarehouseError) -> None:
    fault = translated(error)
    assert fault is not None
    assert await state_after_calls(Warehouse(fault, 1.2 * LONG_SECONDS), reserve) == "open"


async def test_a_call_that_had_hardly_any_time_says_nothing() -> None:
    fault = translated(silence())
    assert fault is not None
    assert await state_after_calls(Warehouse(fault), reserve, PATIENT) == "closed"


@pytest.mark.parametrize("look", ["products", "available"])
@pytest.mark.parametrize("is_well", [True, False])
async def test_a_late_look_counts_only_if_nothing_is_answered(look: str, is_well: bool) -> None:
    fault = translated(silence())
    assert fault is not None

    async def call(gateway: GuardedGateway) -> Any:
        await (gateway.products([1], CALL) if look == "products" else gateway.available(1, CALL))

    warehouse = Warehouse(fault, 1.2 * LONG_SECONDS, is_well=is_well)
    assert await state_after_calls(warehouse, call) == ("closed" if is_well else "open")
    assert await state_after_calls(Warehouse(fault, is_well=False), call, PATIENT) == "closed"


async def test_a_good_look_does_not_hide_that_nothing_can_be_reserved() -> None:
    fault = translated(silence())
    assert fault is not None
    warehouse = Warehouse(fault, 1.2 * LONG_SECONDS)

    async def seen(*_: object) -> Any:
        return {}

    warehouse.products = seen  # type: ignore[method-assign]

    async def call(gateway: GuardedGateway) -> Any:
        if not gateway.is_open:
            await gateway.products([1], CALL)
        await reserve(gateway)

    assert await state_after_calls(warehouse, call) == "open"


class Recording:
    """Notes each call's name and its last argument, then fails as one does that is away."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, object]] = []

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: object) -> Any:
            self.asked.append((name, arguments[-1]))
            raise GatewayFault("WAREHOUSE_UNAVAILABLE", "away")

        return call


UNCOUNTED = {"holds_made_since", "catalogue", "caller", "is_serving", "connections_replaced"}
TIMED_BY_THEIR_CALLERS = {"reserve", "state_of", "commit", "cancel", "give_back", "products", "available"}
PORT = {name for name in vars(WarehouseGateway) if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted(PORT - UNCOUNTED))
async def test_every_call_counts_and_has_a_time_limit(name: str) -> None:
    within = Recording()
    gateway = GuardedGateway(cast("WarehouseGateway", within), BreakerSettings(failures_max=2), 7)
    call = getattr(gateway, name)
    others = len(inspect.signature(call).parameters) - 1
    for _ in range(3):
        with pytest.raises(GatewayFault):
            await call(*[None] * others, CALL)
    assert gateway.is_open
    assert len(within.asked) == 2
    limited = CALL if name in TIMED_BY_THEIR_CALLERS else Call("", "c-1", deadline_seconds=7)
    assert within.asked[0] == (name, limited)
    if name in TIMED_BY_THEIR_CALLERS:
        assert within.asked[0][1] is CALL


async def test_a_call_s_own_time_limit_stays() -> None:
    within, call = Recording(), Call("", "c-1", deadline_seconds=3)
    with pytest.raises(GatewayFault):
        await GuardedGateway(cast("WarehouseGateway", within), IMPATIENT, 7).sweep(call)
    assert within.asked == [("sweep", call)]


async def test_what_nobody_waits_for_is_tried_whatever_the_state() -> None:
    gateway = GuardedGateway(cast("WarehouseGateway", Recording()), BreakerSettings(failures_max=1))
    for _ in range(2):
        with pytest.raises(GatewayFault):
            await gateway.caller(CALL)
    assert gateway.state == "closed"
