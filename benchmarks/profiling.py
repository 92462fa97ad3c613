"""Where the warehouse spent its time, from what cProfile left in the run's folder."""

import io
import pstats
from pathlib import Path

from rich.console import Console

LINES = 40


def print_profiles(folder: Path, console: Console) -> None:
    """Print the functions with the most time of their own, for each profile found."""
    for path in sorted(folder.glob("*.prof")):
        text = io.StringIO()
        pstats.Stats(str(path), stream=text).strip_dirs().sort_stats("tottime").print_stats(LINES)
        console.print(f"profile of {path.stem}:")
        console.print(text.getvalue(), markup=False, highlight=False)
