"""Reading settings from the environment, and telling people what is wrong with all of them at once.

Whoever misspells a setting is told, and never ends up with less than was meant: a name that begins like ours and is
none of ours is refused, and so is an unknown field of a nested model (all of them are declared with `extra="forbid"`).
"""

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar, get_args

import structlog
from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from service_kit.database_url import EXAMPLE
from service_kit.starting import Exit

log = structlog.get_logger(__name__)
DELIMITER = "__"
ALLOW_INSECURE = "yes-on-a-private-network"
"""What must be written, in full, to run without the protection that a network wants."""
LOOPBACK = re.compile(r"127(\.\d{1,3}){3}|localhost|\[?::1\]?", re.IGNORECASE)
# By such variables Kubernetes tells every container of a service that is named "warehouse" or "orders".
_OF_KUBERNETES = re.compile(
    r"[A-Z0-9_]+_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)=.*"
    r"|[A-Z0-9_]+_PORT=(?:tcp|udp|sctp)://.*"
)
_NOT_JSON = "must be JSON"


class ServiceSettings(BaseSettings):
    """The settings of a service, all from the environment. A nested value is written `PREFIX_FIELD__PART=...`.

    Attributes:
        others_names: variables with our prefix that belong to another service.
        stand_ins: what is taken for fields without a usable default, while the rest is looked at.
    """

    model_config = SettingsConfigDict(env_nested_delimiter=DELIMITER, extra="forbid")
    others_names: ClassVar[frozenset[str]] = frozenset()
    stand_ins: ClassVar[Mapping[str, str]] = {"database_url": EXAMPLE}

    def reasons_not_to_serve(self) -> list[str]:
        """What these settings, each of them valid, must not be used together for: a line for each reason."""
        return []

    def risks(self) -> list[str]:
        """What is dangerous about a server with these settings, though it may be meant so: a line for each."""
        return []

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment; what is no JSON is for the validation to refuse, with all the rest."""
        return init_settings, _Environment(settings_cls)


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


class InvalidSettings(Exception):
    """Some settings can't be used; the message has a line for each of them."""


def load_settings(kind: type[SettingsT], *, to_serve: bool = True) -> SettingsT:
    """Read `kind` from the environment.

    Args:
        to_serve: also refuse what a server must not be run with; a command such as `migrate` does not care.

    Raises:
        InvalidSettings: with one line per setting that is missing, malformed, unknown or unsafe.
    """
    unknown = dict(_unknown_names(kind))
    settings, problems = _construct(kind, {})
    if settings is None and problems:
        # What else is wrong shows if those that can't be read are left at their defaults.
        settings, further = _construct(kind, {**_defaults(kind, problems), **kind.stand_ins})
        problems.update({path: text for path, text in further.items() if not _concerns(text, problems)})
    reasons = [] if settings is None or not to_serve else settings.reasons_not_to_serve()
    known_bad = {_name(kind, path[:1]) for path in problems if path}
    lines = [
        *(f"{name}: {text}" for name, text in unknown.items()),
        *(
            f"{_name(kind, path)}: {text}" if path else text
            for path, text in problems.items()
            if _name(kind, path) not in unknown
        ),
        *(reason for reason in reasons if not any(name in reason for name in known_bad)),
    ]
    if lines or settings is None:
        raise InvalidSettings("\n".join(f"  {line}" for line in dict.fromkeys(lines)))
    return settings


def load_settings_or_exit(kind: type[SettingsT], *, to_serve: bool = True) -> SettingsT:
    """Read `kind` from the environment; print all problems and exit with Exit.SETTINGS if there are any."""
    try:
        return load_settings(kind, to_serve=to_serve)
    except InvalidSettings as error:
        print(f"These settings can't be used:\n{error}", file=sys.stderr)
        raise SystemExit(Exit.SETTINGS) from error


def log_risks(settings: ServiceSettings) -> None:
    """Warn of what is dangerous about a server with these settings."""
    for risk in settings.risks():
        log.warning("settings_at_risk", why=risk)


def is_loopback(listen: str) -> bool:
    """Whether only this machine can reach the address host:port."""
    return LOOPBACK.fullmatch(listen.rpartition(":")[0]) is not None


def known_names(kind: type[BaseSettings]) -> frozenset[str]:
    """Every environment variable that says something to `kind`, in capitals."""
    prefix = str(kind.model_config.get("env_prefix") or "")
    found: set[str] = set()
    for field_name, field in kind.model_fields.items():
        for name in _aliases(field) or [f"{prefix}{field_name}"]:
            found.add(name.upper())
            found |= {f"{name}{DELIMITER}{part}".upper() for part in _parts(field)}
    return frozenset(found)


def nested_models(kind: type[BaseModel]) -> frozenset[type[BaseModel]]:
    """The models that the fields of `kind` are made of, all the way down."""
    found: set[type[BaseModel]] = set()
    for field in kind.model_fields.values():
        for model in _models(field.annotation):
            found |= {model, *nested_models(model)}
    return frozenset(found)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _parts(field: FieldInfo) -> Iterator[str]:
    """The nested names of a field that is a model; what is in a list is written as JSON."""
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        for name, part in field.annotation.model_fields.items():
            yield name
            yield from (f"{name}{DELIMITER}{inner}" for inner in _parts(part))


def _aliases(field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return [str(choice) for choice in alias.choices]
    return [str(alias)] if alias is not None else []


def _unknown_names(kind: type[ServiceSettings]) -> Iterator[tuple[str, str]]:
    prefix, known = str(kind.model_config.get("env_prefix") or "").upper(), known_names(kind)
    for name, value in os.environ.items():
        upper = name.upper()
        is_ours = bool(prefix) and upper.startswith(prefix) and not _OF_KUBERNETES.fullmatch(f"{upper}={value}")
        if is_ours and upper not in known | kind.others_names:
            yield upper, f"there is no such setting{_nearest(upper, known)}"


def _nearest(name: str, known: frozenset[str]) -> str:
    longer = sorted((known_name for known_name in known if known_name.startswith(name)), key=len)
    found = longer or difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {found[0]}?" if found else ""


FieldPath = tuple[str | int, ...]


def _construct(kind: type[SettingsT], given: Mapping[str, Any]) -> tuple[SettingsT | None, dict[FieldPath, str]]:
    try:
        return kind(**given), {}
    except ValidationError as error:
        problems: dict[FieldPath, str] = {}
        for item in error.errors():
            text = _text(kind, item)
            problems[item["loc"]] = f"{problems[item['loc']]}; {text}" if item["loc"] in problems else text
        return None, problems


def _text(kind: type[BaseSettings], item: Mapping[str, Any]) -> str:
    path: FieldPath = item["loc"]
    text = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        name = _name(kind, path)
        return f"there is no such setting{'' if '[' in name else _nearest(name, known_names(kind))}"
    if isinstance(item["input"], str) and item["type"] in ("tuple_type", "model_type", "list_type", "dict_type"):
        return _NOT_JSON
    return text


def _defaults(kind: type[BaseSettings], problems: Mapping[FieldPath, str]) -> dict[str, Any]:
    """For each field that can't be read, its default, under the name by which it is given."""
    by_name = {alias: field for field in kind.model_fields.values() for alias in _aliases(field)}
    found: dict[str, Any] = {}
    for path in problems:
        field = kind.model_fields.get(str(path[0])) or by_name.get(str(path[0])) if path else None
        if field is not None and not field.is_required():
            found[str(path[0])] = field.get_default(call_default_factory=True)
    return found


def _concerns(text: str, problems: Mapping[FieldPath, str]) -> bool:
    """Whether a further problem only comes of leaving out one that is known already."""
    return any(path and str(path[0]).upper() in text for path in problems)


def _name(kind: type[BaseSettings], path: FieldPath) -> str:
    """The environment variable of a field of the settings, and where in its JSON if that is a list."""
    if not path:
        return ""
    first = str(path[0])
    prefix = "" if first not in kind.model_fields else str(kind.model_config.get("env_prefix") or "")
    name, inside = f"{prefix}{first}".upper(), ""
    for part in path[1:]:
        if isinstance(part, int):
            inside += f"[{part}]"
        elif inside:
            inside += f".{part}"
        else:
            name += f"{DELIMITER}{part}".upper()
    return name + inside
