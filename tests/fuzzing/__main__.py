"""`make fuzz`: random and mutated requests against real processes; see the package for what is measured, and why so.

FUZZ_SECONDS or FUZZ_REQUESTS say how long it goes on, FUZZ_RATE how many a second, FUZZ_SEED repeats a run.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy.engine import make_url

from development.local_server import LocalServer, LocalServerSettings
from service_kit.database.migrating import Service, upgrade
from tests.fuzzing.campaign import campaign
from tests.fuzzing.door import fuzzed
from tests.kits.processes import Processes

RATE = "600"


def main() -> int:
    """The exit status: 0 if nothing was found."""
    requests = float(os.environ.get("FUZZ_REQUESTS") or "inf")
    seconds = float(os.environ.get("FUZZ_SECONDS") or ("inf" if requests < float("inf") else "120"))
    rate = float(os.environ.get("FUZZ_RATE") or RATE)
    seed = int(os.environ.get("FUZZ_SEED") or time.time())
    ends = [f"{seconds:g} s"] if seconds < float("inf") else []
    ends += [f"{requests:,.0f} requests"] if requests < float("inf") else []
    print(f"seed {seed}, {' or '.join(ends)}, {f'{rate:g} a second' if rate else 'as fast as may be'}", flush=True)
    with tempfile.TemporaryDirectory(prefix="stock-fuzz-") as folder:
        server = LocalServer(Path(folder) / "database", settings=LocalServerSettings(buffer_pool_mib=512))
        with (
            server,
            fuzzed(Processes(Path(folder)), _database(server, "warehouse"), _database(server, "orders")) as shop,
        ):
            outcome = campaign(shop, seed, seconds_max=seconds, requests_max=requests, rate=rate)
            print(f"\n{outcome.text()}", flush=True)
            if outcome.findings:
                print(f"again: make fuzz FUZZ_SEED={seed} FUZZ_SECONDS={outcome.seconds:.0f} FUZZ_RATE={rate:g}")
    return 1 if outcome.findings else 0


def _database(server: LocalServer, service: Service) -> str:
    url = make_url(server.url).set(database=f"fuzz_{service}").render_as_string(hide_password=False)
    upgrade(url, service)
    return url


if __name__ == "__main__":
    sys.exit(main())
