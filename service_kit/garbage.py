"""Python's garbage collector in a server that has started.

A call makes a few hundred objects that die at once and hardly ever a cycle; by default Python looks through all of them
for cycles every 700, which takes an eighth of the processor time of the warehouse.
"""

import gc

THRESHOLD_OBJECTS = 50_000
"""Objects made, less those gone, between two looks for cycles."""


def calm_garbage_collector() -> None:
    """Keep what start-up has made out of every later look for cycles, and look rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD_OBJECTS, 20, 20)
