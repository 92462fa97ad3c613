"""Keeping processes alive: one that ends is started again, sooner at first, later when it keeps ending."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

BACKOFF_FIRST_SECONDS = 0.25
BACKOFF_MAX_SECONDS = 15.0
STEADY_SECONDS = 30.0
"""After running this long, a process that ends is started again as soon as at its first end."""


class Startable(Protocol):
    """A process as supervision sees it."""

    name: str

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""

    @property
    def exit_status(self) -> int | None:
        """How it ended: a status, or minus the number of a signal."""

    def launch(self) -> None:
        """Start it, without waiting longer than it must."""


@dataclass
class Supervised:
    """One process and when it may be started again. Times are monotonic seconds."""

    process: Startable
    backoff_seconds: float = BACKOFF_FIRST_SECONDS
    started_at: float = field(default_factory=time.monotonic)
    due_at: float | None = None

    def look(self, now: float, say: Callable[[str], None]) -> None:
        """Start the process again if it has ended and its time has come; say so."""
        if self.process.pid is not None:
            if now - self.started_at > STEADY_SECONDS:
                self.backoff_seconds = BACKOFF_FIRST_SECONDS
            return
        if self.due_at is None:
            self.due_at = now + self.backoff_seconds
            say(f"{self.process.name} {describe_end(self.process.exit_status)}; starting it again")
        if now >= self.due_at:
            self._start_again(say)

    def _start_again(self, say: Callable[[str], None]) -> None:
        self.backoff_seconds = min(self.backoff_seconds * 2, BACKOFF_MAX_SECONDS)
        self.due_at = None
        try:
            self.process.launch()
        except Exception as error:  # whatever it is, the others must be kept alive
            self.due_at = time.monotonic() + self.backoff_seconds
            say(f"{self.process.name} can't be started, next try in {self.backoff_seconds:g} s: {error}")
            return
        self.started_at = time.monotonic()
        say(f"{self.process.name} started again (process {self.process.pid})")


def describe_end(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "is gone"
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
