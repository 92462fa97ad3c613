"""What messages are made of, and what becomes of them; nothing here waits for anything."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from stockwarden_client.errors import WarehouseError, WarehouseUnavailable, from_status
from stockwarden_client.v1 import warehouse_pb2
from stockwarden_client.v1.warehouse_pb2 import Line, Reservation

REQUESTS_MAX = 1000
"""What the contract allows in one BatchGetRequests."""

BATCH_MAX = 1000
"""Requests in one BatchReserve, says the contract."""
ANSWER_ENVELOPE_BYTES = 8192
RESULT_BYTES = 1032
LINE_BYTES = 16
"""What the answer to a BatchReserve takes at most beyond its requests: in all, for each request, for each line."""
LINE_BYTES_SENT_MIN = 2
"""What a line takes at least in a request: its tag, and its length."""


def line(product_id: int, warehouse_id: int, quantity: int) -> Line:
    """`quantity` units of a product in a warehouse."""
    return Line(product_id=product_id, warehouse_id=warehouse_id, quantity=quantity)


def duration(seconds: float) -> Duration:
    """It as a message."""
    message = Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def timestamp(instant: datetime) -> Timestamp:
    """It as a message."""
    message = Timestamp()
    message.FromDatetime(instant)
    return message


def given(**fields: str | None) -> dict[str, Any]:
    """Only the fields that are set: in a oneof even an empty one counts."""
    return {name: value for name, value in fields.items() if value is not None}


def results_of(
    request: warehouse_pb2.BatchReserveRequest, response: warehouse_pb2.BatchReserveResponse
) -> list[Reservation | WarehouseError]:
    """Per request the hold or why there is none. Raises: WarehouseUnavailable, if it does not tell of each."""
    if len(response.results) != len(request.requests):
        told, asked = len(response.results), len(request.requests)
        raise WarehouseUnavailable(f"the answer tells of {told} requests, {asked} were sent", reason="UNAVAILABLE")
    return [
        result.reservation if result.HasField("reservation") else from_status(result.error)
        for result in response.results
    ]


def fits(whole: warehouse_pb2.BatchReserveRequest, message_size_max_bytes: int) -> bool:
    """Whether it is certain, without a look at each request, that one call may carry all and its answer fits."""
    size, count = whole.ByteSize(), len(whole.requests)
    answer = size + RESULT_BYTES * count + LINE_BYTES * (size // LINE_BYTES_SENT_MIN)
    return count <= BATCH_MAX and answer <= message_size_max_bytes - ANSWER_ENVELOPE_BYTES


def parts(
    requests: Iterable[warehouse_pb2.ReserveRequest], message_size_max_bytes: int
) -> Iterator[list[warehouse_pb2.ReserveRequest]]:
    """The requests cut into calls whose answers fit into a message."""
    part: list[warehouse_pb2.ReserveRequest] = []
    room = message_size_max_bytes - ANSWER_ENVELOPE_BYTES
    left = room
    for request in requests:
        needed = request.ByteSize() + RESULT_BYTES + LINE_BYTES * len(request.lines)
        if part and (needed > left or len(part) == BATCH_MAX):
            yield part
            part, left = [], room
        part.append(request)
        left -= needed
    yield part
