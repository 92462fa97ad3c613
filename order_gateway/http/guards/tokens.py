"""JSON Web Tokens for people: read from the header Authorization, and issued for a password."""

import asyncio
import base64
import os
import secrets
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from order_gateway.access import AccessSettings, UserAccount, read_public_keys
from order_gateway.http.wire.errors import ApiError
from service_kit.reloadable_files import ReloadableFiles

SYMMETRIC = "HS256"
ASYMMETRIC = ("RS256", "ES256")
PASSWORD_CHECKS_MAX = 1
"""At the same time: each takes 64 MiB, and four threads for a twentieth of a second."""
PASSWORD_CHECKS_NICE = 10
"""They step back behind everything else: anybody may ask for one."""


def _nobodys_hash(hasher: PasswordHasher) -> str:
    """Compared with when there is no such user, so that the time taken does not tell.

    It has the costs of a real one and is that of no password known to anybody; it is not calculated, because each
    start and each command would pay for that.
    """
    salt, digest = (
        base64.b64encode(secrets.token_bytes(length)).rstrip(b"=").decode()
        for length in (hasher.salt_len, hasher.hash_len)
    )
    return f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}${salt}${digest}"


@dataclass(frozen=True, slots=True)
class Person:
    """Who a token speaks for."""

    user_id: str
    role: Literal["customer", "admin"]


class Tokens:
    """Reads and issues tokens.

    The kind of key decides which algorithms are believed: a secret only HS256, public keys only RS256 and ES256.

    Attributes:
        file: the public keys, to be looked at from time to time; None without any.
    """

    def __init__(self, settings: AccessSettings) -> None:
        self._settings = settings
        self._secret = settings.jwt_secret.get_secret_value()
        jwks = settings.jwt_jwks_file
        self.file = ReloadableFiles("JWK set", [jwks], lambda contents: read_public_keys(contents[0])) if jwks else None
        self._users: Mapping[str, UserAccount] = {user.name: user for user in settings.users}
        self._hasher = PasswordHasher()
        self._nobody = _nobodys_hash(self._hasher)
        self._checks = ThreadPoolExecutor(PASSWORD_CHECKS_MAX, "passwords", _step_back)

    @property
    def are_issued(self) -> bool:
        """Whether there are users who can get tokens here."""
        return bool(self._users)

    def read(self, authorization: str) -> Person:
        """The person behind the header Authorization. Raises: ApiError."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or not token.isascii():
            raise _refused("send Authorization: Bearer and a token, or leave the header out")
        try:
            claims = self._claims(token.strip())
        except jwt.ExpiredSignatureError as error:
            raise _refused("the token has expired; get a new one") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # The library lets through what is wrong inside: times beyond all bounds, JSON that is nested too deeply.
            raise _refused("the token is not valid here") from error
        return _person(claims)

    def issue(self, user: UserAccount) -> str:
        """A token for a user."""
        now = int(time.time())
        claims = {
            "sub": user.user_id,
            "name": user.name,
            "role": user.role,
            "iss": self._settings.jwt_issuer,
            "aud": self._settings.jwt_audience,
            "iat": now,
            "exp": now + self._settings.token_lifetime_seconds,
            "jti": uuid.uuid4().hex,
        }
        return jwt.encode(claims, self._secret, SYMMETRIC)

    async def log_in(self, name: str, password: str) -> UserAccount:
        """The user with this name and password. Raises: ApiError."""
        user = self._users.get(name)
        expected = user.password_hash if user else self._nobody
        matches = await asyncio.get_running_loop().run_in_executor(self._checks, self._verify, expected, password)
        if user is None or not matches:
            raise ApiError("UNAUTHENTICATED", "the user name or the password is wrong")
        return user

    def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        settings = self._settings
        public = self.file.content if self.file else {}
        key: Any
        if header.get("alg") == SYMMETRIC and self._secret:
            key, algorithms = self._secret, [SYMMETRIC]
        elif header.get("alg") in ASYMMETRIC and header.get("kid") in public:
            key, algorithms = public[header["kid"]], list(ASYMMETRIC)
        else:
            raise jwt.InvalidKeyError("no key for this token")
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway=settings.jwt_leeway_seconds,
            options={"require": ["exp", "sub"]},
        )

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False


def _step_back() -> None:
    # On Linux a priority is a thread's own, and that of the threads which it starts, as Argon2 does.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PASSWORD_CHECKS_NICE)


def _person(claims: Mapping[str, Any]) -> Person:
    # An empty list of roles is no role, whatever stands in `role`.
    roles = claims["roles"] if "roles" in claims else [claims.get("role")]
    is_admin = isinstance(roles, list) and "admin" in roles
    user_id = str(claims["sub"])
    # The database takes no notice of spaces at the end.
    if not (0 < len(user_id) <= 64 and user_id.isprintable() and user_id == user_id.strip()):
        raise _refused("the token's subject must be 1 to 64 printable characters without spaces around them")
    return Person(user_id, "admin" if is_admin else "customer")


def _refused(message: str) -> ApiError:
    return ApiError("UNAUTHENTICATED", message, (), {"WWW-Authenticate": "Bearer"})
