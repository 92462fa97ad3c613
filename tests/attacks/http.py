"""What attackers of the order gateway send, and who they say they are."""

import json
import time
from collections.abc import Mapping

import jwt

from order_gateway.access import DEVELOPMENT_JWT_SECRET
from tests.kits.processes import DEVELOPMENT_API_KEY
from tests.kits.secrets_used import hashed, key_of

KEY = {"X-API-Key": DEVELOPMENT_API_KEY}
PREFIX = "/api/v1"
LOGIN_HALF = (
    b"POST /api/v1/auth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
)
HEADER_HALF = b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: "
GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def as_person(user_id: str) -> dict[str, str]:
    """The headers of one person, behind the key of all."""
    claims = {"sub": user_id, "iss": "order-service", "aud": "order-service", "exp": time.time() + 600}
    return {**KEY, "Authorization": f"Bearer {jwt.encode(claims, DEVELOPMENT_JWT_SECRET, 'HS256')}"}


def half_order(headers: Mapping[str, str]) -> bytes:
    """An order whose body does not come to its end."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {PREFIX}/orders HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: 90\r\n\r\n{{".encode()


def key_only(name: str) -> str:
    """A warehouse's keys: one, which may do everything."""
    return json.dumps([{"name": name, "role": "admin", "sha256": hashed(key_of(name))}])
