"""The warehouse's door, attacked over real sockets: keys that are several, doubled or none, and what its log keeps."""

import hashlib
import json
import socket
import time
from collections.abc import Sequence

import grpc
import pytest

from generated.warehouse.v1 import warehouse_pb2 as pb
from generated.warehouse.v1 import warehouse_pb2_grpc
from service_kit.service_process import NO_PROXY
from service_kit.starting import Exit
from tests.processes import Processes, free_port
from tests.secrets_used import secret

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
READER, ADMIN = secret("reader-key-" + "r" * 20), secret("admin-key-" + "a" * 20)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def key(name: str, role: str, value: str) -> dict[str, str]:
    return {"name": name, "role": role, "sha256": hashlib.sha256(value.encode()).hexdigest()}


def with_keys(*keys: dict[str, str]) -> dict[str, str]:
    return {"WAREHOUSE_API_KEYS": json.dumps(keys), "WAREHOUSE_LOG_LEVEL": "DEBUG"}


def status(target: str, metadata: Sequence[tuple[str, str]]) -> grpc.StatusCode:
    """How a call ends that every key may make."""
    with grpc.insecure_channel(target, NO_PROXY) as channel:
        stub = warehouse_pb2_grpc.WarehouseServiceStub(channel)
        try:
            stub.GetCaller(pb.GetCallerRequest(), metadata=tuple(metadata), timeout=10)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def test_one_key_or_none(processes: Processes, warehouse_database_url: str) -> None:
    process, target = processes.warehouse(
        warehouse_database_url, settings=with_keys(key("reader", "reader", READER), key("admin", "admin", ADMIN))
    )
    reader, admin = ("x-api-key", READER), ("x-api-key", ADMIN)
    assert status(target, [reader]) is grpc.StatusCode.OK
    for shown in ([reader, reader], [reader, admin], [admin, reader], [("x-api-key", "wrong"), admin],
                  [admin, ("x-api-key", "")], [("x-api-key", f"{ADMIN}, {READER}")], [("x-api-key", "")],
                  []):  # fmt: skip
        assert status(target, shown) is grpc.StatusCode.UNAUTHENTICATED, shown
    port = int(target.rpartition(":")[2])
    for garbage in (f"GET / HTTP/1.1\r\nX-API-Key: {ADMIN}\r\n\r\n".encode(), PREFACE + ADMIN.encode() * 100):
        with socket.create_connection(("127.0.0.1", port), 5) as peer:
            peer.sendall(garbage)
            while peer.recv(65536):
                pass
    process.stop()
    text = process.log_path.read_text()
    assert ADMIN not in text
    assert READER not in text


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([key("a", "reader", ADMIN), key("b", "admin", ADMIN)], "the same sha256 twice"),
        ([key("a", "admin", "")], "everybody knows the key of 'a'"),
        ([key("a", "admin", "order-service-api-key")], "everybody knows the key of 'a'"),
        ([key("a", "admin", "order-service-browser-key")], "everybody knows the key of 'a'"),
    ],
)
def test_keys_that_are_none_do_not_start(
    processes: Processes, warehouse_database_url: str, keys: list[dict[str, str]], why: str
) -> None:
    settings = {"WAREHOUSE_DATABASE_URL": warehouse_database_url, "WAREHOUSE_LISTEN": f"127.0.0.1:{free_port()}"}
    process = processes.launch("warehouse", {**settings, **with_keys(*keys)})
    deadline = time.monotonic() + 30
    while process.exit_status is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.exit_status == Exit.SETTINGS
    assert why in process.log_path.read_text()
