"""What else runs on the machine while something is measured: from /proc, all nothing on systems without it."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.processors import TICKS_PER_SECOND, family_cpu_seconds

OTHERS_SHARE_MAX = 0.10
"""What was measured while other programs used more than this part of the processors says nothing against the code."""
NAMED_PROGRAMS = 5
"""How many of the busiest other programs a report names."""
_NAME_LENGTH = 60
_INTERPRETERS = ("python", "node", "bash", "sh", "perl", "ruby")
_IDLE_COLUMNS = (3, 4)
_COUNTED_COLUMNS = 8
"""Of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already."""


class Busy(msgspec.Struct, frozen=True):
    """What programs outside of the benchmark did in some time."""

    seconds: float
    """Processor time they used, summed over the processors; what other machines took from ours is in it."""
    capacity_seconds: float
    """The time of all processors, used or not."""
    programs: dict[str, float]
    """The busiest of those that still live, with their processor time in seconds."""

    @property
    def share(self) -> float:
        """The part of what the processors could do that was used by others: 0..1."""
        return max(0.0, min(1.0, self.seconds / self.capacity_seconds)) if self.capacity_seconds > 0 else 0.0


NOBODY = Busy(0.0, 0.0, {})
"""Nothing else ran, or nobody looked."""


class _Sample(NamedTuple):
    used: float
    capacity: float
    ours: float
    by_process: dict[tuple[int, str], float]


class Watch:
    """Looks at the machine as it is made, and tells what others have done since. `root_pid`: our eldest process."""

    def __init__(self, root_pid: int | None = None) -> None:
        self._root_pid = root_pid or os.getpid()
        self._before = self._look()

    def busy(self) -> Busy:
        """What others did since this was made."""
        before, after = self._before, self._look()
        spent: dict[str, float] = defaultdict(float)
        for process, used in after.by_process.items():
            spent[process[1]] += used - before.by_process.get(process, 0.0)
        used_by_all = after.used - before.used
        used_by_us = after.ours - before.ours
        return Busy(
            max(0.0, used_by_all - used_by_us),
            after.capacity - before.capacity,
            _busiest(spent),
        )

    def _look(self) -> _Sample:
        used, capacity = processor_times(_read(Path("/proc/stat")))
        return _Sample(used, capacity, family_cpu_seconds(self._root_pid), other_processes(self._root_pid))


def together(times: Iterable[Busy]) -> Busy:
    """Several stretches of time as one."""
    several = list(times)
    spent: dict[str, float] = defaultdict(float)
    for one in several:
        for name, seconds in one.programs.items():
            spent[name] += seconds
    return Busy(
        sum(one.seconds for one in several),
        sum(one.capacity_seconds for one in several),
        _busiest(spent),
    )


def _busiest(spent: dict[str, float]) -> dict[str, float]:
    ranked = sorted(spent.items(), key=lambda one: one[1], reverse=True)[:NAMED_PROGRAMS]
    return {name: seconds for name, seconds in ranked if seconds > 0}


def said(busy: Busy, load_average: tuple[float, float, float] | None = None) -> str:
    """In words, for a report: how busy others were, and who they were."""
    words = f"other programs used {busy.share:.0%} of the processors"
    if busy.programs:
        named = ", ".join(f"{name} {spent:.1f} s" for name, spent in busy.programs.items())
        words += f" (the busiest, by processor time: {named})"
    if load_average is not None:
        words += f"; load average {load_average[0]:.2f}, {load_average[1]:.2f}, {load_average[2]:.2f}"
    return words


def processor_times(stat: str) -> tuple[float, float]:
    """Used and available processor time in seconds since the machine started, from the text of /proc/stat."""
    first = stat.partition("\n")[0].split()
    if not first or first[0] != "cpu":
        return 0.0, 0.0
    columns = [int(value) for value in first[1 : 1 + _COUNTED_COLUMNS]]
    idle = sum(columns[column] for column in _IDLE_COLUMNS if column < len(columns))
    return (sum(columns) - idle) / TICKS_PER_SECOND, sum(columns) / TICKS_PER_SECOND


def program_name(command_line: bytes, name: str) -> str:
    """What people recognise a process by; `name` is the kernel's.

    Of the arguments only a script's or a module's name is shown: others may hold a secret.
    """
    words = [word.decode(errors="replace") for word in command_line.split(b"\0") if word]
    if not words:
        return name
    program = Path(words[0]).name
    if program.startswith(_INTERPRETERS):
        if "-m" in words[1:-1]:
            program += f" -m {words[words.index('-m', 1) + 1]}"
        elif script := next((word for word in words[1:] if not word.startswith("-")), ""):
            program += f" {Path(script).name}" if "\n" not in script and " " not in script else ""
    return program[:_NAME_LENGTH]


def other_processes(root_pid: int) -> dict[tuple[int, str], float]:
    """Processor time so far of each process that is not of our family, by its number and name."""
    parents: dict[int, int] = {}
    used: dict[tuple[int, str], float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        head, _, tail = _read(folder / "stat").rpartition(")")
        fields = tail.split()
        if len(fields) < 13:
            continue  # it has ended meanwhile
        pid = int(folder.name)
        parents[pid] = int(fields[1])
        if pid != root_pid:
            name = program_name(_read_bytes(folder / "cmdline"), head.partition("(")[2])
            used[pid, name] = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return {process: spent for process, spent in used.items() if not _descends(process[0], root_pid, parents)}


def _descends(pid: int, root_pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == root_pid:
            return True
    return False


def _read(path: Path) -> str:
    return _read_bytes(path).decode(errors="replace")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
