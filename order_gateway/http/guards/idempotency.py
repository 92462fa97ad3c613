"""The header Idempotency-Key: the same key and request give the same answer, however often they come."""

import hashlib
import json
import re
from collections.abc import Awaitable

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from order_gateway.http.guards.auth import CALLER, Caller
from order_gateway.http.wire.errors import (
    CLIENT_GONE,
    ApiError,
    answered,
    request_in_progress,
)
from order_gateway.http.wire.validating import invalid
from order_gateway.storage.idempotency import Begun, IdempotencyStore, InProgress, Reused, StoredResponse
from service_kit.database.database import Fault

log = structlog.get_logger(__name__)
KEY_LENGTH_MAX = 128
OWNER_LENGTH_MAX = 64
_KEY = re.compile(rf"[!-~]{{1,{KEY_LENGTH_MAX}}}")
METHODS = frozenset({"POST", "PATCH", "PUT", "DELETE"})

KEY: web.RequestKey[tuple[str, str] | None] = web.RequestKey("idempotency_key", tuple)
"""Whose key, and the key; None without one."""
BEGUN: web.RequestKey[Begun | None] = web.RequestKey("begun", Begun)
"""What is known of earlier requests with this key; None without one."""


def idempotency_middleware(answers: IdempotencyStore) -> Middleware:
    """Answer repetitions from what was stored; store the answers of first requests."""

    @web.middleware
    def check(request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        key = request.headers.get("Idempotency-Key")
        if key is None or request.method not in METHODS or CALLER not in request:
            request[KEY] = request[BEGUN] = None
            return handler(request)
        return once(request, handler, key)

    async def once(request: web.Request, handler: Handler, key: str) -> web.StreamResponse:
        if not _KEY.fullmatch(key):
            raise invalid("Idempotency-Key", f"must be 1 to {KEY_LENGTH_MAX} printable ASCII characters without spaces")
        owner = owner_of(request[CALLER])
        found = await answers.begin(owner, key, await _hash(request))
        match found:
            case StoredResponse():
                return _again(found)
            case Reused():
                raise ApiError("REQUEST_ID_REUSED", "this Idempotency-Key came with another request before")
            case InProgress():
                raise request_in_progress()
            case Begun():
                request[KEY], request[BEGUN] = (owner, key), found
                return await _first(request, handler, answers, (owner, key, found.claim))

    return check


async def _first(
    request: web.Request, handler: Handler, answers: IdempotencyStore, claimed: tuple[str, str, str]
) -> web.StreamResponse:
    async with answers.held(*claimed):
        # Here already, so that the answer to keep is the one that the client sees.
        response = await answered(request, handler)
    try:
        if _is_lasting(response) and isinstance(response, web.Response) and isinstance(response.body, bytes):
            answer = StoredResponse(response.status, response.headers.get("Location"), response.body.decode())
            await answers.finish(*claimed, answer)
        else:
            await answers.release(*claimed)
    except Fault as fault:
        # The work is done and durable; a repetition finds it by the order's state once the claim has run out.
        log.warning("answer_not_stored", error=str(fault))
    return response


def _is_lasting(response: web.StreamResponse) -> bool:
    """Faults, and refusals that ask to be repeated, are not the answer to keep; one that nobody got is none."""
    return response.status < CLIENT_GONE and "Retry-After" not in response.headers


def _again(answer: StoredResponse) -> web.Response:
    headers = {"Idempotent-Replayed": "true"}
    if answer.location:
        headers["Location"] = answer.location
    body = answer.body.encode()
    return web.Response(
        body=body, status=answer.status, headers=headers, content_type="application/json", charset="utf-8"
    )


def owner_of(caller: Caller) -> str:
    """Whose key it is: persons don't see each other's answers, nor does who has lost a role what it had shown.

    No two callers share one. A key's name has neither a slash nor a space in it, but a person's subject may have
    both: only one without a bracket can't be mistaken for a subject with a role behind it. All others are a digest.
    """
    key, person = caller.key, caller.person
    if person is None:
        roles = sorted(key.roles)
        name = key.name if roles == ["service"] else f"{key.name} ({', '.join(roles)})"
    elif person.role == "customer" and "(" not in person.user_id:
        name = f"{key.name}/{person.user_id}"
    else:
        # Begins as no name does, so that the digest of a name that is too long is another one.
        name = "\0" + json.dumps([key.name, person.user_id, person.role])
        return hashlib.sha256(name.encode()).hexdigest()
    return name if len(name) < OWNER_LENGTH_MAX else hashlib.sha256(name.encode()).hexdigest()


async def _hash(request: web.Request) -> str:
    digest = hashlib.sha256(f"{request.method} {request.path_qs}\n".encode())
    digest.update(await request.read())
    return digest.hexdigest()
