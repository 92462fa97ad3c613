"""How a connection to the database logs in: encryption is decided before anything secret is sent.

Both drivers go on in plain text where the server offers no TLS, and hand the password itself to a server that asks for
it; so whoever stands in between, or in the server's place, would only have to ask. What is refused here, before the
answer is sent:

- any login, where TLS is wanted and the server does not offer it;
- the password as it is, where the connection is not encrypted;
- the password encrypted for a public key that came over the same open connection, and may be anybody's; but for this
  machine's own server, which nobody stands before;
- how servers before MySQL 4.1 did it, which a child's computer undoes.
"""

from typing import Any

import aiomysql
import pymysql
from pymysql.constants import CLIENT

from service_kit.settings import LOOPBACK

TLS_NOT_OFFERED = 2026
LOGIN_UNSAFE = 2061
"""The client library's number for an authentication plugin that fails."""
_CHALLENGED = frozenset({"mysql_native_password", "caching_sha2_password", "sha256_password", "client_ed25519"})
"""The password only leaves as the answer to a challenge, or, on an encrypted connection, as it is."""
_PLAIN = frozenset({"mysql_clear_password"})
_NEEDED = int(CLIENT.PLUGIN_AUTH | CLIENT.SECURE_CONNECTION)
"""What every server has been able to do for fifteen years."""


class SafeLogin:
    """Goes before a driver's connection class, PyMySQL's or aiomysql's, among the bases of a class.

    Raises: OperationalError, TLS_NOT_OFFERED or LOGIN_UNSAFE, instead of sending what must not be sent.
    """

    _secure: bool
    server_capabilities: int
    _public_key: object = None

    def _login_facts(self) -> tuple[str, bool, str]:
        """The host, whether TLS is wanted, and the way to log in that the server has announced."""
        raise NotImplementedError

    def _request_authentication(self) -> Any:
        _host, wants_tls, announced = self._login_facts()
        if wants_tls and not self.server_capabilities & CLIENT.SSL:
            raise pymysql.err.OperationalError(
                TLS_NOT_OFFERED, "the database does not encrypt the connection, and tls=on asks for it"
            )
        if self.server_capabilities & _NEEDED != _NEEDED:
            raise _unsafe("in the way of servers before MySQL 4.1")
        # What is announced is answered together with the user's name, behind the TLS handshake if there is one.
        _require_safe(announced, is_encrypted=wants_tls or self._secure)
        return super()._request_authentication()  # type: ignore[misc]

    def _process_auth(self, plugin_name: bytes, *others: Any) -> Any:
        _require_safe(plugin_name.decode("ascii", "replace"), is_encrypted=self._secure)
        return super()._process_auth(plugin_name, *others)  # type: ignore[misc]

    # Both drivers look at it exactly where they are about to encrypt the password for its owner.
    @property
    def server_public_key(self) -> object:
        """Whom the password is encrypted for. Raises: OperationalError, where that can't be known."""
        host, _, _ = self._login_facts()
        if not self._secure and not LOOPBACK.fullmatch(host):
            raise _unsafe("encrypted for a key that it sends over the open connection")
        return self._public_key

    @server_public_key.setter
    def server_public_key(self, key: object) -> None:
        self._public_key = key


class SafeAsyncConnection(SafeLogin, aiomysql.Connection):  # type: ignore[misc]
    """A connection of aiomysql."""

    def _login_facts(self) -> tuple[str, bool, str]:
        announced = self._client_auth_plugin or self._server_auth_plugin
        return str(self._host), self._ssl_context is not None, str(announced)


class SafeConnection(SafeLogin, pymysql.Connection):  # type: ignore[misc]
    """A connection of PyMySQL. It uses TLS where it is given a context, and only there."""

    def __init__(self, **options: Any) -> None:
        # Without this it would take any certificate where the server offers TLS, and call the connection safe.
        super().__init__(**options, ssl_disabled=options.get("ssl") is None)

    def _login_facts(self) -> tuple[str, bool, str]:
        return str(self.host), bool(self.ssl), str(self._auth_plugin_name)


def _require_safe(plugin: str, *, is_encrypted: bool) -> None:
    if plugin in _PLAIN and not is_encrypted:
        raise _unsafe("as it is, over a connection that is not encrypted")
    if plugin and plugin not in _CHALLENGED | _PLAIN:
        raise _unsafe(f"by {plugin[:40]!r}, which is not known here")


def _unsafe(how: str) -> pymysql.err.OperationalError:
    return pymysql.err.OperationalError(LOGIN_UNSAFE, f"the database asks for the password {how}")
