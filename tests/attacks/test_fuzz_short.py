"""`make fuzz`, in short: some thousands of random and mutated requests, none of which surprises a service."""

import os

import pytest

from tests.fuzzing.campaign import campaign
from tests.kits.attacked import Attacked

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
SECONDS = 15
SEED = 20261125
REQUESTS_MIN = 1000


def test_random_and_mutated_requests_surprise_nobody(shop: Attacked) -> None:
    seed = int(os.environ.get("FUZZ_SEED") or SEED)
    outcome = campaign(shop, seed, seconds_max=SECONDS)
    assert not outcome.findings, outcome.text()
    assert outcome.requests > REQUESTS_MIN, outcome.text()
    assert all(outcome.answers.values()), outcome.text()
