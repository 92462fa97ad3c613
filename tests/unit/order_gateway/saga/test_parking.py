"""Which steps are parked."""

from datetime import timedelta

import pytest

from order_gateway.lifecycle import Step
from order_gateway.saga.parking import MENDED_BY_WAITING, PARKABLE, is_parked

DAY = timedelta(days=1)
FOREVER = 1_000_000


def parked(step: Step, code: str, attempts: int, age: timedelta = timedelta(0)) -> bool:
    return is_parked(step, code, attempts, age, tries=20, patience=DAY)


@pytest.mark.parametrize("step", sorted(PARKABLE))
@pytest.mark.parametrize("code", ["", "WAREHOUSE_ERROR", "SOMETHING_NEW"])
def test_what_fails_for_a_reason_of_its_own_is_parked_after_some_tries(step: Step, code: str) -> None:
    assert not parked(step, code, 19, 365 * DAY)
    assert parked(step, code, 20)


@pytest.mark.parametrize("code", sorted(MENDED_BY_WAITING))
def test_who_waits_for_the_warehouse_goes_on_waiting(code: str) -> None:
    assert not parked(Step.COMMIT, code, FOREVER, 365 * DAY)


def test_a_payment_provider_is_waited_for_for_a_day() -> None:
    assert not parked(Step.REFUND, "PAYMENT_PENDING", FOREVER, DAY - timedelta(seconds=1))
    assert parked(Step.REFUND, "PAYMENT_PENDING", 1, DAY)


@pytest.mark.parametrize("step", [Step.RESERVE, Step.CHARGE])
def test_what_has_a_deadline_is_not_parked(step: Step) -> None:
    assert not parked(step, "WAREHOUSE_ERROR", FOREVER, 365 * DAY)
