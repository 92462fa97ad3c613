"""How a command ends that can't do its work: with a line that says what, which setting and what to do; no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn

IS_INSTALLED = __name__.startswith("stockwarden.")
"""Whether this is the distribution, and not a checkout."""


class Exit(IntEnum):
    """Exit statuses of the services' commands. (A crash, which is a bug, has Python's own: 1.)"""

    DONE = 0
    FOUND = 1
    """An audit found something wrong."""
    SETTINGS = 2
    """Settings or arguments can't be used."""
    NEEDED = 3
    """Something outside can't be had: the database, a right or a table in it, a port, a file, the warehouse."""


EXIT_STATUSES = (
    "Exit status: 0 done; 1 an audit found something wrong; 2 settings or arguments can't be used; "
    "3 something that is needed can't be had (database, port, file, warehouse). A line on "
    "standard error says what, which setting, and what to do."
)


class NotStarted(Exception):
    """Something that is needed can't be had; the message is one line: what, which setting, what to do."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn NotStarted into its line on standard error and the exit status Exit.NEEDED."""
    try:
        yield
    except NotStarted as problem:
        give_up(str(problem), problem)


def give_up(line: str, cause: BaseException) -> NoReturn:
    """Say a line on standard error, and exit with Exit.NEEDED."""
    print(" ".join(line.split()), file=sys.stderr)
    raise SystemExit(Exit.NEEDED) from cause
