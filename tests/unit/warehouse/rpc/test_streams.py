"""Streams: what decides how long one lasts and what it is called that ended it, without a server."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service_kit.attempt_limit import AttemptLimit
from tests.kits.secrets_used import key_of
from tests.kits.streaming import KEYS, ChangingKeys
from warehouse.auth import Keyring, PermissionDenied, Role, Unauthenticated
from warehouse.metrics import CallMetrics
from warehouse.rpc.edge import Caller, Edge
from warehouse.rpc.entrance import Entrance
from warehouse.rpc.status import ServerStopping, StreamOver, trailing_error
from warehouse.rpc.steady_server import NotSent
from warehouse.rpc.streams import StreamCall, Streams, begun_at_once, code_of_cancelled, how_long
from warehouse.settings import StreamSettings
from warehouse.stock.refusals import Reason, Refusal

SECONDS = st.floats(0, 1e6)


@given(SECONDS, SECONDS)
def test_a_stream_lasts_until_the_earlier_of_both_ends(remaining: float, most: float) -> None:
    seconds, why = how_long(remaining, most)
    assert seconds == min(remaining, most)
    assert isinstance(why, TimeoutError) is (remaining <= most)


def test_without_a_deadline_it_lasts_as_long_as_it_may() -> None:
    seconds, why = how_long(None, 5)
    assert seconds == 5
    assert isinstance(why, StreamOver)


@pytest.mark.parametrize(("remaining", "code"), [(None, "CANCELLED"), (3.0, "CANCELLED"), (0.0, "DEADLINE_EXCEEDED")])
def test_what_grpc_has_cancelled_is_a_hang_up_or_a_deadline(remaining: float | None, code: str) -> None:
    assert code_of_cancelled(remaining) == code


@pytest.mark.parametrize("why", [ServerStopping(), StreamOver()])
def test_whoever_may_go_on_is_told_so(why: Exception) -> None:
    code, text, _ = trailing_error(why)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "go on in a new" in text


async def test_the_first_reason_to_end_counts() -> None:
    nothing: Any = None
    call = StreamCall("Tick", Role.READER, nothing, nothing)
    first = StreamOver()
    call.end(first)
    call.end(ServerStopping())
    assert call.over.result() is first


class _HungUp:
    """The context of a call whose caller hangs up while a message is on its way.

    Attributes:
        ended: the codes that it was ended with.
    """

    def __init__(self) -> None:
        self.ended: list[grpc.StatusCode] = []

    async def abort(self, code: grpc.StatusCode, *_details: object) -> None:
        self.ended.append(code)
        raise grpc.aio.AbortError

    def invocation_metadata(self) -> Any:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> None:
        return None

    async def send_initial_metadata(self, _metadata: object) -> None:
        """Does nothing."""

    async def write(self, _message: object) -> None:
        raise NotSent('Failed "execute_batch"')


async def questions() -> AsyncIterator[StringValue]:
    """Of one call."""
    yield StringValue(value="3")


class _Spans:
    """Tracing that somebody sees."""

    exports = True

    def __init__(self) -> None:
        self.said: list[object] = []

    @contextmanager
    def span(self, name: str, *_facts: object) -> Iterator["_Spans"]:
        """Notes its begin and its end."""
        self.said.append(name)
        yield self
        self.said.append("end")

    def set_attribute(self, _name: str, value: object) -> None:
        self.said.append(value)

    def set_failed(self, reason: str) -> None:
        self.said.append(reason)


async def test_a_stream_has_a_span() -> None:
    async def answers(_message: Any, _caller: Caller) -> AsyncGenerator[Refusal, None]:
        yield Refusal(Reason.PRODUCT_NOT_FOUND, "there is no such product")

    spans: Any = _Spans()
    entrance = Entrance(Keyring([]), AttemptLimit(60))
    streams = Streams(Edge(entrance, 30, None, spans, calls_max=1), entrance, StreamSettings())
    context: Any = _HungUp()
    with pytest.raises(grpc.aio.AbortError):
        await streams.serve(StreamCall("Tick", Role.READER, questions(), context), answers)
    assert spans.said == ["warehouse.v1/Tick", grpc.StatusCode.NOT_FOUND.value[0], "end"]
    assert context.ended == [grpc.StatusCode.NOT_FOUND]


async def test_a_hang_up_while_a_message_is_on_its_way_is_no_fault() -> None:
    async def answers(_message: Any, _caller: Caller) -> AsyncGenerator[StringValue, None]:
        while True:
            yield StringValue()

    entrance, calls = Entrance(Keyring([]), AttemptLimit(60)), CallMetrics()
    streams = Streams(Edge(entrance, 30, calls, calls_max=1), entrance, StreamSettings())
    context: Any = _HungUp()
    with pytest.raises(NotSent):
        await streams.serve(StreamCall("Tick", Role.READER, questions(), context), answers)
    assert calls.ended.values == {("Tick", "CANCELLED"): 1}
    assert streams.taken == 0


def test_only_methods_answered_by_a_stream_begin_without_their_request() -> None:
    async def method(_request: Any, _context: Any) -> None:
        """Does nothing."""

    one: Any = grpc.unary_unary_rpc_method_handler(method)
    many: Any = grpc.unary_stream_rpc_method_handler(method)
    made = begun_at_once({"One": one, "Many": many})
    assert made["One"] is one
    assert (made["Many"].request_streaming, made["Many"].stream_stream) == (True, method)


def test_a_key_is_looked_up_anew_and_then_remembered_as_it_is() -> None:
    keys = ChangingKeys(KEYS)
    entrance = Entrance(keys, AttemptLimit(60))
    shown = (("x-api-key", key_of("till")),)
    entrance.recheck(key_of("till"), Role.ORDER)
    keys.replace(KEYS[1].model_copy(update={"role": Role.READER}))
    with pytest.raises(PermissionDenied):
        entrance.recheck(key_of("till"), Role.ORDER)
    entrance.recheck(key_of("till"), Role.READER)
    keys.replace(KEYS[0])
    assert entrance.name_of(shown) == "till"
    with pytest.raises(Unauthenticated):
        entrance.recheck(key_of("till"), Role.READER)
    with pytest.raises(Unauthenticated):
        entrance.name_of(shown)


@pytest.mark.parametrize(
    "wrong",
    [
        {"streams_max": 0},
        {"key_share_max": 1.5},
        {"seconds_max": 0},
        {"question_seconds_max": 0},
        {"key_check_seconds": 0},
        {"other": 1},
    ],
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StreamSettings(**wrong)
