"""What the URL of a database may say; whatever else stands in it is refused, so that nobody ends up with less security.

mysql://user:password@host:port/database?tls=on&tls_ca=FILE
"""

import difflib
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from service_kit.reloadable_files import ReloadableFiles

EXAMPLE = "mysql://user:password@host:3306/database"
OPTIONS = ("tls", "tls_ca")
_TLS = {"on": True, "off": False}
_SCHEMES = re.compile(r"(mysql|mariadb)(\+\w+)?", re.IGNORECASE)
_FOREIGN = {
    "ssl": "tls=on",
    "ssl_mode": "tls=on",
    "sslmode": "tls=on",
    "ssl_disabled": "tls=off",
    "ssl_ca": "tls_ca=FILE",
    "sslrootcert": "tls_ca=FILE",
    "ssl_verify_cert": "tls=on, which always verifies",
    "ssl_verify_identity": "tls=on, which always verifies",
}


class BadDatabaseUrl(ValueError):
    """A database URL that can't be used; the message says why and shows nothing of the password."""


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """A database URL that was read.

    Attributes:
        url: without options.
        tls: whether the connection must be encrypted, and the server's certificate be that of its host.
        tls_ca: PEM file of the authority that signed it; empty: one that the system knows.
    """

    url: URL
    tls: bool = False
    tls_ca: str = ""

    @property
    def host_and_port(self) -> str:
        """host:port, for people."""
        return f"{self.url.host}:{self.url.port or 3306}"

    def tls_context(self) -> ssl.SSLContext | None:
        """What encrypts a connection, made of the CA file as it is now; None without TLS.

        Raises: BadDatabaseUrl, if the CA file can't be used.
        """
        if not self.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.tls_ca or None)
        except (OSError, ssl.SSLError) as error:
            why = "is no PEM file with certificates" if isinstance(error, ssl.SSLError) else error.strerror
            raise BadDatabaseUrl(f"the CA file of tls_ca, {self.tls_ca}, can't be used: {why}") from error


def read_database_url(text: str, *, needs_database: bool = True) -> DatabaseAddress:
    """Read a database URL.

    Args:
        needs_database: whether it must name a database, and not only a server.

    Raises:
        BadDatabaseUrl: it is malformed, not percent-encoded, or has an option that is not known here.
    """
    url = _parse(text)
    if not _SCHEMES.fullmatch(url.drivername):
        raise BadDatabaseUrl(f"begins with {url.drivername}://, but must look like {EXAMPLE}")
    if not url.host or re.search(r"[\s@#?/]", f"{url.host}{url.database or ''}"):
        raise BadDatabaseUrl(
            f"its host can't be told from its password: it must look like {EXAMPLE}, and in the user and the password "
            "@ is written %40, / %2F, : %3A, # %23, ? %3F and % %25"
        )
    if needs_database and not url.database:
        raise BadDatabaseUrl(f"names no database: it must look like {EXAMPLE}")
    tls, tls_ca = _read_options(_options(text))
    return DatabaseAddress(url.set(query={}), tls, tls_ca)


def name_of_setting(prefix: str) -> str:
    """Which environment variable the URL of a service's database comes from: its own, or that of all services."""
    own = f"{prefix}DATABASE_URL"
    return "DATABASE_URL" if os.environ.get("DATABASE_URL") and not os.environ.get(own) else own


def _parse(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError) as error:
        raise BadDatabaseUrl(
            f"is not a URL: it must look like {EXAMPLE}, with a number for the port, and in the user and the password "
            "@ is written %40, / %2F, : %3A, # %23, ? %3F and % %25"
        ) from error


def _options(text: str) -> dict[str, str]:
    # SQLAlchemy drops those without a value, which may have been meant to be safe: `?tls=`.
    given = parse_qsl(text.rpartition("@")[2].partition("?")[2], keep_blank_values=True)
    return {name: ",".join(value for other, value in given if other == name) for name, _value in given}


def _read_options(options: dict[str, str]) -> tuple[bool, str]:
    for name in options:
        if name not in OPTIONS:
            raise BadDatabaseUrl(f"has the option {name}, which is not known here{_hint(name)}")
    tls, tls_ca = options.get("tls"), options.get("tls_ca", "")
    if tls is not None and tls not in _TLS:
        raise BadDatabaseUrl("has an option tls that is neither on nor off")
    if tls_ca and tls == "off":
        raise BadDatabaseUrl("has both tls=off and tls_ca: leave one of them out")
    if "tls_ca" in options and not tls_ca:
        raise BadDatabaseUrl("has an option tls_ca without a file: name it, or leave the option out")
    return bool(tls_ca) or _TLS.get(tls or "off", False), tls_ca


def _hint(name: str) -> str:
    meant = _FOREIGN.get(name.lower().replace("-", "_"))
    if meant is None:
        nearest = difflib.get_close_matches(name.lower(), OPTIONS, 1)
        meant = f"{nearest[0]}=..." if nearest else None
    return f": write {meant}" if meant else f": the options are {' and '.join(OPTIONS)}"


def encrypt_connections(address: DatabaseAddress) -> Callable[..., None]:
    """A listener for SQLAlchemy's event "do_connect" that gives the driver a TLS context, of the CA file as it is then.

    Raises: BadDatabaseUrl, if the CA file can't be used now.
    """
    address.tls_context()  # what is wrong with the file is said in its own words
    paths = [Path(address.tls_ca)] if address.tls_ca else []
    files = ReloadableFiles("the CA of the database", paths, lambda _contents: address.tls_context())

    def encrypt(_dialect: object, _record: object, _arguments: list[Any], options: dict[str, Any]) -> None:
        files.reload()
        options["ssl"] = files.content

    return encrypt
