"""Which warehouse each line comes from: for new orders and for refused ones, whatever was seen and whatever is true."""

from collections import Counter
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from order_gateway.allocation import allocate, chosen_warehouses, movable, reallocate, undecided, with_warehouses
from order_gateway.gateway.port import Refusal, StockLine
from order_gateway.lifecycle import Item

PRODUCTS, WAREHOUSES = (1, 2), (1, 2, 3)
Levels = dict[tuple[int, int], int]

levels = st.dictionaries(
    st.tuples(st.sampled_from(PRODUCTS), st.sampled_from(WAREHOUSES)), st.integers(0, 12), max_size=6
)
lines = st.lists(
    st.tuples(st.sampled_from(PRODUCTS), st.none() | st.sampled_from(WAREHOUSES), st.integers(1, 8)),
    min_size=1,
    max_size=5,
)


def items_of(*wanted: tuple[int, int | None, int]) -> tuple[Item, ...]:
    """Lines of (product, warehouse, quantity); ours to choose where there is no warehouse."""
    return tuple(
        Item(number, product_id, warehouse_id, quantity, Decimal(1), Decimal(quantity), warehouse_id is None)
        for number, (product_id, warehouse_id, quantity) in enumerate(wanted)
    )


def seen(levels: Levels, product_ids: set[int] | None = None) -> dict[int, list[StockLine]]:
    """What a look shows, preferred warehouses first."""
    return {
        product_id: [StockLine(*key, levels[key]) for key in sorted(levels) if key[0] == product_id]
        for product_id in product_ids or set(PRODUCTS)
    }


def asked(items: tuple[Item, ...]) -> Counter[tuple[int, int | None]]:
    """What the lines ask of each stock level together."""
    units: Counter[tuple[int, int | None]] = Counter()
    for item in items:
        units[item.product_id, item.warehouse_id] += item.quantity
    return units


def reserve(items: tuple[Item, ...], levels: Levels) -> Refusal | None:
    """What the warehouse says to these lines; None: they are held."""
    short = [
        {
            "product_id": product_id,
            "warehouse_id": warehouse_id,
            "requested": units,
            "available": levels[product_id, warehouse_id],
        }
        for (product_id, warehouse_id), units in asked(items).items()
        if warehouse_id is not None and units > levels.setdefault((product_id, warehouse_id), 0)
    ]
    return Refusal("INSUFFICIENT_STOCK", "not enough stock", tuple(short)) if short else None


@given(lines, levels)
def test_what_is_allotted_is_there_and_wishes_are_kept(wanted: list[tuple[int, int | None, int]], free: Levels) -> None:
    items = items_of(*wanted)
    warehouses = allocate(items, seen(free))
    if isinstance(warehouses, Refusal):
        products = {item.product_id for item in items if item.any_warehouse}
        assert {detail["product_id"] for detail in warehouses.details} <= products
        return
    chosen = with_warehouses(items, warehouses)
    ours = {(item.product_id, item.warehouse_id) for item in chosen if item.any_warehouse}
    for before, after in zip(items, chosen, strict=True):
        assert after.warehouse_id == before.warehouse_id or before.any_warehouse
    for level, units in asked(chosen).items():
        assert level not in ours or units <= free[level[0], level[1] or 0]
    assert undecided(chosen) == set()


@given(st.integers(1, 12), levels)
def test_one_line_is_refused_only_if_no_warehouse_has_enough(quantity: int, free: Levels) -> None:
    warehouses = allocate(items_of((1, None, quantity)), seen(free))
    enough = [
        warehouse_id
        for (product_id, warehouse_id), units in sorted(free.items())
        if product_id == 1 and units >= quantity
    ]
    if enough:
        assert warehouses == (enough[0],)
    else:
        assert isinstance(warehouses, Refusal)
        best = max((units for (product_id, _), units in free.items() if product_id == 1), default=0)
        assert [(detail["requested"], detail["available"]) for detail in warehouses.details] == [(quantity, best)]


def test_large_lines_choose_first() -> None:
    free = {(1, 1): 5, (1, 2): 4}
    assert allocate(items_of((1, None, 4), (1, None, 5)), seen(free)) == (2, 1)


@given(lines, levels, levels)
def test_with_a_true_look_the_second_choice_is_held(
    wanted: list[tuple[int, int | None, int]], believed: Levels, true: Levels
) -> None:
    """The first came from an outdated look. Where there is no second choice, at least nothing was asked in vain."""
    items = items_of(*wanted)
    first = allocate(items, seen(believed))
    if isinstance(first, Refusal):
        return
    current = with_warehouses(items, first)
    refusal = reserve(current, true)
    if refusal is None or not (products := movable(current, refusal)):
        return
    again = reallocate(current, refusal, seen(true, products))
    if again is None:
        return
    assert again != first
    assert reserve(with_warehouses(items, again), true) is None
    for item, warehouse_id in zip(items, again, strict=True):
        assert warehouse_id == item.warehouse_id or item.any_warehouse


def short(product_id: int, warehouse_id: int, requested: int, available: int) -> Refusal:
    detail = {
        "product_id": product_id,
        "warehouse_id": warehouse_id,
        "requested": requested,
        "available": available,
    }
    return Refusal("INSUFFICIENT_STOCK", "not enough stock", (detail,))


def at_first(*wanted: tuple[int, int | None, int]) -> tuple[Item, ...]:
    """Lines whose open warehouses were all set to 1."""
    items = items_of(*wanted)
    return with_warehouses(items, tuple(warehouse_id or 1 for warehouse_id in chosen_warehouses(items)))


def test_what_was_just_refused_counts_more_than_a_look() -> None:
    assert reallocate(at_first((1, None, 4)), short(1, 1, 4, 3), seen({(1, 1): 9, (1, 2): 9})) == (2,)
    assert reallocate(at_first((1, None, 4)), short(1, 1, 4, 3), seen({(1, 1): 9, (1, 2): 3})) is None


def test_lines_that_share_a_warehouse_part_if_they_must() -> None:
    stock = seen({(1, 1): 5, (1, 2): 5})
    assert reallocate(at_first((1, None, 4), (1, None, 4)), short(1, 1, 8, 5), stock) == (1, 2)
    assert reallocate(at_first((1, 1, 4), (1, None, 4)), short(1, 1, 8, 5), stock) == (1, 2)


def test_what_the_customer_wished_is_not_moved() -> None:
    items = at_first((1, 1, 4), (2, None, 1))
    assert movable(items, short(1, 1, 4, 3)) == set()
    assert movable(items, Refusal("PRODUCT_NOT_FOUND", "no such product", ({"product_id": 2},))) == set()
    # Moving our line does not help where the wished one alone is too much.
    both = at_first((1, 1, 6), (1, None, 1))
    assert movable(both, short(1, 1, 7, 5)) == {1}
    assert reallocate(both, short(1, 1, 7, 5), seen({(1, 1): 5, (1, 2): 5})) is None
