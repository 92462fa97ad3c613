"""From what came over the wire to a validated value, or an answer that names every field that is wrong."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from order_gateway.http.wire.errors import ApiError
from order_gateway.http.wire.strict_json import FIELDS_MAX, decode

ModelT = TypeVar("ModelT", bound=BaseModel)
BODY_VIOLATIONS_MAX = 100
JSON = "application/json"


async def read_body(request: web.Request, kind: type[ModelT]) -> ModelT:
    """The request's body as `kind`; an empty one counts as {}. Raises: ApiError."""
    raw = await request.read()
    if not raw or raw.isspace():
        return _validated(kind, {})
    declared = request.headers.get("Content-Type", JSON)
    if declared != JSON and request.content_type != JSON:
        raise invalid("Content-Type", "must be application/json")
    try:
        value = decode(raw.decode())
    except (ValueError, RecursionError) as error:
        raise invalid("body", _problem(error)) from error
    if not isinstance(value, dict):
        raise invalid("body", "must be a JSON object")
    return _validated(kind, value)


def read_query(request: web.Request, kind: type[ModelT]) -> ModelT:
    """The request's query as `kind`. Raises: ApiError."""
    given: dict[str, str] = {}
    # One by one: asking for all values of a name looks through all of them.
    for name, value in islice(request.query.items(), FIELDS_MAX + 1):
        if name in given:
            raise invalid(_field_path([name]), "is given more than once")
        given[name] = value
    if len(given) > FIELDS_MAX:
        raise invalid("query", f"has more than {FIELDS_MAX} parameters")
    return _validated(kind, given)


def read_path(request: web.Request, kind: type[ModelT]) -> ModelT:
    """The variable parts of the request's path as `kind`. Raises: ApiError."""
    return _validated(kind, dict(request.match_info))


def invalid(field: str, message: str) -> ApiError:
    """One field that is wrong."""
    return ApiError("INVALID_ARGUMENT", "the request is not valid", [{"field": field, "message": message}])


def _validated(kind: type[ModelT], value: Mapping[str, Any]) -> ModelT:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ApiError("INVALID_ARGUMENT", "the request is not valid", _violations(error)) from error


def _violations(error: ValidationError) -> list[dict[str, str]]:
    """Each field that is wrong, by its path in the body, and what is wrong with it."""
    items = error.errors(include_url=False, include_context=False, include_input=False)
    return [{"field": _field_path(item["loc"]), "message": _text(item)} for item in items[:BODY_VIOLATIONS_MAX]]


def _field_path(path: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in path)[:255].encode(errors="replace").decode() or "body"


def _text(item: Any) -> str:
    return str(item["msg"]).removeprefix("Value error, ")


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8"
    return f"is not JSON: {error}"[:255]
