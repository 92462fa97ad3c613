"""Child processes that do not outlive us, whatever ends us.

A plain child of a process that is killed with SIGKILL lives on, keeps its ports and its files, and
stands in the way of the next run. A tethered one is asked by the kernel to stop (SIGTERM). This file
is also the program that ties the tether: it runs on its own, without the rest of the package.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start_tethered(
    command: Sequence[str],
    *,
    output: IO[bytes] | int | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    keep_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `command` as a child that gets SIGTERM when the calling *thread* ends.

    It does not hear the terminal's Ctrl-C, so that whoever started it decides the order of the end.

    Args:
        output: where standard output and standard error go; ours by default.
        environment: the child's whole environment; ours by default.
        keep_open: file descriptors that the child inherits.
    """
    # Not preexec_fn: that is unsafe once threads run. On other systems than Linux the tether is a plain exec.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        cwd=directory,
        pass_fds=keep_open,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes], timeout_seconds: float) -> int:
    """Ask `process` to end, kill it if it has not after `timeout_seconds`, and return its exit status."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def main() -> None:
    """Become the program named on the command line: PARENT_PID PROGRAM ARGUMENT..."""
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:
            raise SystemExit("the process that started this one is gone")
    os.execvp(command[0], command)  # noqa: S606 - replacing this process is the point


if __name__ == "__main__":
    main()
