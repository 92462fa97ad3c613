"""What of the library's own lines comes into the log."""

import logging

import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from warehouse.rpc import steady_server

LOGGER = logging.getLogger("grpc._cython.cygrpc")


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (cygrpc.ExecuteBatchError('Failed "execute_batch": (<SendStatusFromServerOperation>)'), False),
        (cygrpc.ExecuteBatchError("Failed grpc_call_start_batch: 10 with grpc_call_error value: 'metadata'"), True),
        (ValueError("of our own"), True),
    ],
)
def test_an_answer_that_nobody_waits_for_is_no_error(
    caplog: pytest.LogCaptureFixture, error: Exception, is_told: bool
) -> None:
    assert steady_server
    try:
        raise error
    except type(error):
        LOGGER.exception("%s raised in core by servicer method [%s]", type(error).__name__, "/a/B")
    assert bool(caplog.records) is is_told
