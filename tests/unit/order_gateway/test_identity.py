"""What orders are called outside: always their own, never too long, and as before for those from before."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from order_gateway.identity import OrderName, new_request_key, parse
from order_gateway.lifecycle import Step

KEY = "0123456789abcdef0123"
numbers = st.integers(1, 2**63 - 1)


def test_keys_are_random() -> None:
    keys = {new_request_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(re.fullmatch("[0-9a-f]{20}", key) for key in keys)


@given(numbers, st.sampled_from(Step), st.none() | st.integers(0, 99))
def test_request_ids_are_an_orders_own_and_fit(number: int, step: Step, position: int | None) -> None:
    name = OrderName("deadbeef", number, KEY)
    others = [OrderName("deadbeef", number, "f" * 20), OrderName("0badcafe", number, KEY), OrderName("deadbeef", 1, "")]
    request_id = name.request_id(step, position)
    assert len(request_id) <= 64
    assert request_id not in {other.request_id(step, position) for other in others}
    assert parse(name.in_warehouse) == name


def test_an_order_from_before_there_were_keys_goes_on_as_it_began() -> None:
    name = OrderName("deadbeef", 17, "")
    assert name.in_warehouse == "17"
    assert name.request_id(Step.RESERVE) == "deadbeef-order-17-reserve"
    assert name.request_id(Step.GIVE_BACK, 3) == "deadbeef-order-17-give_back-3"
    assert parse("17") == OrderName("", 17, "")


@pytest.mark.parametrize(
    "text", ["", "order-17", "017", "0", "17 ", f"deadbeef-17-{KEY[:-1]}", f"deadbeef-0-{KEY}", "٣"]
)
def test_other_order_ids_are_no_names(text: str) -> None:
    assert parse(text) is None
