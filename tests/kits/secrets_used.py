"""What tests use as secrets, and what of them is found in logs: nothing must be."""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

_used: set[str] = set()
_SECRET_SETTING = re.compile(r"(KEY|SECRET|SECRETS|PASSWORD|TOKEN)(_BEFORE)?$")
_URL_SETTING = re.compile(r"DATABASE_URL$")
_NO_SECRETS = frozenset({"order-service-api-key", "order-service-browser-key"})
"""Printed in the documents, and by `make run`."""
LENGTH_MIN = 8
"""A shorter one is found by chance."""
_LIKE_A_SECRET = re.compile(rb"eyJ[\w-]{10,}\.eyJ[\w-]{10,}|\$argon2id\$|-----BEGIN [A-Z ]*PRIVATE KEY-----")
"""A token, the hash of a password, a private key: whoever used it."""
_THIS_RUN = secrets.token_hex(8)


def secret(text: str) -> str:
    """Remember `text` as one; it must be found in no log from now on."""
    if len(text) >= LENGTH_MIN and text not in _NO_SECRETS:
        _used.add(text)
    return text


def key_of(name: str) -> str:
    """The secret key that goes by a name, the same throughout a run of the tests."""
    return secret(f"{name.replace(' ', '-')}-{_THIS_RUN}")


def hashed(key: str) -> str:
    """What settings hold of a key; it is remembered as a secret."""
    return hashlib.sha256(secret(key).encode()).hexdigest()


def note_settings(settings: Mapping[str, str]) -> None:
    """Remember what is secret among environment variables, and inside those that are JSON."""
    for name, value in settings.items():
        if _SECRET_SETTING.search(name.upper()):
            _note_value(value)
        elif _URL_SETTING.search(name.upper()):
            _note_url(value)
        elif value.startswith(("{", "[")):
            _note_json(value)


def known_secrets() -> frozenset[str]:
    """All that are remembered."""
    return frozenset(_used)


def lines_with_secrets(content: bytes) -> list[int]:
    """The numbers of the lines with a secret in them, from 1."""
    patterns = [text.encode() for text in _used]
    if not any(pattern in content for pattern in patterns) and not _LIKE_A_SECRET.search(content):
        return []
    return [
        number
        for number, line in enumerate(content.splitlines(), 1)
        if any(pattern in line for pattern in patterns) or _LIKE_A_SECRET.search(line)
    ]


def found_in(paths: Iterable[Path]) -> list[str]:
    """Which secrets stand in files; each with the file and the line, without the secret itself."""
    return [
        f"{path}:{number}"
        for path in paths
        for number in lines_with_secrets(path.read_bytes() if path.exists() else b"")
    ]


def _note_value(value: str) -> None:
    # The path of a file that holds one is none itself.
    if not (value.startswith("/") and Path(value).exists()):
        secret(value)


def _note_url(value: str) -> None:
    try:
        secret(make_url(value).password or "")
    except (ArgumentError, ValueError):
        return  # the test is about a URL that is none


def _note_json(value: str) -> None:
    try:
        found: object = json.loads(value)
    except ValueError:
        return  # the test is about JSON that is none
    _note_inside(found)


def _note_inside(value: object) -> None:
    if isinstance(value, list):
        for one in value:
            _note_inside(one)
    elif isinstance(value, dict):
        note_settings({str(name): one for name, one in value.items() if isinstance(one, str)})
        for one in value.values():
            _note_inside(one)
