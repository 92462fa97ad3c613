"""Names for the records of who did what, where a column has less room than a name may take."""

import hashlib
import re
from typing import Annotated

from pydantic import AfterValidator, Field

ACTOR_LENGTH_MAX = 64
"""Characters."""
_DIGEST_LENGTH = 24
_KEY_NAME = re.compile(r"[!-.0-~]+")


def _must_be_key_name(name: str) -> str:
    if _KEY_NAME.fullmatch(name) is None:
        raise ValueError(
            "has visible ASCII characters only, no space, no slash: what follows a slash in a record is on whose "
            "behalf a key acts"
        )
    return name


KeyName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_must_be_key_name)]
"""Who holds a key, as records name it; with a slash in it, one key could look like another that acts for somebody."""


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
