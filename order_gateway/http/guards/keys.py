"""The API keys that are valid now: those of the configuration, and those of a file that may change at any time."""

import hashlib
import hmac
from collections.abc import Sequence

from order_gateway.access import (
    AccessSettings,
    ApiKey,
    parse_keys,
    read_keys,
    refuse_development_key,
    refuse_doubled,
    refuse_empty_key,
)
from service_kit.reloadable_files import ReloadableFiles


def find_key(keys: Sequence[ApiKey], presented: str) -> ApiKey | None:
    """The configured key that was presented; takes as long for a wrong one as for a right one."""
    digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found


class Keyring:
    """Finds keys. A file that can't be used any more is logged, and the keys read before stay.

    Attributes:
        file: that of further keys, to be looked at from time to time; None without one.
    """

    def __init__(self, settings: AccessSettings) -> None:
        self._configured = settings.api_keys
        self._is_development = settings.profile == "development"
        self.file: ReloadableFiles[tuple[ApiKey, ...]] | None = None
        if settings.api_keys_file:
            read_keys(settings.api_keys_file)  # what is wrong with the file is said in its own words
            self.file = ReloadableFiles("API keys", [settings.api_keys_file], self._read)

    def find(self, presented: str) -> ApiKey | None:
        """The key that was presented, if it is valid now."""
        return find_key((*self._configured, *(self.file.content if self.file else ())), presented)

    def _read(self, contents: Sequence[bytes]) -> tuple[ApiKey, ...]:
        keys = parse_keys(contents[0])
        refuse_empty_key(keys)
        refuse_doubled((*self._configured, *keys))
        if not self._is_development:
            refuse_development_key(keys)
        return keys
