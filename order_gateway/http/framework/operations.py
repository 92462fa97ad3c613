"""An operation of the API: one entry that routes it, guards it, validates what comes in, and documents it all."""

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from aiohttp import web
from pydantic import BaseModel

from order_gateway.http.guards.auth import CALLER, Access
from order_gateway.http.wire.validating import read_body, read_path, read_query

TAG_BYTES = 12
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Operation:
    """Where it is, who may, and what it answers.

    The types of the handler's arguments `path`, `query` and `body` say what it takes; they validate it too.

    Attributes:
        handler: takes the request, and of `path`, `query` and `body` those that it names.
        answer: the type of `data` in the answer.
        statuses: of good answers, the usual one first.
        codes: of the refusals that are its own; the common ones are added.
        is_list: the answer is a page of a list, with `meta`.
        media_type: of the answer, where it is not JSON in the envelope.
        parameters: further ones, as the document describes them; the handler reads them itself.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[web.StreamResponse]]
    answer: Any = None
    tag: str = ""
    statuses: tuple[int, ...] = (200,)
    codes: tuple[str, ...] = ()
    access: Access = Access.CALLER
    is_list: bool = False
    media_type: str = "application/json"
    parameters: tuple[Mapping[str, Any], ...] = ()
    inputs: Mapping[str, type[BaseModel]] = field(init=False)

    def __post_init__(self) -> None:
        hints = get_type_hints(self.handler)
        names = [name for name in inspect.signature(self.handler).parameters if name in ("path", "query", "body")]
        object.__setattr__(self, "inputs", {name: hints[name] for name in names})

    @property
    def summary(self) -> str:
        """The first line of what its handler says about itself."""
        return (inspect.getdoc(self.handler) or self.handler.__name__).partition("\n")[0].rstrip(".")

    @property
    def description(self) -> str:
        """What its handler says about itself besides, without what it raises."""
        text = (inspect.getdoc(self.handler) or "").partition("\n")[2].strip()
        return "" if text.startswith(("Raises:", "Args:", "Returns:")) else text

    @property
    def is_conditional(self) -> bool:
        """Whether a client that has the answer already may say so, and gets only that it is still true."""
        return self.method == "GET" and self.access is not Access.OPEN and self.media_type == "application/json"

    def route(self) -> web.RouteDef:
        """For aiohttp."""
        return web.route(self.method, self.path, self.bound())

    def bound(self) -> Handler:
        """The handler with all that stands before it."""
        path, query, body = (self.inputs.get(name) for name in ("path", "query", "body"))
        is_guarded = self.access is not Access.OPEN

        async def handle(request: web.Request) -> web.StreamResponse:
            if is_guarded:
                request[CALLER].must_have(self.access)
            given: dict[str, BaseModel] = {}
            if path is not None:
                given["path"] = read_path(request, path)
            if query is not None:
                given["query"] = read_query(request, query)
            if body is not None:
                given["body"] = await read_body(request, body)
            response = await self.handler(request, **given)
            return conditional(request, response) if self.is_conditional else response

        return handle


def conditional(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Tag an answer with what it says; leave out the body if the client has it already (RFC 9110, 13.1.2)."""
    if response.status != 200 or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    tag = hashlib.blake2b(response.body, digest_size=TAG_BYTES).hexdigest()
    if any(known.value in (tag, "*") for known in request.if_none_match or ()):
        response = web.Response(status=304)
    response.etag = tag
    response.headers["Cache-Control"] = "private, no-cache"
    return response
