"""Who used how much processor time, from /proc; all zero on systems without it."""

import os
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def family_cpu_seconds(pid: int | None) -> float:
    """What a process and its living descendants have used so far, in seconds."""
    if pid is None:
        return 0.0
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return own + sum(family_cpu_seconds(int(child)) for child in children)
