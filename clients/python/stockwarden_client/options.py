"""What a call takes besides its own arguments, and the idempotency key it goes out under."""

import uuid
from typing import Any, TypedDict

from stockwarden_client.connection import ClientSettings

Metadata = list[tuple[str, str]]


class CallContext(TypedDict, total=False):
    """What every call takes besides its own arguments."""

    deadline_seconds: float
    """For the call with all its repetitions, instead of the setting."""
    correlation_id: str
    """Travels into the warehouse's rows, events and logs."""
    traceparent: str
    """W3C trace context, passed on as it is."""
    actor: str
    """On whose behalf, in ASCII; the ledger names them after the key."""


class CallOptions(CallContext, total=False):
    """What a call takes that looks, or has the same effect however often it is made."""

    request_id: str
    """The idempotency key; a random one unless given."""


class EffectOptions(CallContext):
    """What a call takes that would have its effect twice if it were made twice."""

    request_id: str
    """The idempotency key, to be kept with what the call is for: the same key again, by whatever process, has no second
    effect and gets the same answer. A random one must be chosen on purpose, by `new_request_id`."""


def new_request_id() -> str:
    """A fresh idempotency key. Keep it if the call must survive this process."""
    return str(uuid.uuid4())


def metadata_of(settings: ClientSettings, call: CallContext) -> Metadata:
    """What goes along with a call."""
    known = (
        ("x-api-key", settings.api_key),
        ("x-correlation-id", call.get("correlation_id", "")),
        ("traceparent", call.get("traceparent", "")),
        ("x-actor", call.get("actor", "")),
    )
    return [(name, value) for name, value in known if value]


def request_id_of(call: CallOptions) -> str:
    """The caller's request id, or a fresh one."""
    return call.get("request_id") or new_request_id()


def kept_request_id(call: EffectOptions) -> str:
    """The caller's request id. Raises: TypeError, if there is none."""
    if request_id := call.get("request_id"):
        return request_id
    raise TypeError("this call needs a request_id, to be kept with what it is for: sent again it has no second effect")


def with_request_id(request: Any, call: CallOptions) -> Any:
    """`request` if it has a request id, otherwise a copy that has one."""
    if request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = request_id_of(call)
    return copy
