"""Ids that must be unique, but need not be secret.

They come from a generator that the operating system seeds once: asking it for every id of every request costs more
than the id is worth.
"""

import os
import random
import time

_random = random.Random()  # noqa: S311 - not for secrets
# Otherwise a forked process would make the same ids as its parent.
os.register_at_fork(after_in_child=_random.seed)


def random_hex(size_bytes: int) -> str:
    """So many random bytes, as hexadecimal digits."""
    return _random.randbytes(size_bytes).hex()


def sortable_hex() -> str:
    """32 hexadecimal digits that begin with the time: what is made together stands together in an index."""
    return f"{time.time_ns() // 1_000_000:012x}{_random.getrandbits(80):020x}"
