"""How many files and connections the operating system lets a process have open."""

import resource

RESERVED = 200
"""For everything but the clients of a server: the database's connections, files, the way to other services."""


def room_for(wanted: int, reserved: int = RESERVED) -> int:
    """How many connections of clients there is room for, up to `wanted`; the limit is raised as far as that goes.

    Without that room accepting one more would fail, and so would everything else that opens a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + reserved
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - reserved))
