"""The warehouse's door while it is fuzzed: whose keys there are, what callers show, and what they may be answered."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random

from tests.fuzzing.odd import TEXTS
from tests.kits.attacked import Attacked, attacked
from tests.kits.processes import Processes
from tests.kits.secrets_used import secret
from tests.kits.warehouse_roles import LADDER, NEEDED
from warehouse.auth import API_KEY_HEADER, Role

GATEWAY_KEY = "the order gateway's key"
KEYS: Mapping[str, Role] = {f"a key that is {role} by role": role for role in LADDER}
"""Those that are shown to the warehouse."""
SHOWN = {"right": 0.7, "wrong": 0.12, "none": 0.1, "two": 0.08}
"""How often."""
ROLES = (0.2, 0.3, 0.5)
"""How often each of LADDER, of the right keys."""
WRONG_KEYS_PER_MINUTE_MAX = 600
"""Strangers are so many that this is reached soon; so it is fuzzed what comes before and what comes after it."""
STRANGERS_GET = frozenset(
    {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED", "UNIMPLEMENTED"}
)
"""Whatever they ask for (UNIMPLEMENTED: in an encoding that is none). Anything else would tell them something."""

_NEEDED = {name: role for role, names in NEEDED.items() for name in names} | {
    # What was sold and comes back.
    "AddStock": Role.ORDER
}


@contextmanager
def fuzzed(
    processes: Processes, warehouse_url: str, orders_url: str, settings: Mapping[str, str] | None = None
) -> Iterator[Attacked]:
    """Both services, running, the warehouse with keys."""
    keys = {GATEWAY_KEY: Role.ADMIN, **KEYS}
    entries = [
        {"name": f"holder-{number}", "role": role, "sha256": hashlib.sha256(secret(key).encode()).hexdigest()}
        for number, (key, role) in enumerate(keys.items())
    ]
    locked = {
        "WAREHOUSE_API_KEYS": json.dumps(entries),
        "WAREHOUSE_WRONG_KEYS_PER_MINUTE_MAX": str(WRONG_KEYS_PER_MINUTE_MAX),
    }
    with attacked(
        processes, warehouse_url, orders_url, settings, warehouse_settings=locked, warehouse_key=GATEWAY_KEY
    ) as shop:
        yield shop


def shown(random: Random) -> Sequence[tuple[str, str]]:
    """The metadata that somebody shows at the door."""
    right = random.choices(list(KEYS), ROLES)[0]
    how = random.choices(list(SHOWN), list(SHOWN.values()))[0]
    if how == "right":
        return ((API_KEY_HEADER, right),)
    wrong = _wrong(random, right)
    if how == "wrong":
        return ((API_KEY_HEADER, wrong),)
    return ((API_KEY_HEADER, right), (API_KEY_HEADER, random.choice((right, wrong)))) if how == "two" else ()


def _wrong(random: Random, right: str) -> str:
    at = random.randrange(len(right))
    odd = "".join(one for one in random.choice(TEXTS)[:200] if " " <= one <= "~").strip()
    changed = f"{right[:at]}{chr(random.randrange(33, 127))}{right[at + 1 :]}"
    guess = random.choice(
        (
            odd,
            right.upper(),
            right[:-1],
            right + right,
            f"{right},{right}",
            changed,
            hashlib.sha256(right.encode()).hexdigest(),
        )
    )
    return "" if guess in KEYS else guess


def role_of(metadata: Sequence[tuple[str, str]]) -> Role | None:
    """What the keys in `metadata` allow; None: whoever shows them is a stranger."""
    keys = [value for name, value in metadata if name == API_KEY_HEADER]
    return KEYS.get(keys[0]) if len(keys) == 1 else None


def may_be_answered(path: str, role: Role | None, status: str) -> bool:
    """Whether somebody with this role may get this answer from a method.

    Args:
        path: `/service/Method`; what is no method of the warehouse's own is open to all.
        status: the name of a status of gRPC.
    """
    needed = _NEEDED.get(path.rpartition("/")[2])
    if needed is None or not path.startswith("/warehouse.v1."):
        return True
    if role is None:
        return status in STRANGERS_GET
    return status != "OK" or LADDER.index(role) >= LADDER.index(needed)
