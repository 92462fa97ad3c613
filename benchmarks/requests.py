"""The requests that the load generator sends, put together from parts serialized beforehand.

The generator shares its two cores with the server and the database: what it spends on messages, it takes from what
it measures. So a request is a template cut at its ids, joined again with fresh ones.
"""

import functools
import itertools
import random
import uuid
from collections.abc import Callable, Iterator

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from benchmarks.rounds import WorkName
from stockwarden_client.v1 import warehouse_pb2 as pb

HOT_PRODUCT_ID = 1
HOLDS_PRODUCT_ID = 2
"""The one product whose holds Commit and Cancel are measured on."""
SOLD_OUT_PRODUCT_ID = 3
SPREAD_FIRST_PRODUCT_ID = 11
SPREAD_PRODUCTS = 10_000
WAREHOUSE_ID = 1
LINES_OF_SPREAD_RESERVE = 3
REQUESTS_PER_BATCH = 100
TTL_SECONDS = 24 * 3600

_ID_MARK = "#" * 36
_RESERVATION_MARK = "@" * 36


class Work(msgspec.Struct, frozen=True):
    """One kind of call: where it goes, what is sent, and how a good answer looks."""

    method: str
    requests: Callable[[list[str]], Iterator[bytes]]
    """Makes the stream of requests, given the prepared reservation ids (which it uses up)."""
    status: str
    """The status that calls are expected to end with."""
    units: Callable[[bytes], int] | None = None
    """How many units of work an answer stands for; None: one."""
    check: Callable[[bytes], bool] | None = None
    """Whether an answer is what the work is about; asked of one call before each round."""


def fresh_ids() -> Iterator[bytes]:
    """Ids that no other run and no other stream uses, all of the same length."""
    stream = uuid.uuid4().hex[:20]
    return (b"%s-%015d" % (stream.encode(), number) for number in itertools.count())


def reserve_request(product_ids: list[int], request_id: str = _ID_MARK) -> pb.ReserveRequest:
    """A Reserve of one unit of each product, for an order of the same name as the request."""
    lines = [pb.Line(product_id=product_id, warehouse_id=WAREHOUSE_ID, quantity=1) for product_id in product_ids]
    return pb.ReserveRequest(request_id=request_id, order_id=request_id, lines=lines, ttl=Duration(seconds=TTL_SECONDS))


def cut(message: Message) -> list[bytes]:
    """The serialized message without the ids in it; joined by an id of the same length it is whole again."""
    return message.SerializeToString().split(_ID_MARK.encode())


def _reserve_one(product_id: int) -> Callable[[list[str]], Iterator[bytes]]:
    def requests(_holds: list[str]) -> Iterator[bytes]:
        parts = cut(reserve_request([product_id]))
        return (request_id.join(parts) for request_id in fresh_ids())

    return requests


def _spread_product_ids(count: int, shuffler: random.Random) -> list[int]:
    last = SPREAD_FIRST_PRODUCT_ID + SPREAD_PRODUCTS
    return shuffler.sample(range(SPREAD_FIRST_PRODUCT_ID, last), count)


@functools.cache
def _spread_templates() -> list[list[bytes]]:
    shuffler = random.Random(2)
    picks = (_spread_product_ids(LINES_OF_SPREAD_RESERVE, shuffler) for _ in range(SPREAD_PRODUCTS))
    return [cut(reserve_request(product_ids)) for product_ids in picks]


def _reserve_spread(_holds: list[str]) -> Iterator[bytes]:
    templates = itertools.cycle(_spread_templates())
    return (request_id.join(parts) for request_id, parts in zip(fresh_ids(), templates, strict=False))


@functools.cache
def _questions() -> list[bytes]:
    product_ids = _spread_product_ids(SPREAD_PRODUCTS, random.Random(3))
    items = (pb.Line(product_id=product_id, warehouse_id=WAREHOUSE_ID, quantity=1) for product_id in product_ids)
    return [pb.CheckStockRequest(items=[item]).SerializeToString() for item in items]


def _check_stock(_holds: list[str]) -> Iterator[bytes]:
    return itertools.cycle(_questions())


def batch_request(product_id: int, ids: Iterator[bytes]) -> bytes:
    """A BatchReserve of REQUESTS_PER_BATCH requests for one unit of the product."""
    requests = [reserve_request([product_id], next(ids).decode()) for _ in range(REQUESTS_PER_BATCH)]
    return pb.BatchReserveRequest(requests=requests).SerializeToString()


def _batch_reserve(_holds: list[str]) -> Iterator[bytes]:
    # Each request in the batch has an id of its own, so that the cut template has as many gaps as ids are needed.
    parts = cut(pb.BatchReserveRequest(requests=[reserve_request([HOT_PRODUCT_ID])] * REQUESTS_PER_BATCH))
    ids = fresh_ids()
    while True:
        pairs = itertools.chain.from_iterable((one, one) for one in itertools.islice(ids, REQUESTS_PER_BATCH))
        yield b"".join(itertools.chain.from_iterable(zip(parts, pairs, strict=False))) + parts[-1]


def _by_reservation(template: pb.CommitRequest | pb.CancelRequest) -> Callable[[list[str]], Iterator[bytes]]:
    head, between = cut(template)
    between, tail = between.split(_RESERVATION_MARK.encode())

    def requests(holds: list[str]) -> Iterator[bytes]:
        for request_id in fresh_ids():
            if not holds:
                return
            yield b"".join((head, request_id, between, holds.pop().encode(), tail))

    return requests


def _has_hold(answer: bytes) -> bool:
    return pb.ReserveResponse.FromString(answer).reservation.state == pb.RESERVATION_STATE_RESERVED


def _holds_in_batch(answer: bytes) -> int:
    results = pb.BatchReserveResponse.FromString(answer).results
    return sum(result.HasField("reservation") for result in results)


_SERVICE = "/warehouse.v1.WarehouseService/"
WORKS: dict[WorkName, Work] = {
    "reserve-hot": Work(f"{_SERVICE}Reserve", _reserve_one(HOT_PRODUCT_ID), "OK", check=_has_hold),
    "reserve-spread": Work(
        f"{_SERVICE}Reserve",
        _reserve_spread,
        "OK",
        check=lambda answer: len(pb.ReserveResponse.FromString(answer).reservation.lines) == LINES_OF_SPREAD_RESERVE,
    ),
    "reserve-sold-out": Work(f"{_SERVICE}Reserve", _reserve_one(SOLD_OUT_PRODUCT_ID), "FAILED_PRECONDITION"),
    "batch-reserve": Work(
        f"{_SERVICE}BatchReserve",
        _batch_reserve,
        "OK",
        units=_holds_in_batch,
        check=lambda answer: _holds_in_batch(answer) == REQUESTS_PER_BATCH,
    ),
    "commit": Work(
        f"{_SERVICE}Commit",
        _by_reservation(pb.CommitRequest(request_id=_ID_MARK, reservation_id=_RESERVATION_MARK)),
        "OK",
        check=lambda answer: (
            [one.state for one in pb.CommitResponse.FromString(answer).reservations] == [pb.RESERVATION_STATE_COMMITTED]
        ),
    ),
    "cancel": Work(
        f"{_SERVICE}Cancel",
        _by_reservation(
            pb.CancelRequest(request_id=_ID_MARK, reservation_id=_RESERVATION_MARK, reason="changed my mind")
        ),
        "OK",
        check=lambda answer: (
            [one.state for one in pb.CancelResponse.FromString(answer).reservations] == [pb.RESERVATION_STATE_CANCELLED]
        ),
    ),
    "check-stock": Work(
        f"{_SERVICE}CheckStock",
        _check_stock,
        "OK",
        check=lambda answer: pb.CheckStockResponse.FromString(answer).sufficient,
    ),
}
