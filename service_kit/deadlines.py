"""The same time limit for many tasks, with one timer for all of them.

`asyncio.timeout` starts and stops a timer of its own each time, which costs more than the rest of it; where every
request has the same limit, the one that began first is the first to pass.
"""

import asyncio
from types import TracebackType
from typing import Self


class Deadlines:
    """Of one event loop.

    Args:
        seconds: how long each lasts.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._open: dict[Deadline, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def deadline(self) -> "Deadline":
        """One for the current task, to be used in a `with`; it begins there."""
        return Deadline(self)

    def _enter(self, deadline: "Deadline") -> None:
        loop = asyncio.get_running_loop()
        self._open[deadline] = until = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_at(until, self._look)

    def _leave(self, deadline: "Deadline") -> None:
        self._open.pop(deadline, None)

    def _look(self) -> None:
        """End what is over, and come again when the next one is."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        for deadline, until in list(self._open.items()):
            if until > now:
                self._timer = loop.call_at(until, self._look)
                return
            del self._open[deadline]
            deadline.pass_()


class Deadline:
    """Within `with`, the task is cancelled when it has passed, and TimeoutError comes out, as of `asyncio.timeout`.

    Attributes:
        has_passed: whether it has.
    """

    __slots__ = ("_cancelling", "_deadlines", "_task", "has_passed")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self.has_passed = False

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self._deadlines.seconds

    def lift(self) -> None:
        """There is no limit any more."""
        self._deadlines._leave(self)

    def pass_(self) -> None:
        """The time is over."""
        if self._task is not None:
            self.has_passed = True
            self._task.cancel()

    def __enter__(self) -> Self:
        """The time begins."""
        self._task = task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        self._deadlines._enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The time no longer counts. Raises: TimeoutError, if it is what has ended the task's work."""
        task, self._task = self._task, None
        assert task is not None
        if not self.has_passed:
            self._deadlines._leave(self)
        elif task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
