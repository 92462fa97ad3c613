"""Requests to the order service that schemathesis makes of its document: values that follow it, and that break it.

It makes about 130 a second with a whole processor (its shrinkable choices and the look at each value cost that), while
tests.fuzzing.http_requests makes some thousands. So it has a small share of all.
"""

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from tests.kits.processes import DEVELOPMENT_API_KEY

CASES_PER_BATCH = 25
"""Of one operation; the first of a batch is always a simple one."""
KNOWN_SHARE = 0.85
"""Of requests that show a right key; the others show what schemathesis has made, or nothing."""
_TRANSPORT = frozenset({"method", "url", "headers", "params", "data", "json", "cookies", "files"})
_LEFT_OUT = frozenset({"host", "x-schemathesis-testcaseid"})
"""The second one differs each time."""


def schema_requests(document: Mapping[str, Any], seed_number: int) -> Iterator[bytes]:
    """Requests without end, the same ones for the same seed and document."""
    random = Random(seed_number)
    schema = schemathesis.openapi.from_dict(dict(document))
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    never = set[tuple[str, GenerationMode]]()
    while True:
        operation, mode = random.choice(operations), random.choice(list(GenerationMode))
        if (operation.label, mode) in never:
            continue
        cases = _batch(operation.as_strategy(generation_mode=mode), random.randrange(2**32))
        if not cases:
            # Where nothing is asked for, nothing can be wrong.
            never.add((operation.label, mode))
        for case in cases:
            headers = {"X-API-Key": DEVELOPMENT_API_KEY} if random.random() < KNOWN_SHARE else {}
            yield _bytes_of(case.as_transport_kwargs(base_url="http://shop", headers=headers))


def _batch(strategy: Any, seed_number: int) -> list[Any]:
    cases = list[Any]()

    @seed(seed_number)
    @settings(
        max_examples=CASES_PER_BATCH,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(case: Any) -> None:
        cases.append(case)

    try:
        collect()
    except Unsatisfiable:
        return []
    return cases


def _bytes_of(wanted: Mapping[str, Any]) -> bytes:
    """As the library `requests` would send it."""
    made = requests.Request(**{name: value for name, value in wanted.items() if name in _TRANSPORT}).prepare()
    body: Any = made.body or b""
    lines = [f"{made.method} {made.path_url} HTTP/1.1", "Host: shop"]
    lines += [f"{_text(name)}: {_text(value)}" for name, value in made.headers.items() if name.lower() not in _LEFT_OUT]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace")
    return head + (body.encode() if isinstance(body, str) else bytes(body))


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
