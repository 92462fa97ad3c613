"""The services under attack, one pair per module of tests, and what must be so after each test."""

import json
import re
import urllib.request
from collections.abc import Iterator

import pytest

from tests.conftest import MakeDatabase
from tests.kits.attacked import Attacked, attacked, public_keys
from tests.kits.processes import Processes

SURPRISE = re.compile(r'unforeseen|Traceback|call_failed|failed_outside|Unhandled|never retrieved|"status":500')


@pytest.fixture(scope="module")
def shop(make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """Both services, with the demo's stock, a JWK set of three keys, and a secret for tokens of their own."""
    folder = tmp_path_factory.mktemp("attacked")
    keys = folder / "jwks.json"
    keys.write_text(json.dumps(public_keys()))
    settings = {"ORDERS_JWT_JWKS_FILE": str(keys)}
    with attacked(Processes(folder), make_database("warehouse"), make_database("orders"), settings) as made:
        yield made


@pytest.fixture
def unsurprised(shop: Attacked) -> Iterator[None]:
    """Whatever a test does, both services are well after it, and nothing in their logs was unforeseen."""
    before = len(shop.logs())
    yield
    with urllib.request.urlopen(f"{shop.base_url}/health") as answer:
        assert answer.status == 200
    surprises = [line for line in shop.logs()[before:].splitlines() if SURPRISE.search(line)]
    assert not surprises, surprises[0][-3000:]
