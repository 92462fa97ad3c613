"""Small database servers of one's own, which may be killed and frozen, and the folder that they are copied from."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from development.local_server import LocalServer, LocalServerSettings
from development.server_programs import Flavour
from tests.kits.secrets_used import note_settings

SMALL = LocalServerSettings(buffer_pool_mib=64, redo_log_mib=64)


def make_template(folder: Path, flavour: Flavour) -> None:
    """A folder with an empty database, made and stopped: to copy it takes a tenth of the time."""
    with LocalServer(folder, flavour, settings=SMALL):
        pass
    # Whoever is started from a copy looks for a port of its own.
    (folder / "port").unlink()


def copy_template(template: Path, folder: Path) -> None:
    """Put what `make_template` made into a folder that no server has used yet."""
    shutil.copytree(template, folder, dirs_exist_ok=True)


@contextmanager
def small_server(template: Path) -> Iterator[LocalServer]:
    """A running one, in a folder of its own, for the time of a `with`."""
    with tempfile.TemporaryDirectory(prefix="stock-test-") as folder:
        copy_template(template, Path(folder))
        with LocalServer(Path(folder), settings=SMALL) as server:
            note_settings({"DATABASE_URL": server.url})
            yield server
