"""Files that may change while a service runs, as certificates and lists of keys do: read again, and used if usable."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)
ContentT = TypeVar("ContentT")


class ReloadableFiles(Generic[ContentT]):
    """What some files say together, as of the last time that they were read.

    What can't be read or used any more is logged, and what was read before stays: a half-written file, or a certificate
    whose key has not been replaced yet, does not end a service.

    Args:
        name: what it is, for the log.
        paths: the files.
        make: turns their contents, in this order, into what is wanted; raises ValueError if they are of no use.

    Raises: OSError, ValueError: at first there is nothing to go on with.
    """

    def __init__(self, name: str, paths: Sequence[Path], make: Callable[[Sequence[bytes]], ContentT]) -> None:
        self._name = name
        self._paths = tuple(paths)
        self._make = make
        self._reloading = threading.Lock()
        contents = self._read()
        self._hash = _hash(contents)
        self.content = make(contents)

    def reload(self) -> bool:
        """Read the files again; whether `content` is new. May be called from any thread."""
        with self._reloading:
            try:
                contents = self._read()
                hash_ = _hash(contents)
                if hash_ == self._hash:
                    return False
                self._hash = hash_
                self.content = self._make(contents)
            except (OSError, ValueError) as error:
                self._note_failure(error)
                return False
        log.info("files_read_again", what=self._name)
        return True

    def _read(self) -> list[bytes]:
        return [path.read_bytes() for path in self._paths]

    def _note_failure(self, error: Exception) -> None:
        failed = f"failed: {error}"
        if isinstance(error, OSError):
            if self._hash == failed:
                return
            self._hash = failed
        log.warning("files_not_read", what=self._name, error=str(error), action="what was read before stays")


def _hash(contents: Sequence[bytes]) -> str:
    # Not the time of their change: that may be the same for another content.
    return hashlib.sha256(b"\0".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()
