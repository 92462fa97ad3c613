"""Tokens that nobody should ever make: 401 for each, also where several keys could have signed them."""

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest

from order_gateway.access import DEVELOPMENT_JWT_SECRET
from tests.kits.attacked import KEYS, ORDERS, Attacked, http, statuses

pytestmark = [pytest.mark.sql, pytest.mark.e2e, pytest.mark.usefixtures("unsurprised")]


def _claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "7", "iss": "order-service", "aud": "order-service", "exp": time.time() + 60, **changes}


def _forged(header: object, claims: object = None) -> str:
    parts = (
        json.dumps(part).encode() if not isinstance(part, bytes) else part for part in (header, claims or _claims())
    )
    return ".".join([*(urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "AAAA"])


def _pem_free(key: str, algorithm: str, kid: object) -> str:
    return jwt.encode(_claims(), KEYS[key], algorithm, headers={} if kid is None else {"kid": kid})


TOKENS: Mapping[str, Callable[[], str]] = {
    "no kid": lambda: _pem_free("rsa", "RS256", None),
    "a kid of nobody": lambda: _pem_free("rsa", "RS256", "nobody"),
    "an empty kid": lambda: _pem_free("rsa", "RS256", ""),
    "another's kid": lambda: _pem_free("rsa", "RS256", "other"),
    "the kid of another kind of key": lambda: _pem_free("rsa", "RS256", "ec"),
    "another kind of key": lambda: _pem_free("ec", "ES256", "rsa"),
    "a kid that is no text": lambda: _forged({"alg": "RS256", "kid": 7}),
    "a kid that is a list": lambda: _forged({"alg": "RS256", "kid": ["rsa"]}),
    "a kid that is an object": lambda: _forged({"alg": "RS256", "kid": {}}),
    "no algorithm": lambda: _forged({"kid": "rsa"}),
    "none": lambda: _forged({"alg": "none", "kid": "rsa"}),
    "an algorithm that is a list": lambda: _forged({"alg": ["RS256"], "kid": "rsa"}),
    "a header that is no object": lambda: _forged([1]),
    "a header that is nested": lambda: _forged(b"[" * 3000),
    "claims that are nested": lambda: _forged({"alg": "HS256"}, b"[" * 3000),
    "a header with a huge number": lambda: _forged(b'{"alg":"HS256","n":' + b"9" * 5000 + b"}"),
    "a header with a surrogate": lambda: _forged(b'{"alg":"HS256","kid":"\\ud800"}'),
    "a header that is no UTF-8": lambda: _forged(b"\xff\xfe"),
    "not encoded": lambda: "a.b.c",
    "too many parts": lambda: "a.b.c.d.e",
    "a critical header": lambda: _forged({"alg": "HS256", "crit": 7}),
    "a detached body": lambda: _forged({"alg": "HS256", "b64": False}),
}
SIGNED_CLAIMS: Mapping[str, dict[str, Any]] = {
    "an end that is infinite": {"exp": float("inf")},
    "an end that is no number": {"exp": float("nan")},
    "an end that is a text": {"exp": "tomorrow"},
    "an end that is a list": {"exp": []},
    "a beginning beyond all bounds": {"nbf": float("inf")},
    "an issue beyond all bounds": {"iat": float("inf")},
    "a subject that is a number": {"sub": 7},
    "a subject that is an object": {"sub": {}},
    "a subject with a surrogate": {"sub": "\ud800"},
    "a subject with a NUL": {"sub": "a\0"},
    "an audience that is a number": {"aud": 7},
    "an audience of numbers": {"aud": [7]},
    "an issuer that is a list": {"iss": []},
    "an id that is a number": {"jti": 7},
}


@pytest.mark.parametrize("name", TOKENS)
def test_no_token_is_too_odd_to_be_refused(shop: Attacked, name: str) -> None:
    assert _with_token(shop, TOKENS[name]()) == 401


@pytest.mark.parametrize("name", SIGNED_CLAIMS)
def test_no_claim_is_too_odd_to_be_refused(shop: Attacked, name: str) -> None:
    payload = json.dumps(_claims(**SIGNED_CLAIMS[name])).encode()
    token = jwt.api_jws.encode(payload, DEVELOPMENT_JWT_SECRET, "HS256")
    assert _with_token(shop, token) == 401


def test_good_tokens_of_each_key_are_taken(shop: Attacked) -> None:
    for name, algorithm in (("rsa", "RS256"), ("other", "RS256"), ("ec", "ES256")):
        assert _with_token(shop, _pem_free(name, algorithm, name)) == 200


def _with_token(shop: Attacked, token: str) -> int:
    [status] = statuses(shop.send(http("GET", ORDERS + "?user_id=7", b"", {"Authorization": f"Bearer {token}"})))
    return status
