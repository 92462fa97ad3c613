"""What is computed about the size of an answer is never less than its size."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stockwarden_client.messages import ANSWER_ENVELOPE_BYTES, BATCH_MAX, LINE_BYTES, RESULT_BYTES
from stockwarden_client.v1 import warehouse_pb2 as pb
from warehouse.rpc import wire
from warehouse.rpc.status import status_of_error, status_of_refusal
from warehouse.stock.records import HeldLine, Reservation, State
from warehouse.stock.refusals import Refusal, request_id_reused, reserve_cancelled
from warehouse.stock.sizes import batch_answer_bytes, holds_bytes, lines_at_most, that_fit
from warehouse.validation import BATCH_MAX as SERVER_BATCH_MAX
from warehouse.validation import InvalidRequest

IDS = st.integers(1, 2**63 - 1)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=64)
QUANTITIES = st.integers(1, 10**8)
INSTANTS = st.integers(1, 253_402_300_799_999_999)
LINES = st.builds(HeldLine, IDS, IDS, QUANTITIES, QUANTITIES, QUANTITIES)
HOLDS = st.builds(
    Reservation,
    st.just("01234567-89ab-7def-8123-456789abcdef"),
    TEXTS,
    st.integers(1, 10**6),
    st.sampled_from(State),
    INSTANTS,
    INSTANTS,
    INSTANTS,
    st.text(st.characters(codec="utf-8"), max_size=255),
    TEXTS,
    st.lists(LINES, max_size=100).map(tuple),
)


@given(st.lists(HOLDS, max_size=5))
@settings(max_examples=50, deadline=None)
def test_reservations(holds: list[Reservation]) -> None:
    answer = pb.CommitResponse(reservations=[wire.reservation(hold) for hold in holds])
    sizes = ((len(hold.lines), len(hold.order_id) + len(hold.reason) + len(hold.correlation_id)) for hold in holds)
    assert answer.ByteSize() <= holds_bytes(sizes)


@given(HOLDS.filter(lambda hold: hold.lines), TEXTS)
@settings(max_examples=50, deadline=None)
def test_the_result_of_a_request_of_a_batch(hold: Reservation, request_id: str) -> None:
    wanted = [
        pb.Line(product_id=line.product_id, warehouse_id=line.warehouse_id, quantity=min(line.quantity, 10**6))
        for line in hold.lines
    ]
    request = pb.ReserveRequest(request_id=request_id, order_id=hold.order_id, lines=wanted)
    batch = pb.BatchReserveRequest(requests=[request])
    held = wire.reservation(hold)
    held.reason = ""
    # What was held is what was asked for, and nothing of it is committed yet.
    for line in held.lines:
        line.committed_quantity = 0
    assert len(wanted) <= lines_at_most(batch.ByteSize())
    most = batch_answer_bytes(batch.ByteSize(), 1, len(request.lines))
    assert pb.BatchReserveResponse(results=[pb.BatchReserveResult(reservation=held)]).ByteSize() <= most
    refusals: list[Refusal] = [request_id_reused(request_id), reserve_cancelled(hold.order_id, hold.created_at)]
    bad = InvalidRequest([(f"lines[{number}].warehouse_id", "is -1, must be > 0") for number in range(100)])
    statuses = [*(status_of_refusal(refusal, 0) for refusal in refusals), status_of_error(bad, 0)]
    for status in statuses:
        answer = pb.BatchReserveResponse(results=[pb.BatchReserveResult(error=status)])
        assert answer.ByteSize() <= most - 4096


def test_there_are_no_more_lines_than_their_bytes_allow() -> None:
    """Empty lines are the shortest."""
    batch = pb.BatchReserveRequest(requests=[pb.ReserveRequest(lines=[pb.Line()] * 1000)])
    assert 1000 <= lines_at_most(batch.ByteSize()) <= 1010


def test_a_page_has_at_least_one_element() -> None:
    lines = [pb.Line(product_id=1, warehouse_id=1, quantity=1)] * 3
    assert list(that_fit(lines, 1)) == lines[:1]
    assert list(that_fit(lines, 10**6)) == lines
    assert list(that_fit([], 1)) == []


def test_the_client_reckons_as_the_server_does() -> None:
    whole = batch_answer_bytes(10_000, 7, 30)
    assert whole <= ANSWER_ENVELOPE_BYTES + 10_000 + 7 * RESULT_BYTES + 30 * LINE_BYTES
    assert BATCH_MAX == SERVER_BATCH_MAX
