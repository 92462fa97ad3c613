"""`make fuzz`: random and mutated requests against real processes for FUZZ_SECONDS, from the seed FUZZ_SEED."""

import os
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy.engine import make_url

from service_kit.local_server import LocalServer, LocalServerSettings
from service_kit.migrating import Service, upgrade
from tests.attacks.attacked import attacked
from tests.fuzzing.campaign import campaign
from tests.processes import Processes


def main() -> int:
    """The exit status: 0 if nothing was found."""
    seconds = float(os.environ.get("FUZZ_SECONDS") or "120")
    seed = int(os.environ.get("FUZZ_SEED") or time.time())
    print(f"seed {seed}, {seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="stock-fuzz-") as folder:
        server = LocalServer(Path(folder) / "database", settings=LocalServerSettings(buffer_pool_mib=512))
        with (
            server,
            attacked(Processes(Path(folder)), _database(server, "warehouse"), _database(server, "orders")) as shop,
        ):
            outcome = campaign(shop, seconds, seed, judge_latency=True, report=_show)
    print(f"\n{outcome.text()}")
    if outcome.findings:
        print(f"again: make fuzz FUZZ_SEED={seed} FUZZ_SECONDS={seconds:g}")
    return 1 if outcome.findings else 0


def _database(server: LocalServer, service: Service) -> str:
    url = make_url(server.url).set(database=f"fuzz_{service}").render_as_string(hide_password=False)
    upgrade(url, service)
    return url


def _show(progress: str) -> None:
    print(f"\r{progress}    " if sys.stdout.isatty() else progress, end="" if sys.stdout.isatty() else "\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
