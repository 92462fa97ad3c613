"""Shows how far a long command has come: one line that is written over on a terminal, else a line now and then."""

import sys
import time
from typing import TextIO

TERMINAL_SECONDS = 0.2
"""How often the line on a terminal is renewed."""
PLAIN_SECONDS = 5.0
"""How often a line is written where nobody can write over the last one, such as to a file."""


class Progress:
    """Counts on standard error; says nothing about what is over before the first line would be due.

    Args:
        what: the things that are counted, in the plural.
    """

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        self._what = what
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._began_at = self._shown_at = time.monotonic()
        self._has_line = False

    def note(self, count: int, share: float | None = None, more: str = "") -> None:
        """So many are done.

        Args:
            share: of the whole, 0 to 1.
            more: text behind the numbers.
        """
        now = time.monotonic()
        if now - self._shown_at < (TERMINAL_SECONDS if self._is_terminal else PLAIN_SECONDS):
            return
        self._shown_at = now
        percent = "" if share is None else f" ({min(share, 1):.0%})"
        rate = count / max(now - self._began_at, 0.001)
        self._write(f"{self._what}: {count:,}{percent}, {rate:,.0f}/s{more and f', {more}'}")

    def end(self) -> None:
        """Make room for what comes after it."""
        if self._has_line:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._has_line = False

    def _write(self, text: str) -> None:
        if self._is_terminal:
            self._stream.write(f"\r\x1b[K{text}")
            self._has_line = True
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()
