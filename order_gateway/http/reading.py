"""From what came over the wire to a validated value, or an answer that names every field that is wrong."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from order_gateway.http.errors import ApiError

ModelT = TypeVar("ModelT", bound=BaseModel)
VIOLATIONS_MAX = 100
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
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise invalid("body", _problem(error)) from error
    if not isinstance(value, dict):
        raise invalid("body", "must be a JSON object")
    return _validated(kind, value)


def read_query(request: web.Request, kind: type[ModelT]) -> ModelT:
    """The request's query as `kind`. Raises: ApiError."""
    query = request.query
    for name in query:
        if len(query.getall(name)) > 1:
            raise invalid(name, "is given more than once")
    return _validated(kind, dict(query))


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
    """Each field that is wrong, by its place in the body, and what is wrong with it."""
    items = error.errors(include_url=False, include_context=False, include_input=False)
    return [{"field": _place(item["loc"]), "message": _text(item)} for item in items[:VIOLATIONS_MAX]]


def _place(path: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in path)[:255].encode(errors="replace").decode() or "body"


def _text(item: Any) -> str:
    return str(item["msg"]).removeprefix("Value error, ")


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8"
    return f"is not JSON: {error}"[:255]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice[:64]!r} is given more than once")
    return value


# Floats would lose cents; Python's JSON also takes NaN and Infinity, which are not JSON, and the last of duplicates.
decode = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_no_duplicates).decode
