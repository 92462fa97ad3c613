"""When a call that failed is made again, and when no more."""

import random
import time

from stockwarden_client.connection import ClientSettings
from stockwarden_client.errors import WarehouseError, WarehouseUnavailable


class Patience:
    """With one call, from its first failure on: growing pauses, drawn by chance, until its time is over.

    Args:
        deadline: by time.monotonic().
    """

    def __init__(self, settings: ClientSettings, deadline: float) -> None:
        self._deadline = deadline
        self._lost_hope = time.monotonic() + settings.absent_seconds
        self._pause_max = max(settings.retry_wait_max_seconds, settings.retry_wait_initial_seconds)
        self._growing = settings.retry_wait_initial_seconds
        self._failures = 0

    def pause_seconds(self, failure: WarehouseError, *, was_answered: bool) -> float | None:
        """How long to wait before the next try; None if there is no time for another.

        Args:
            was_answered: whether this client ever was; one that never was does not wait long for nobody.
        """
        self._failures += 1
        if self._failures > 2:
            self._growing *= 2
        pause = random.random() * min(self._growing, self._pause_max) + _asked_seconds(failure)  # noqa: S311
        is_absent = not was_answered and isinstance(failure, WarehouseUnavailable) and failure.is_absent
        until = min(self._deadline, self._lost_hope) if is_absent else self._deadline
        return pause if time.monotonic() + pause < until else None


def _asked_seconds(failure: WarehouseError) -> float:
    return (failure.retry_after_seconds or 0.0) * (1 + 0.2 * random.random())  # noqa: S311 - jitter, not a secret
