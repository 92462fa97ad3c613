"""A small database server of one's own, which may be killed and frozen."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from development.local_server import LocalServer, LocalServerSettings
from development.server_programs import Flavour
from tests.kits.secrets_used import note_settings

SMALL = LocalServerSettings(buffer_pool_mib=64, redo_log_mib=64)


@contextmanager
def small_server(flavour: Flavour) -> Iterator[LocalServer]:
    """A running one, in a folder of its own, for the time of a `with`."""
    with (
        tempfile.TemporaryDirectory(prefix="stock-test-") as folder,
        LocalServer(Path(folder), flavour, settings=SMALL) as server,
    ):
        note_settings({"DATABASE_URL": server.url})
        yield server
