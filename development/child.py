"""What every process has that this one has started: a number, an end, and a way to end it at once."""

import subprocess


class Child:
    """A child process, or none yet; who derives from it sets `_process` when it starts one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def exit_status(self) -> int | None:
        """How it ended: an exit status, or minus the number of a signal; None while it runs or before."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
