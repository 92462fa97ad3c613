"""Names for the records of who did what, where a column has less room than a name may take."""

import hashlib

ACTOR_LENGTH_MAX = 64
"""Characters."""
_DIGEST_LENGTH = 24


def actor_of(key_name: str, behalf: str = "") -> str:
    """Who acts: the name of a key, and behind it whom it acts for, so that nobody can pass as somebody else.

    What is too long keeps its beginning and gets a digest of all of it: two names never look alike. No shorter name
    can look like that, because only names that were too long have the full length.
    """
    name = f"{key_name}/{behalf}" if behalf else key_name
    if len(name) < ACTOR_LENGTH_MAX:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_LENGTH]
    return f"{name[: ACTOR_LENGTH_MAX - _DIGEST_LENGTH - 1]}~{digest}"
