"""What tests use as secrets, and what of them is found in logs: nothing must be."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

_used: set[str] = set()
_SECRET_SETTING = re.compile(r"(KEY|SECRET|SECRETS|PASSWORD|TOKEN)$")
_NO_SECRETS = frozenset({"order-service-api-key", "order-service-browser-key"})
"""Printed in the documents, and by `make run`."""
LENGTH_MIN = 8
"""A shorter one is found by chance."""
_LIKE_A_SECRET = re.compile(rb"eyJ[\w-]{10,}\.eyJ[\w-]{10,}|\$argon2id\$|-----BEGIN [A-Z ]*PRIVATE KEY-----")
"""A token, the hash of a password, a private key: whoever used it."""


def secret(text: str) -> str:
    """Remember `text` as one; it must be found in no log from now on."""
    if len(text) >= LENGTH_MIN and text not in _NO_SECRETS:
        _used.add(text)
    return text


def note_settings(settings: Mapping[str, str]) -> None:
    """Remember what is secret among environment variables."""
    for name, value in settings.items():
        if _SECRET_SETTING.search(name.upper()) and not value.startswith("/"):
            secret(value)
        elif name.upper().endswith("DATABASE_URL"):
            try:
                secret(make_url(value).password or "")
            except (ArgumentError, ValueError):
                continue  # the test is about a URL that is none


def found_in(paths: Iterable[Path]) -> list[str]:
    """Which secrets stand in files; each with the file and the line, without the secret itself."""
    found = []
    patterns = {text.encode() for text in _used}
    for path in paths:
        content = path.read_bytes() if path.exists() else b""
        if any(pattern in content for pattern in patterns) or _LIKE_A_SECRET.search(content):
            for number, line in enumerate(content.splitlines(), 1):
                if any(pattern in line for pattern in patterns) or _LIKE_A_SECRET.search(line):
                    found.append(f"{path}:{number}")
    return found
