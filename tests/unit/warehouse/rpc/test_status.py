"""The table of refusals and faults is complete, and tells nothing that is not for callers."""

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, RetryInfo
from google.rpc.status_pb2 import Status

from service_kit.batcher import BatcherClosed, BatcherFull
from service_kit.database.database import DatabaseAway, LockRetriesSpent
from warehouse.auth import PermissionDenied, Role, Unauthenticated
from warehouse.rpc.status import (
    REFUSAL_CODES,
    TEXT_LENGTH_MAX,
    TRAILING_BYTES_MAX,
    TooManyCalls,
    status_of_error,
    status_of_refusal,
    trailing,
    trailing_error,
    trailing_refusal,
)
from warehouse.stock.refusals import Reason, Refusal, Shortage
from warehouse.validation import InvalidRequest


def detail(status: Status, kind: type) -> object:
    """The detail of a kind; fails if there is none."""
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    raise AssertionError(f"no {kind.__name__} in {status}")


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_status(reason: Reason) -> None:
    status = status_of_refusal(Refusal(reason, "why", (("which", "17"),)))
    info = detail(status, ErrorInfo)
    assert isinstance(info, ErrorInfo)
    assert status.code == REFUSAL_CODES[reason]
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "warehouse.v1", {"which": "17"})


def test_a_shortage_has_a_violation_per_line() -> None:
    refusal = Refusal(Reason.INSUFFICIENT_STOCK, "no", (), (Shortage(1, 2, 5, 3), Shortage(4, 2, 1, 0)))
    status = status_of_refusal(refusal)
    failure, info = detail(status, PreconditionFailure), detail(status, ErrorInfo)
    assert isinstance(failure, PreconditionFailure)
    assert isinstance(info, ErrorInfo)
    assert [(item.subject, item.description) for item in failure.violations] == [
        ("products/1/warehouses/2", "requested 5, available 3"),
        ("products/4/warehouses/2", "requested 1, available 0"),
    ]
    assert info.metadata["shortages"].startswith('[{"product_id":1,"warehouse_id":2,"requested":5,"available":3}')


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (Unauthenticated("who?"), grpc.StatusCode.UNAUTHENTICATED, False),
        (PermissionDenied("shop", Role.ORDER, Role.ADMIN), grpc.StatusCode.PERMISSION_DENIED, False),
        (TooManyCalls(), grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        (BatcherFull(), grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        (BatcherClosed(), grpc.StatusCode.UNAVAILABLE, True),
        (LockRetriesSpent("SELECT secret"), grpc.StatusCode.ABORTED, True),
        (DatabaseAway("root@10.0.0.1"), grpc.StatusCode.UNAVAILABLE, True),
        (TimeoutError(), grpc.StatusCode.DEADLINE_EXCEEDED, False),
        (RuntimeError("SELECT secret"), grpc.StatusCode.INTERNAL, False),
    ],
)
def test_every_fault_has_a_status(error: Exception, code: grpc.StatusCode, retry: bool) -> None:
    status = status_of_error(error)
    assert trailing(status)[0] is code
    assert any(packed.Is(RetryInfo.DESCRIPTOR) for packed in status.details) is retry
    assert "secret" not in status.message
    assert "root" not in status.message


def test_a_malformed_request_names_each_field() -> None:
    status = status_of_error(InvalidRequest([("lines[0].quantity", "is 0"), ("order_id", "is required")]))
    bad = detail(status, BadRequest)
    assert isinstance(bad, BadRequest)
    assert [violation.field for violation in bad.field_violations] == ["lines[0].quantity", "order_id"]
    assert status.message == "lines[0].quantity: is 0; order_id: is required"


def test_what_ends_a_call_fits_into_a_header() -> None:
    lines = tuple(Shortage(2**63 - number, 2**63 - number, 10**8, 10**12) for number in range(1, 101))
    code, message, metadata = trailing_refusal(Refusal(Reason.INSUFFICIENT_STOCK, "no" * 1000, (), lines))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert len(message) == TEXT_LENGTH_MAX
    [(_, packed)] = metadata
    assert len(packed) <= TRAILING_BYTES_MAX
    info = detail(Status.FromString(packed), ErrorInfo)
    failure = detail(Status.FromString(packed), PreconditionFailure)
    assert isinstance(info, ErrorInfo)
    assert isinstance(failure, PreconditionFailure)
    assert len(failure.violations) > 0
    assert int(info.metadata["left_out"]) + len(failure.violations) == 100


def test_fields_that_are_not_named_are_counted() -> None:
    bad = InvalidRequest([(f"lines[{number}].warehouse_id", "is -1, must be > 0" * 10) for number in range(300)])
    _, _, [(_, packed)] = trailing_error(bad)
    assert len(packed) <= TRAILING_BYTES_MAX
    status = Status.FromString(packed)
    invalid, info = detail(status, BadRequest), detail(status, ErrorInfo)
    assert isinstance(invalid, BadRequest)
    assert isinstance(info, ErrorInfo)
    assert len(invalid.field_violations) + int(info.metadata["left_out"]) == 300
