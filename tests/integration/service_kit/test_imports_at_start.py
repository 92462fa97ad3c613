"""What a service has to import before it can serve: not what only its migrations need."""

import subprocess
import sys

import pytest

from tests.kits.processes import ROOT

LOOK = "import sys; import {service}.__main__; print('alembic' in sys.modules)"


@pytest.mark.parametrize("service", ["warehouse", "order_gateway"])
def test_serving_does_not_import_what_migrates(service: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(service=service)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
