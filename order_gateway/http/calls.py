"""Calls to the warehouse on behalf of a request."""

import hashlib
import uuid

from aiohttp import web

from order_gateway.gateway.port import Call
from order_gateway.http.guards.auth import CALLER
from order_gateway.http.guards.idempotency import BEGUN, KEY
from order_gateway.http.wire.errors import CORRELATION_ID


def reading(request: web.Request) -> Call:
    """What goes along with a call that changes nothing."""
    return Call("", request[CORRELATION_ID], actor=request[CALLER].actor)


def changing(request: web.Request) -> Call:
    """What goes along with a call that changes something: repetitions of the request have the same effect, once."""
    key, begun = request[KEY], request[BEGUN]
    request_id = uuid.uuid4().hex
    if key is not None and begun is not None:
        request_id = hashlib.sha256("\0".join((*key, begun.since.isoformat())).encode()).hexdigest()[:40]
    return Call(f"http-{request_id}", request[CORRELATION_ID], actor=request[CALLER].actor)
