"""Ids that tell requests and traces apart in logs: need not be secret, and two that are alike do no harm.

They come from a generator that the operating system seeds once: asking it for every id of every request costs more
than the id is worth.
"""

import os
import random

_random = random.Random()  # noqa: S311 - not for secrets
# Otherwise a forked process would make the same ids as its parent.
os.register_at_fork(after_in_child=_random.seed)


def random_hex(size_bytes: int) -> str:
    """So many random bytes, as hexadecimal digits."""
    return _random.randbytes(size_bytes).hex()
