"""Who may call what: API keys, known by their hashes only."""

import hashlib
import hmac
from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, Field

from service_kit.actors import KeyName

API_KEY_HEADER = "x-api-key"
ANONYMOUS = "anonymous"


class Role(StrEnum):
    """What a key allows; each role includes the ones before it."""

    READER = "reader"
    ORDER = "order"
    ADMIN = "admin"


_RANK = {Role.READER: 0, Role.ORDER: 1, Role.ADMIN: 2}


class ApiKey(BaseModel, frozen=True, extra="forbid"):
    """A key that a caller may show; several can be valid at once, so that they can be rotated."""

    name: KeyName = Field(description="who holds it; the actor in the ledger")
    role: Role
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the key, in hexadecimal")


_KNOWN_TO_EVERYBODY = frozenset(
    hashlib.sha256(key).hexdigest() for key in (b"", b"order-service-api-key", b"order-service-browser-key")
)
"""Of no key at all, and of the keys that the examples of the order gateway use."""


def is_known_to_everybody(key: ApiKey) -> bool:
    """Whether a key is no secret: empty, or printed in the documents."""
    return key.sha256 in _KNOWN_TO_EVERYBODY


class Unauthenticated(Exception):
    """The caller shows no key, or one that is not known."""


class PermissionDenied(Exception):
    """The caller's role does not allow the call.

    Attributes:
        metadata: which key has which role, and which one the call needs.
    """

    def __init__(self, key_name: str, role: Role, needed: Role) -> None:
        super().__init__(f"this call needs a key with the role {needed}; the key {key_name!r} has the role {role}")
        self.metadata = {"key": key_name, "role": str(role), "needed": str(needed)}


def must_allow(name: str, allowed: Role, needed: Role) -> None:
    """Raises: PermissionDenied, if a key of this name that allows so much does not allow what is needed."""
    if _RANK[allowed] < _RANK[needed]:
        raise PermissionDenied(name, allowed, needed)


class Keyring:
    """The configured keys; without any, everyone is an anonymous admin (keep such a server off the network).

    Attributes:
        is_locked: there are keys.
        is_shared: there are several.
    """

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = tuple(keys)
        self.is_locked = bool(self._keys)
        self.is_shared = len(self._keys) > 1

    def find(self, key: str | None) -> tuple[str, Role]:
        """The name of the caller who shows `key`, and what it allows. Raises: Unauthenticated."""
        if not self._keys:
            return ANONYMOUS, Role.ADMIN
        if not key:
            raise Unauthenticated(f"send your key as metadata {API_KEY_HEADER}")
        digest = hashlib.sha256(key.encode()).hexdigest()
        # Every key is compared, in constant time, so that the time taken tells nothing.
        matches = [known for known in self._keys if hmac.compare_digest(known.sha256, digest)]
        if not matches:
            raise Unauthenticated("this key is not known")
        return matches[0].name, max((known.role for known in matches), key=_RANK.__getitem__)
