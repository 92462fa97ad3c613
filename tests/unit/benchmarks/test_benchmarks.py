"""The pure parts of the benchmark: its requests, its arithmetic, its verdicts."""

import itertools

import pytest

from benchmarks.load import Tally, percentile
from benchmarks.requests import LINES_OF_SPREAD_RESERVE, REQUESTS_PER_BATCH, WORKS
from benchmarks.rounds import RoundResult
from benchmarks.workloads import GROUPS, Leg, Server, Summary, Target, chosen_groups, judge, summarize
from stockwarden_client.v1 import warehouse_pb2 as pb

LEG = Leg(Server.WAREHOUSE, "reserve-hot", (256,))
RESERVATION_ID = "01234567-89ab-7def-8123-456789abcdef"


def result(per_second: float = 1000, p50_ms: float = 1, p99_ms: float = 2, unexpected: int = 0) -> RoundResult:
    return RoundResult(
        seconds=1,
        per_second=per_second,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        max_ms=p99_ms * 2,
        calls=int(per_second),
        calls_in_all=int(per_second),
        statuses={"OK": int(per_second)},
        unexpected=unexpected,
        first_unexpected="UNAVAILABLE: away" if unexpected else "",
    )


def summary(per_second: float = 1000, p50_ms: float = 1, p99_ms: float = 2, unexpected: int = 0) -> Summary:
    return summarize(LEG, 256, [result(per_second, p50_ms, p99_ms, unexpected)], {})


def test_reserve_requests_parse_and_have_ids_of_their_own() -> None:
    stream = WORKS["reserve-hot"].requests([])
    requests = [pb.ReserveRequest.FromString(one) for one in itertools.islice(stream, 3)]
    assert len({one.request_id for one in requests}) == 3
    assert all(one.request_id == one.order_id and len(one.request_id) <= 64 for one in requests)
    assert [one.lines[0].quantity for one in requests] == [1, 1, 1]
    assert all(one.ttl.seconds > 3600 for one in requests)


def test_spread_requests_name_different_products() -> None:
    stream = WORKS["reserve-spread"].requests([])
    requests = [pb.ReserveRequest.FromString(one) for one in itertools.islice(stream, 50)]
    products = [[line.product_id for line in one.lines] for one in requests]
    assert all(len(set(one)) == LINES_OF_SPREAD_RESERVE for one in products)
    assert len({product for one in products for product in one}) > 100


def test_every_request_of_a_batch_has_its_own_id() -> None:
    stream = WORKS["batch-reserve"].requests([])
    batches = [pb.BatchReserveRequest.FromString(one).requests for one in itertools.islice(stream, 2)]
    ids = [one.request_id for batch in batches for one in batch]
    assert len(set(ids)) == 2 * REQUESTS_PER_BATCH
    assert all(one.order_id == one.request_id for batch in batches for one in batch)


def test_commits_use_up_the_prepared_holds() -> None:
    holds = [RESERVATION_ID, RESERVATION_ID[::-1]]
    commits = [pb.CommitRequest.FromString(one) for one in WORKS["commit"].requests(holds)]
    assert [one.reservation_id for one in commits] == [RESERVATION_ID[::-1], RESERVATION_ID]
    assert commits[0].request_id != commits[1].request_id
    assert holds == []


def test_cancels_name_their_hold() -> None:
    (cancel,) = WORKS["cancel"].requests([RESERVATION_ID])
    assert pb.CancelRequest.FromString(cancel).reservation_id == RESERVATION_ID


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(1, 101)], share) == expected


def test_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 0.5) == 0


def test_a_round_that_ran_out_of_holds_is_shorter() -> None:
    tally = Tally(opens=10, closes=12)
    tally.units = 100
    tally.closes = 11
    assert tally.result().per_second == 100


def test_rounds_are_summed_up_by_their_median() -> None:
    found = summarize(LEG, 256, [result(900), result(1100), result(5000)], {"server": 0.7})
    assert found.per_second == 1100
    assert (found.per_second_lowest, found.per_second_highest) == (900, 5000)
    assert found.cpu_us_per_call == {"server": pytest.approx(100)}


def test_a_target_from_below() -> None:
    target = Target("t", "title", LEG, LEG, 0.85)
    assert judge(target, summary(850), summary(1000)).reached
    assert not judge(target, summary(840), summary(1000)).reached


def test_a_target_from_above() -> None:
    target = Target("t", "title", LEG, LEG, 1.0, "p50_ms", at_most=True)
    assert judge(target, summary(p50_ms=1.0), summary(p50_ms=1.0)).reached
    assert not judge(target, summary(p50_ms=1.1), summary(p50_ms=1.0)).reached


def test_a_target_on_the_tail_needs_no_yardstick() -> None:
    target = Target("t", "title", LEG, None, 3, "p99 over p50", at_most=True)
    verdict = judge(target, summary(p50_ms=2, p99_ms=5), None)
    assert verdict.ratio == 2.5
    assert verdict.reached


def test_failed_calls_reach_nothing() -> None:
    target = Target("t", "title", LEG, LEG, 0.85)
    assert not judge(target, summary(2000, unexpected=1), summary(1000)).reached


def test_nothing_measured_reaches_nothing() -> None:
    bounded_above = Target("t", "title", LEG, LEG, 1.0, "p50_ms", at_most=True)
    assert not judge(bounded_above, summary(p50_ms=1), summary(p50_ms=0)).reached


def test_slow_workloads_wait_for_full() -> None:
    quick = {target.name for group in chosen_groups([], full=False) for target in group.targets}
    assert quick == {target.name for group in GROUPS for target in group.targets} - {"old"}
    assert chosen_groups([], full=True) == list(GROUPS)


def test_only_keeps_just_the_legs_that_are_needed() -> None:
    (group,) = chosen_groups(["tail"], full=False)
    assert [leg.callers for leg in group.legs] == [(64,)]


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="There is no warp"):
        chosen_groups(["warp"], full=False)


def test_names_of_targets_are_unique() -> None:
    names = [target.name for group in GROUPS for target in group.targets]
    assert len(names) == len(set(names))
