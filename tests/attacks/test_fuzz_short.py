"""`make fuzz`, in short: some thousands of random and mutated requests, none of which surprises a service."""

import os
from collections.abc import Iterator

import pytest

from tests.conftest import MakeDatabase
from tests.fuzzing.campaign import KINDS, campaign
from tests.fuzzing.door import fuzzed
from tests.fuzzing.outcome import SHORT
from tests.kits.attacked import Attacked
from tests.kits.processes import Processes

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
SECONDS = 10
CALM_SECONDS = 3
RATE = 300
"""Requests a second: a quarter of what two processors answer at the most, as others may want them, too."""
SEED = 20261125
REQUESTS_MIN = 1000


@pytest.fixture(scope="module")
def shop(make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """Both services, with the demo's stock, and keys at the warehouse's door, too."""
    with fuzzed(
        Processes(tmp_path_factory.mktemp("fuzzed")), make_database("warehouse"), make_database("orders")
    ) as made:
        yield made


def test_random_and_mutated_requests_surprise_nobody(shop: Attacked) -> None:
    seed = int(os.environ.get("FUZZ_SEED") or SEED)
    outcome = campaign(
        shop, seed, seconds_max=SECONDS, rate=RATE, calm_seconds=CALM_SECONDS, has_sink=False, bounds=SHORT
    )
    assert not outcome.findings, outcome.text()
    assert outcome.requests > REQUESTS_MIN, outcome.text()
    assert all(outcome.answers[kind] for kind in KINDS), outcome.text()
