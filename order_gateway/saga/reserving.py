"""The RESERVE step of an order: asks for its hold, and chooses warehouses where the customer named none.

A choice is written to the order before it is sent. If the warehouse refuses it, and some of what is short was ours
to choose, another choice is written and sent under the same request id: a refusal has no effect, and the warehouse
keeps none. Only a refusal leads to another choice. After a lost answer the choice stays, because what it asked for
may be held; asking again for the same gets that hold.
"""

import time
from collections.abc import Iterable

from msgspec.structs import replace

from order_gateway.allocation import (
    ChosenWarehouses,
    Stock,
    allocate,
    chosen_warehouses,
    movable,
    reallocate,
    undecided,
)
from order_gateway.gateway.looking import free_stock
from order_gateway.gateway.port import (
    Call,
    GatewayFault,
    Hold,
    Refusal,
    StockLine,
    WarehouseGateway,
)
from order_gateway.lifecycle import Event, Order, Step, is_open
from order_gateway.saga.refusals import refusal_record
from order_gateway.storage.applying import Applied, Change
from order_gateway.storage.store import Store


class ReserveStep:
    """Does the step.

    Args:
        grace_seconds: how long the hold outlives the order's time to be paid.
        changes_max: how often an order is sent to another warehouse.
    """

    def __init__(self, store: Store, gateway: WarehouseGateway, grace_seconds: float, changes_max: int) -> None:
        self._store = store
        self._gateway = gateway
        self._grace_seconds = grace_seconds
        self._changes_max = changes_max

    async def conclude(self, order: Order, call: Call) -> Applied:
        """Ask until the stock is held, or no warehouse has it; write down the outcome.

        Args:
            call: its deadline is for all that is asked together.

        Raises: GatewayFault: the outcome is not known, and the order keeps the choice that was sent last.
        """
        until = time.monotonic() + (call.deadline_seconds or 0)
        while True:
            answer = None if undecided(order.items) else await self._reserve(order, call, until)
            if isinstance(answer, Hold):
                held = Change(Event.RESERVED, hold=answer, warehouses=_decided(order))
                return await self._store.apply(order.id, held, order)
            warehouses = await self._choose(order, answer, call, until)
            change = _refused(order, warehouses) if isinstance(warehouses, Refusal) else _chosen(order, warehouses)
            # It does nothing if somebody else has chosen meanwhile: then their choice is sent.
            applied = await self._store.apply(order.id, change, order)
            order = applied.order
            if not is_open(order.state, Step.RESERVE):
                return applied

    async def _choose(
        self, order: Order, refusal: Refusal | None, call: Call, until: float
    ) -> ChosenWarehouses | Refusal:
        """Warehouses for the order's lines; a refusal if there are none, or none that is better than before."""
        if refusal is None:
            return allocate(order.items, await self._look(undecided(order.items), call, until))
        products = movable(order.items, refusal)
        if not products or order.warehouse_changes >= self._changes_max:
            return refusal
        return reallocate(order.items, refusal, await self._look(products, call, until)) or refusal

    async def _look(self, product_ids: Iterable[int], call: Call, until: float) -> Stock:
        return await free_stock(self._gateway, product_ids, replace(_within(call, until), request_id=""))

    async def _reserve(self, order: Order, call: Call, until: float) -> Hold | Refusal:
        lines = [
            StockLine(item.product_id, warehouse_id, item.quantity)
            for item, warehouse_id in zip(order.items, _decided(order), strict=True)
        ]
        # The order's own time, not this process's setting: a repetition must be the same request, whoever sends it.
        window = order.payment_deadline - order.created_at
        hold_seconds = window.total_seconds() + self._grace_seconds
        name = (await self._store.name(order)).in_warehouse
        return await self._gateway.reserve(name, lines, hold_seconds, _within(call, until))


def _chosen(order: Order, warehouses: ChosenWarehouses) -> Change:
    lines = zip(order.items, warehouses, strict=True)
    new = (
        f"product {item.product_id}: warehouse {warehouse_id}"
        for item, warehouse_id in lines
        if item.warehouse_id != warehouse_id
    )
    return Change(
        Event.WAREHOUSE_CHOSEN,
        note="; ".join(new),
        warehouses=warehouses,
        expected_warehouses=chosen_warehouses(order.items),
    )


def _refused(order: Order, refusal: Refusal) -> Change:
    record = refusal_record(refusal)
    return Change(
        Event.RESERVE_REFUSED, note=refusal.code, refusal=record, expected_warehouses=chosen_warehouses(order.items)
    )


def _decided(order: Order) -> ChosenWarehouses:
    return tuple(warehouse_id for warehouse_id in chosen_warehouses(order.items) if warehouse_id is not None)


def _within(call: Call, until: float) -> Call:
    """The call with what is left of its time. Raises: GatewayFault, if nothing is."""
    left = until - time.monotonic()
    if left <= 0:
        raise GatewayFault("WAREHOUSE_TIMEOUT", "the warehouses with enough stock were not found in time")
    return replace(call, deadline_seconds=left)
