"""Reading settings from the environment, and telling people what is wrong with all of them at once."""

import sys
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class InvalidSettings(Exception):
    """Some settings can't be used; the message has a line for each of them."""


def load_settings(kind: type[SettingsT]) -> SettingsT:
    """Read `kind` from the environment.

    Raises:
        InvalidSettings: with one line per setting that is missing or malformed.
    """
    try:
        return kind()
    except ValidationError as error:
        prefix = str(kind.model_config.get("env_prefix") or "")
        raise InvalidSettings("\n".join(_explain(prefix, item) for item in error.errors())) from error


def load_settings_or_exit(kind: type[SettingsT]) -> SettingsT:
    """Read `kind` from the environment; print all problems and exit with status 2 if there are any."""
    try:
        return load_settings(kind)
    except InvalidSettings as error:
        print(f"These settings can't be used:\n{error}", file=sys.stderr)
        raise SystemExit(2) from error


def _explain(prefix: str, item: object) -> str:
    assert isinstance(item, dict)
    place = [str(part) for part in item["loc"]]
    name = (prefix + place[0]).upper() if place else "(together)"
    return f"  {'.'.join([name, *place[1:]])}: {item['msg']}"
