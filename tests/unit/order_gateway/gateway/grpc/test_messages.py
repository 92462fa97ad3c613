"""What the warehouse sends, as the port's values."""

from datetime import UTC, datetime, timedelta

import pytest

from order_gateway.gateway.grpc.messages import hold_of, outcome_of
from order_gateway.gateway.port import GatewayFault, HeldLine, HoldState, StockLine
from service_kit.times import EPOCH
from stockwarden_client.v1 import warehouse_pb2 as pb

MADE = datetime(2026, 11, 25, 8, 0, 0, 123456, tzinfo=UTC)


def sent(state: HoldState, *, is_closed: bool = False, reason: str = "") -> pb.Reservation:
    number = pb.ReservationState.Value(f"RESERVATION_STATE_{state}")
    line = pb.ReservationLine(product_id=1, warehouse_id=2, quantity=3, requested_quantity=5, committed_quantity=2)
    hold = pb.Reservation(reservation_id="h-1", order_id="o-1", state=number, lines=[line], reason=reason)
    hold.created_at.FromDatetime(MADE)
    hold.expires_at.FromDatetime(MADE + timedelta(minutes=15))
    if is_closed:
        hold.closed_at.FromDatetime(MADE + timedelta(minutes=1))
    return hold


@pytest.mark.parametrize("state", list(HoldState))
def test_a_hold_is_told_whatever_became_of_it(state: HoldState) -> None:
    hold = hold_of(sent(state))
    assert (hold.reservation_id, hold.order_id, hold.state) == ("h-1", "o-1", state)
    assert (hold.created_at, hold.expires_at) == (MADE, MADE + timedelta(minutes=15))
    assert (hold.closed_at, hold.reason) == (None, None)
    assert hold.lines == (HeldLine(1, 2, 3, 2),)
    assert hold.held == (StockLine(1, 2, 3),)
    assert hold.held_or_sold == (StockLine(1, 2, 2 if state is HoldState.COMMITTED else 3),)


def test_all_its_instants_are_told_by_one_clock() -> None:
    ahead = timedelta(minutes=6)
    hold = hold_of(sent(HoldState.CANCELLED, is_closed=True, reason="customer"), EPOCH - ahead)
    assert hold.created_at == MADE - ahead
    assert hold.expires_at == MADE + timedelta(minutes=15) - ahead
    assert (hold.closed_at, hold.reason) == (MADE + timedelta(minutes=1) - ahead, "customer")


def test_a_fence_is_no_hold_but_an_answer() -> None:
    outcome = pb.RequestOutcome(reservations=[sent(HoldState.RESERVED), pb.Reservation(reservation_id="fence")])
    assert not outcome_of(outcome).is_known
    outcome.answered_at.FromDatetime(MADE)
    known = outcome_of(outcome)
    assert known.is_known
    assert [hold.reservation_id for hold in known.holds] == ["h-1"]


@pytest.mark.parametrize("number", [pb.RESERVATION_STATE_UNSPECIFIED, 99])
def test_a_state_that_only_a_newer_warehouse_knows_is_a_fault_that_says_so(number: int) -> None:
    hold = sent(HoldState.RESERVED)
    # Enums are open on the wire.
    hold.MergeFromString(
        pb.Reservation(state=pb.RESERVATION_STATE_COMMITTED).SerializeToString()[:-1] + bytes([number])
    )
    with pytest.raises(GatewayFault, match=f"does not know: {number}$") as raised:
        hold_of(hold)
    assert raised.value.code == "WAREHOUSE_ERROR"
