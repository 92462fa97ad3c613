"""Every row of the table of refusals and faults becomes the exception it should."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

import stockwarden_client as client
from stockwarden_client.errors import REFUSAL_STATUSES, REFUSALS, RETRIED, STATUSES, from_rpc_error, from_status
from warehouse.rpc.status import trailing_refusal
from warehouse.stock.refusals import Reason, Refusal

CODES = {
    grpc.StatusCode.UNAUTHENTICATED: client.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: client.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: client.WarehouseOverloaded,
    grpc.StatusCode.ABORTED: client.WarehouseBusy,
    grpc.StatusCode.UNAVAILABLE: client.WarehouseUnavailable,
    grpc.StatusCode.CANCELLED: client.WarehouseUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: client.DeadlineExceeded,
    grpc.StatusCode.INVALID_ARGUMENT: client.InvalidRequest,
}


def rpc_error(code: grpc.StatusCode, *details: Message) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=code.value[0], message="no")
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, "no")


def test_the_client_knows_the_reasons_of_the_server_and_no_others() -> None:
    assert set(REFUSALS) == {reason.value for reason in Reason} - {"INVALID_ARGUMENT"}
    assert set(CODES) == set(STATUSES) | {grpc.StatusCode.INVALID_ARGUMENT}


def class_name(reason: str) -> str:
    return "InvalidRequest" if reason == "INVALID_ARGUMENT" else reason.title().replace("_", "")


@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_becomes_the_exception_of_its_name(reason: Reason) -> None:
    code, message, trailing = trailing_refusal(Refusal(reason, "no", (("order_id", "17"),)))
    error = from_rpc_error(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), message))
    assert type(error) is getattr(client, class_name(reason))
    assert isinstance(error, client.Refused) is (code is not grpc.StatusCode.INVALID_ARGUMENT)
    assert isinstance(error, client.NotFound) is (code is grpc.StatusCode.NOT_FOUND)
    assert (str(error), error.reason, error.metadata) == ("no", reason, {"order_id": "17"})


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_has_an_exception(code: grpc.StatusCode) -> None:
    error = from_rpc_error(rpc_error(code))
    assert type(error) is CODES.get(code, client.WarehouseBroken)
    assert error.reason == code.name
    if code not in REFUSAL_STATUSES:
        info = error_details_pb2.ErrorInfo(reason="SOME_FAULT", domain="warehouse.v1")
        assert not isinstance(from_rpc_error(rpc_error(code, info)), client.Refused)


def test_shortages() -> None:
    shortages = '[{"product_id":1,"warehouse_id":2,"requested":12,"available":10}]'
    info = error_details_pb2.ErrorInfo(
        reason="INSUFFICIENT_STOCK", domain="warehouse.v1", metadata={"shortages": shortages}
    )
    error = from_rpc_error(rpc_error(grpc.StatusCode.FAILED_PRECONDITION, info))
    assert isinstance(error, client.InsufficientStock)
    assert error.shortages == (client.Shortage(1, 2, 12, 10),)


def test_a_reason_from_the_future_is_still_a_refusal() -> None:
    info = error_details_pb2.ErrorInfo(reason="NEW_REASON", domain="warehouse.v1")
    assert type(from_rpc_error(rpc_error(grpc.StatusCode.FAILED_PRECONDITION, info))) is client.Refused


def test_field_violations_and_retry_info() -> None:
    invalid = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field="lines[0].quantity", description="too few")]
    )
    error = from_rpc_error(rpc_error(grpc.StatusCode.INVALID_ARGUMENT, invalid))
    assert isinstance(error, client.InvalidRequest)
    assert error.violations == {"lines[0].quantity": "too few"}
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=250_000_000))
    assert from_rpc_error(rpc_error(grpc.StatusCode.ABORTED, retry)).retry_after_seconds == 0.25


def test_status_of_a_batch_result() -> None:
    packed = Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="RESERVE_CANCELLED", domain="warehouse.v1"))
    error = from_status(status_pb2.Status(code=9, message="no", details=[packed]))
    assert isinstance(error, client.ReserveCancelled)
    assert isinstance(from_status(status_pb2.Status(code=14)), client.WarehouseUnavailable)


def test_garbage_in_the_details_is_survived() -> None:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    error = from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, "no"))
    assert isinstance(error, client.WarehouseUnavailable)


@pytest.mark.parametrize(
    "message",
    [
        "CLIENT: Received message larger than max (5242880 vs. 4194304)",
        "SERVER: Sent message larger than max (17 vs. 4)",
        "received metadata size exceeds hard limit (value length 17000 vs. 16384)",
    ],
)
def test_too_long_a_message_is_not_an_overloaded_warehouse(message: str) -> None:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    error = from_rpc_error(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), message))
    assert isinstance(error, client.MessageTooLarge)
    assert not isinstance(error, RETRIED)


def test_a_full_server_is_an_overloaded_one() -> None:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    by_grpc = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "Concurrent RPC limit exceeded!")
    info = error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="warehouse.v1")
    for error in (by_grpc, rpc_error(code, info)):
        assert isinstance(from_rpc_error(error), client.WarehouseOverloaded)


def test_lines_left_out_are_counted() -> None:
    metadata = {"shortages": "[]", "left_out": "80"}
    info = error_details_pb2.ErrorInfo(reason="INSUFFICIENT_STOCK", domain="warehouse.v1", metadata=metadata)
    error = from_rpc_error(rpc_error(grpc.StatusCode.FAILED_PRECONDITION, info))
    assert isinstance(error, client.InsufficientStock)
    assert error.left_out == 80
