"""PURE: from which warehouse each line of an order comes, where we choose it.

One allocator decides for new orders and for those that were refused; the warehouse's Reserve has the last word.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from msgspec.structs import replace

from order_gateway.gateway.port import Refusal, StockLine
from order_gateway.lifecycle import Item

Stock = Mapping[int, Sequence[StockLine]]
"""What is free of each product, preferred warehouses first."""
ChosenWarehouses = tuple[int, ...]
"""A warehouse for each line, in the lines' order."""


class WantedLine(Protocol):
    """A line that is to get a warehouse; None: we choose."""

    @property
    def product_id(self) -> int:
        """What."""
        ...

    @property
    def warehouse_id(self) -> int | None:
        """Where."""
        ...

    @property
    def quantity(self) -> int:
        """Units."""
        ...


def allocate(lines: Sequence[WantedLine], stock: Stock) -> ChosenWarehouses | Refusal:
    """A warehouse for every line: the first that has enough beside what the other lines take.

    A line comes from one warehouse. Large lines choose before small ones, for which more warehouses have enough.

    Returns: the warehouses; or a refusal that names each line for which no warehouse has enough.
    """
    free = {
        product_id: {level.warehouse_id: level.quantity for level in levels} for product_id, levels in stock.items()
    }
    warehouses: dict[int, int] = {}
    for position, line in enumerate(lines):
        if line.warehouse_id is not None:
            warehouses[position] = line.warehouse_id
            _take(free, line, line.warehouse_id)
    short: dict[int, dict[str, Any]] = {}
    for position in sorted(range(len(lines)), key=lambda position: -lines[position].quantity):
        line = lines[position]
        if position in warehouses:
            continue
        levels = free.get(line.product_id, {})
        warehouse_id = next((warehouse_id for warehouse_id, units in levels.items() if units >= line.quantity), None)
        if warehouse_id is None:
            short[position] = _shortage(line, levels)
        else:
            warehouses[position] = warehouse_id
            _take(free, line, warehouse_id)
    if short:
        return Refusal("INSUFFICIENT_STOCK", "not enough stock", tuple(short[position] for position in sorted(short)))
    return tuple(warehouses[position] for position in range(len(lines)))


def chosen_warehouses(items: Sequence[Item]) -> tuple[int | None, ...]:
    """The warehouses of these lines; None: not chosen yet."""
    return tuple(item.warehouse_id for item in items)


def with_warehouses(items: Sequence[Item], warehouses: ChosenWarehouses) -> tuple[Item, ...]:
    """These lines with their warehouses."""
    return tuple(replace(item, warehouse_id=warehouse_id) for item, warehouse_id in zip(items, warehouses, strict=True))


def undecided(items: Iterable[WantedLine]) -> set[int]:
    """The products of the lines that have no warehouse yet."""
    return {item.product_id for item in items if item.warehouse_id is None}


def movable(items: Sequence[Item], refusal: Refusal) -> set[int]:
    """The products of which a line fell short for which we choose the warehouse."""
    short = _available(refusal)
    return {item.product_id for item in items if item.any_warehouse and (item.product_id, item.warehouse_id) in short}


def reallocate(items: Sequence[Item], refusal: Refusal, stock: Stock) -> ChosenWarehouses | None:
    """Warehouses for an order that was just refused; None: there is nothing better.

    Of the products in `stock`, all lines for which we choose get a warehouse again. A stock level that was just refused
    counts with what the refusal says is available there.
    """
    short = _available(refusal)
    known = {
        product_id: [
            StockLine(product_id, level.warehouse_id, short.get((product_id, level.warehouse_id), level.quantity))
            for level in levels
        ]
        for product_id, levels in stock.items()
    }
    open_ = [
        replace(item, warehouse_id=None) if item.any_warehouse and item.product_id in stock else item for item in items
    ]
    warehouses = allocate(open_, known)
    if isinstance(warehouses, Refusal):
        return None
    asked = dict.fromkeys(short, 0)
    for item, warehouse_id in zip(items, warehouses, strict=True):
        if (item.product_id, warehouse_id) in asked:
            asked[item.product_id, warehouse_id] += item.quantity
    # Lines whose warehouse the customer named may be what is short.
    return warehouses if all(asked[level] <= short[level] for level in short) else None


def _take(free: dict[int, dict[int, int]], line: WantedLine, warehouse_id: int) -> None:
    levels = free.get(line.product_id, {})
    if warehouse_id in levels:
        levels[warehouse_id] -= line.quantity


def _shortage(line: WantedLine, levels: Mapping[int, int]) -> dict[str, Any]:
    best = max(levels, key=lambda warehouse_id: levels[warehouse_id], default=None)
    return {
        "product_id": line.product_id,
        "warehouse_id": best,
        "requested": line.quantity,
        "available": 0 if best is None else max(levels[best], 0),
    }


def _available(refusal: Refusal) -> dict[tuple[int, int], int]:
    """What the refusal says is available, by product and warehouse."""
    if refusal.code != "INSUFFICIENT_STOCK":
        return {}
    return {
        (item["product_id"], item["warehouse_id"]): item["available"]
        for item in refusal.details
        if "warehouse_id" in item
    }
