"""Requests to the order service: from its own document, with values right and wrong, and mutated bytes of those."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote

import jwt

from order_gateway.access import DEVELOPMENT_JWT_SECRET
from tests.fuzzing.odd import NUMBERS, TEXTS, TOKENS, mutated
from tests.kits.processes import DEVELOPMENT_API_KEY

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")
DEPTH_MAX = 6
_MARK = "\u0001{}\u0001"
HEADERS = (
    "If-None-Match",
    "Last-Event-ID",
    "Origin",
    "Cookie",
    "X-Forwarded-For",
    "traceparent",
    "X-Request-ID",
    "Accept",
    "Range",
    "Content-Type",
    "Idempotency-Key",
    "Authorization",
    "X-API-Key",
    "Expect",
    "webhook-id",
    "webhook-signature",
    "Host",
)
TEXT_BY_NAME = {"currency": "USD", "payment_method": "card", "status": "paid", "mode": "grpc"}
SMALL_IDS = (1, 1, 1, 2, 3)


@dataclass(frozen=True)
class Sent:
    """A request.

    Attributes:
        is_whole: it is HTTP, so that there will be one answer, after which the connection goes on.
    """

    data: bytes
    is_whole: bool


@dataclass(frozen=True)
class _Operation:
    method: str
    path: str
    parameters: Sequence[Mapping[str, Any]]
    body: Mapping[str, Any] | None


class HttpRequests:
    """Makes requests without end, the same ones for the same seed and document."""

    def __init__(self, document: Mapping[str, Any], seed: int) -> None:
        self._random = Random(seed)
        self._schemas = document["components"]["schemas"]
        self._operations = [
            _Operation(
                method.upper(),
                path,
                operation.get("parameters", ()),
                operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema"),
            )
            for path, item in document["paths"].items()
            for method, operation in item.items()
        ]
        self._prefix = document["servers"][0]["url"].rstrip("/")
        self._tokens = [_token(user, role) for user, role in (("7", "customer"), ("8", "customer"), ("boss", "admin"))]

    def next(self) -> Sent:
        """One more."""
        made = self._structured()
        if self._random.random() < 0.15:
            return Sent(mutated(self._random, made), is_whole=False)
        return Sent(made, is_whole=True)

    def _structured(self) -> bytes:
        random = self._random
        operation = random.choice(self._operations)
        path, query, headers = operation.path, [], self._headers()
        for parameter in operation.parameters:
            value = self._text_of(parameter.get("schema", {}), parameter["name"])
            place = parameter["in"]
            if place == "path":
                path = path.replace("{" + parameter["name"] + "}", quote(value[:2000], safe=""))
            elif random.random() < 0.5 or parameter.get("required"):
                if place == "query":
                    query.append(f"{quote(parameter['name'])}={quote(value[:2000], safe='')}")
                else:
                    headers[parameter["name"]] = value
        if random.random() < 0.03:
            query.append(quote(random.choice(TEXTS)[:500]))
        body = b"" if operation.body is None else self._json(operation.body)
        method = operation.method if random.random() > 0.02 else random.choice(METHODS)
        target = self._prefix + path + ("?" + "&".join(query) if query else "")
        return _bytes_of(method, target, headers, body)

    def _headers(self) -> dict[str, str]:
        random = self._random
        headers = {"Host": "shop"}
        if random.random() < 0.95:
            headers["X-API-Key"] = DEVELOPMENT_API_KEY
        if random.random() < 0.3:
            headers["Authorization"] = f"Bearer {random.choice(self._tokens)}"
        if random.random() < 0.2:
            headers["Idempotency-Key"] = f"key-{random.randrange(500)}"
        if random.random() < 0.1:
            headers[random.choice(HEADERS)] = random.choice(TEXTS)[:3000]
        return headers

    def _json(self, schema: Mapping[str, Any]) -> bytes:
        text = json.dumps(self._value(schema, "", 0), ensure_ascii=self._random.random() < 0.5)
        if "\\u0001" in text or "\u0001" in text:
            for number, token in enumerate(TOKENS):
                for mark in (_MARK.format(number), _MARK.format(number).replace("\u0001", "\\u0001")):
                    text = text.replace(f'"{mark}"', token)
        encoded = text.encode(errors="surrogatepass")
        return mutated(self._random, encoded) if self._random.random() < 0.1 else encoded

    def _text_of(self, schema: Mapping[str, Any], name: str) -> str:
        value = self._value(schema, name, 0)
        return value if isinstance(value, str) else json.dumps(value)

    def _value(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        random = self._random
        if random.random() < 0.05 or depth > DEPTH_MAX:
            return self._odd()
        if reference := schema.get("$ref"):
            return self._value(self._schemas[reference.rpartition("/")[2]], name, depth)
        if choices := schema.get("anyOf") or (schema.get("oneOf") if "properties" not in schema else None):
            return self._value({**schema, "anyOf": None, "oneOf": None, **random.choice(choices)}, name, depth + 1)
        if "const" in schema or "enum" in schema:
            return random.choice(schema.get("enum") or [schema.get("const")])
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                count = random.choice((1, 1, 1, 2, 3, 0, 101) if depth < 3 else (1,))
                return [self._value(schema.get("items", {}), name, depth + 1) for _ in range(count)]
            case "integer" | "number":
                return random.choice(SMALL_IDS) if random.random() < 0.9 else random.choice(NUMBERS)
            case "boolean":
                return random.random() < 0.5
            case "null":
                return None
        return self._text(schema, name)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        random = self._random
        required = schema.get("required", ())
        made = {
            field: self._value(inner, field, depth + 1)
            for field, inner in schema.get("properties", {}).items()
            if random.random() < (0.97 if field in required else 0.4)
        }
        if random.random() < 0.03:
            made[random.choice(TEXTS)] = self._odd()
        if random.random() < 0.01:
            made.update({f"u{number}": number for number in range(random.choice((10, 199, 5000)))})
        return made

    def _text(self, schema: Mapping[str, Any], name: str) -> str:
        random = self._random
        if random.random() < 0.1:
            return random.choice(TEXTS)
        if name in TEXT_BY_NAME:
            return TEXT_BY_NAME[name]
        if "date-time" in str(schema.get("format")) or "T" in str(schema.get("pattern", ""))[:40]:
            return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + random.randrange(-1000, 3600)))
        if examples := schema.get("examples"):
            return str(random.choice(examples))
        return str(random.choice(SMALL_IDS)) if random.random() < 0.5 else "a text"

    def _odd(self) -> Any:
        random = self._random
        kind = random.randrange(5)
        if kind == 0:
            return random.choice(NUMBERS)
        if kind == 1:
            return random.choice(TEXTS)
        if kind == 2:
            return _MARK.format(random.randrange(len(TOKENS)))
        return random.choice((None, True, [], {}, [[]], {"a": {}}, ["x"] * 101, [{}] * 3))


def _bytes_of(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    known = dict(headers)
    if body:
        known = {"Content-Type": "application/json", **known, "Content-Length": str(len(body))}
    # What is text in a header must not become a header of its own.
    lines = [f"{name}: {''.join(one for one in value if one.isprintable())}" for name, value in known.items()]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode(errors="replace") + body


def _token(user_id: str, role: str) -> str:
    claims = {"sub": user_id, "role": role, "iss": "order-service", "aud": "order-service", "exp": time.time() + 86_400}
    return jwt.encode(claims, DEVELOPMENT_JWT_SECRET, "HS256")
