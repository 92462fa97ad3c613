"""How the services of this revision want to be started for a benchmark, told to the benchmarks of other revisions too.

`python -m benchmarks.service_settings` prints it as JSON: another revision that compares itself with this one asks so.
"""

import sys

import msgspec

WAREHOUSE: dict[str, str] = {}
"""Settings of the warehouse besides its database and its address."""
ORDERS: dict[str, str] = {
    "ORDERS_PROFILE": "development",
    "ORDERS_REQUESTS_PER_SECOND_MAX": "100000",
}
"""Settings of the order gateway besides its database, its address, its warehouse and its mode."""


class ServiceSettings(msgspec.Struct, frozen=True):
    """What is set for both services beyond where they find each other."""

    warehouse: dict[str, str]
    orders: dict[str, str]


def here() -> ServiceSettings:
    """The settings that this revision needs."""
    return ServiceSettings(WAREHOUSE, ORDERS)


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(here()).decode() + "\n")
