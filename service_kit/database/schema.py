"""The revisions that a service's migrations lead through, without Alembic (see `service_kit.database.migrating`)."""

import re
from functools import cache
from pathlib import Path

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
_DOWN_REVISION = re.compile(r'^down_revision(?:: [\w |]+)? = "(\w+)"', re.MULTILINE)


@cache
def older_revisions(folder: str) -> frozenset[str]:
    """The revisions of `migrations/<folder>` that a newer one follows."""
    texts = [path.read_text() for path in (MIGRATIONS / folder / "versions").glob("*.py")]
    return frozenset(found[1] for text in texts if (found := _DOWN_REVISION.search(text)))


def is_behind(revision: str, folder: str) -> bool:
    """Whether a database at `revision` ("": none) lacks migrations of this program.

    One that this program does not know is a newer one: while servers are replaced, old ones go on with it.
    """
    return not revision or revision in older_revisions(folder)
