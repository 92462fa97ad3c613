"""The API's document, OpenAPI 3.1: made of the operations, and of the same types that validate and answer."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, TypeAdapter

from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import Access
from order_gateway.http.guards.idempotency import KEY_LENGTH_MAX
from order_gateway.http.wire.errors import STATUS

VERSION = "1"
EVENT_STREAM = "text/event-stream"
Schema = dict[str, Any]
_REF = "#/components/schemas/{model}"
_ANSWER_REF = "#/components/schemas/{name}"
_NAME_OF_STATUS = {
    400: "The request is not valid; details name the fields",
    401: "No valid API key, or no valid token",
    403: "Not allowed",
    404: "Not found",
    408: "The body did not come in time",
    409: "Not possible as things are",
    413: "The body is too large",
    422: "The payment was declined",
    429: "Too much at once; try again after Retry-After seconds",
    503: "Something that is needed is away; try again after Retry-After seconds",
    504: "It took too long",
}
_COMMON = ("INVALID_ARGUMENT", "RATE_LIMITED", "TOO_MANY_REQUESTS", "DATABASE_UNAVAILABLE", "DEADLINE_EXCEEDED")
_COMMON_GUARDED = (
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "WAREHOUSE_UNAVAILABLE",
    "WAREHOUSE_TIMEOUT",
    "WAREHOUSE_BUSY",
    "WAREHOUSE_DENIED",
)
_COMMON_CHANGING = ("BODY_TOO_LARGE", "BODY_TIMEOUT", "REQUEST_ID_REUSED", "REQUEST_IN_PROGRESS")


def document(operations: Sequence[Operation], prefix: str) -> Schema:
    """The document of these operations."""
    schemas, definitions = _schemas(operations)
    paths: dict[str, Schema] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Order service",
            "version": VERSION,
            "description": "Orders that always end in agreement with the warehouse. Every JSON answer comes in an "
            "envelope: success with data, or an error with a code, a message, details and the request id.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {
            "schemas": {**definitions, "Error": _ERROR, "Meta": _META},
            "headers": _HEADERS,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "of the calling service"},
                "person": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": f"beside the key: the person behind the request, by POST {prefix}/auth/token",
                },
            },
        },
    }


Key = tuple[int, str]
_ANSWER = "answer"


def _schemas(operations: Sequence[Operation]) -> tuple[Mapping[Key, Schema], Mapping[str, Schema]]:
    """The schema of each operation's inputs and answer, and what those refer to.

    Each is described by what reads or writes it: pydantic what comes in, msgspec what goes out.
    """
    wanted: list[tuple[Key, Literal["validation"], TypeAdapter[Any]]] = [
        ((id(operation), name), "validation", TypeAdapter(kind))
        for operation in operations
        for name, kind in operation.inputs.items()
    ]
    inputs, rest = TypeAdapter.json_schemas(wanted, ref_template=_REF)
    answering = [operation for operation in operations if operation.answer is not None]
    answers, parts = msgspec.json.schema_components(
        [operation.answer for operation in answering], ref_template=_ANSWER_REF
    )
    found: dict[Key, Schema] = {key: _without_titles(schema) for (key, _mode), schema in inputs.items()}
    for operation, schema in zip(answering, answers, strict=True):
        found[id(operation), _ANSWER] = _as_sent(_without_titles(schema))
    return found, {**_without_titles(rest.get("$defs", {})), **_as_sent(_without_titles(parts))}


def _as_sent(schema: Any) -> Any:
    """Amounts go out as numbers; texts as people read them."""
    if isinstance(schema, list):
        return [_as_sent(item) for item in schema]
    if not isinstance(schema, Mapping):
        return inspect.cleandoc(schema) if isinstance(schema, str) else schema
    if schema.get("format") == "decimal":
        return {"type": "number"}
    return {name: _as_sent(value) for name, value in schema.items()}


def _operation(operation: Operation, schemas: Mapping[Key, Schema]) -> Schema:
    parameters = [_CORRELATION, *(dict(parameter) for parameter in operation.parameters)]
    for location in ("path", "query"):
        if kind := operation.inputs.get(location):
            parameters += _parameters(location, kind)
    if operation.method != "GET" and operation.access is not Access.OPEN:
        parameters.append(_IDEMPOTENCY)
    if operation.is_conditional:
        parameters.append(_IF_NONE_MATCH)
    if operation.media_type == EVENT_STREAM:
        parameters.append(_LAST_EVENT_ID)
    described: Schema = {
        "operationId": _id(operation),
        "summary": operation.summary,
        **({"description": operation.description} if operation.description else {}),
        "tags": [operation.tag],
        "parameters": parameters,
        "responses": _responses(operation, schemas.get((id(operation), _ANSWER))),
        "security": [] if operation.access is Access.OPEN else [{"key": []}, {"key": [], "person": []}],
    }
    if "body" in operation.inputs:
        schema = schemas[id(operation), "body"]
        described["requestBody"] = {
            "required": any(field.is_required() for field in operation.inputs["body"].model_fields.values()),
            "content": {"application/json": {"schema": schema}},
        }
    return described


def _parameters(location: str, kind: type[BaseModel]) -> list[Schema]:
    schema = _without_titles(TypeAdapter(kind).json_schema(ref_template=_REF))
    definitions = schema.get("$defs", {})
    found = []
    for name, described in schema["properties"].items():
        plain = _plain(described, definitions)
        text = plain.pop("description", None)
        parameter = {"name": name, "in": location, "required": name in schema.get("required", ()), "schema": plain}
        found.append({**parameter, "description": text} if text else parameter)
    return found


def _plain(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Without null, which a query can't say, and with what it refers to in its place."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf" and (name, value) != ("default", None)}
    plain = {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds} if kinds else rest
    if reference := plain.pop("$ref", None):
        meant = definitions[reference.rpartition("/")[2]]
        plain = {**{name: value for name, value in meant.items() if name != "description"}, **plain}
    return plain


def _responses(operation: Operation, answer: Schema | None) -> dict[str, Schema]:
    responses = {str(status): _success(operation, status, answer) for status in operation.statuses}
    if operation.is_conditional:
        responses["304"] = {"description": "As before", "headers": _headers("ETag")}
        responses["200"]["headers"] = _headers("ETag")
    for status, codes in sorted(_codes_by_status(operation).items()):
        responses.setdefault(
            str(status),
            {
                "description": f"{_NAME_OF_STATUS[status]}: {', '.join(sorted(codes))}",
                "headers": _headers("Retry-After") if status in (429, 503) else _headers(),
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        )
    return responses


def _success(operation: Operation, status: int, answer: Schema | None) -> Schema:
    described: Schema = {"description": "As asked", "headers": _headers()}
    if status == 204 or answer is None:
        return described
    if operation.media_type == EVENT_STREAM:
        described["content"] = {EVENT_STREAM: {"schema": _event(answer)}}
        return described
    data = {"type": "array", "items": answer} if operation.is_list else answer
    properties: Schema = {"success": {"const": True}, "data": data}
    if operation.is_list:
        properties["meta"] = {"$ref": "#/components/schemas/Meta"}
    envelope = {"type": "object", "properties": properties, "required": list(properties)}
    described["content"] = {"application/json": {"schema": envelope}}
    if 201 in operation.statuses:
        described["headers"] = _headers("Location")
    return described


def _event(data: Schema) -> Schema:
    """One event of a stream, which is what the schema of such a media type is about, as those who check it read it."""
    content = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    event_id = {"type": "string", "pattern": "^[0-9]+$", "description": "for Last-Event-ID, to go on from here"}
    return {"type": "object", "properties": {"id": event_id, "data": content}, "required": ["id", "data"]}


def _codes_by_status(operation: Operation) -> dict[int, set[str]]:
    codes = {*_COMMON, *operation.codes}
    if operation.access is not Access.OPEN:
        codes |= {*_COMMON_GUARDED}
    if operation.method != "GET":
        codes |= {*_COMMON_CHANGING}
    found: dict[int, set[str]] = {}
    for code in codes:
        found.setdefault(STATUS[code], set()).add(code)
    return found


def _headers(*more: str) -> Schema:
    names = ("X-Request-ID", "X-Correlation-ID", *more)
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _id(operation: Operation) -> str:
    inside = operation.path.removeprefix("/api/v1")
    words = re.findall(r"[a-z0-9]+", inside)
    return "_".join([operation.method.lower(), *(["root"] if inside == operation.path else []), *words])


def _without_titles(schema: Any) -> Any:
    """pydantic's titles only repeat the names; a field may itself be called title."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        name: {key: _without_titles(item) for key, item in value.items()}
        if name in ("properties", "$defs")
        else _without_titles(value)
        for name, value in schema.items()
        if not (name == "title" and isinstance(value, str))
    }


_CORRELATION = {
    "name": "X-Correlation-ID",
    "in": "header",
    "required": False,
    "description": "travels through all services; one is made if there is none of 1 to 64 printable ASCII characters",
    "schema": {"type": "string"},
}
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "the same key and request get the same answer, and have one effect, however often they come",
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH_MAX, "pattern": "^[!-~]+$"},
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "the ETag of an earlier answer: if it is still true, it is not sent again",
    "schema": {"type": "string"},
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "the id of the last event that the client has: what came after it is sent, 204 once nothing can",
    "schema": {"type": "string", "pattern": "^(0|[1-9][0-9]{0,17})$"},
}
_HEADERS = {
    "ETag": {"schema": {"type": "string"}, "description": "of what this answer says"},
    "X-Request-ID": {"schema": {"type": "string"}},
    "X-Correlation-ID": {"schema": {"type": "string"}},
    "Location": {"schema": {"type": "string"}, "description": "of what was made"},
    "Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}, "description": "seconds"},
}
_META = {
    "type": "object",
    "properties": {name: {"type": "integer", "minimum": 0} for name in ("page", "limit", "total", "total_page")},
    "required": ["page", "limit", "total", "total_page"],
    "description": "total and total_page stop where a list gets very long (orders: 100,000, unless configured)",
}
_ERROR = {
    "type": "object",
    "properties": {
        "success": {"const": False},
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object"}},
                "request_id": {"type": "string"},
            },
            "required": ["code", "message", "details", "request_id"],
        },
    },
    "required": ["success", "error"],
}
