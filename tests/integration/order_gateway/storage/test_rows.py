"""What does not fit into the rows of an order is refused by the database, never cut."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace
from pymysql.err import DataError, IntegrityError
from structlog.testing import capture_logs

from order_gateway.gateway.port import HeldLine, Hold, HoldState
from order_gateway.lifecycle import Event, NewItem, NewOrder, Status
from order_gateway.storage.applying import Change
from order_gateway.storage.store import Store, StoreSettings
from service_kit.database.database import Database

pytestmark = pytest.mark.sql
ORDER = NewOrder("u", "Street 1", "card", (NewItem(1, 1, 1, Decimal("1.00")),), "c-1", "test")
REFUSED = (DataError, IntegrityError)
"""Too long; on MySQL, what is longer still is NULL, where there must be a value."""


@pytest.fixture
async def store(orders_database_url: str) -> AsyncIterator[Store]:
    database = Database(orders_database_url)
    store = Store(database, StoreSettings(900, 120))
    # Not for what they say, but because writing a traceback takes longer than the test.
    with capture_logs():
        yield store
    await store.close()
    await database.close()


@pytest.mark.parametrize("more", [1, 2])
@pytest.mark.parametrize(
    ("field", "length_max"),
    [("user_id", 64), ("shipping_address", 1000), ("payment_method", 64), ("correlation_id", 64), ("actor", 64)],
)
async def test_a_new_order_with_a_text_that_is_too_long(store: Store, field: str, length_max: int, more: int) -> None:
    whole = await store.create(replace(ORDER, **{field: "ü" * length_max}), 5)
    if field != "actor":
        assert getattr(await store.read(whole.id), field) == "ü" * length_max
    with pytest.raises(REFUSED):
        await store.create(replace(ORDER, **{field: "ü" * (length_max + more)}), 5)


@pytest.mark.parametrize("amount", ["1000000000000000000.00", "99999999999999999999.99"])
async def test_a_new_order_with_too_much_money(store: Store, amount: str) -> None:
    item = replace(ORDER.items[0], unit_price=Decimal(amount))
    with pytest.raises(REFUSED):
        await store.create(replace(ORDER, items=(item,)), 5)


async def test_a_hold_whose_id_is_too_long(store: Store) -> None:
    order = await store.create(ORDER, 5)
    now = datetime.now(UTC)
    until = now + timedelta(seconds=900)
    hold = Hold("h" * 37, "1", HoldState.RESERVED, (HeldLine(1, 1, 1),), now, until)
    with pytest.raises(REFUSED):
        await store.apply(order.id, Change(Event.RESERVED, hold=hold))
    same = await store.read(order.id)
    assert (same.state.status, same.reservations) == (Status.PENDING_RESERVATION, ())
    await store.apply(order.id, Change(Event.RESERVED, hold=replace(hold, reservation_id="h" * 36)))
    assert [one.reservation_id for one in (await store.read(order.id)).reservations] == ["h" * 36]
