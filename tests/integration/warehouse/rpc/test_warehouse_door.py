"""The warehouse's door, attacked over real sockets: keys that are several, doubled or none, and what its log keeps."""

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Sequence

import grpc
import pytest
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from development.free_ports import free_port
from development.service_process import NO_PROXY
from service_kit.starting import Exit
from stockwarden_client.v1 import warehouse_pb2 as pb
from stockwarden_client.v1 import warehouse_pb2_grpc
from tests.attacks.frames import HEADERS, call, frames, open_connection
from tests.attacks.sockets import connections, head_of, is_ended, status_of
from tests.kits.processes import Processes
from tests.kits.secrets_used import hashed, secret

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
READER, ADMIN = secret("reader-key-" + "r" * 20), secret("admin-key-" + "a" * 20)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def key(name: str, role: str, value: str) -> dict[str, str]:
    return {"name": name, "role": role, "sha256": hashed(value)}


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


class Shown:
    """Shows keys to a warehouse that believes in proxies on this machine, on one connection."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._holds = warehouse_pb2_grpc.WarehouseServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def key(self, value: str | None, address: str = "203.0.113.5") -> str:
        """How a call with it ends."""
        try:
            self._holds.GetCaller(pb.GetCallerRequest(), metadata=self._metadata(value, address), timeout=10)
        except grpc.RpcError as error:
            status = rpc_status.from_call(error)
            assert (status.code == code_pb2.RESOURCE_EXHAUSTED) == any(
                detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details
            )
            code: grpc.StatusCode = error.code()
            return code.name
        return "OK"

    def to_health(self, value: str, address: str) -> bool:
        """Whether the health service, which needs no key, answers who shows one."""
        asked = health_pb2.HealthCheckRequest()
        answer = self._health.Check(asked, metadata=self._metadata(value, address), timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    @staticmethod
    def _metadata(value: str | None, address: str) -> tuple[tuple[str, str], ...]:
        shown = () if value is None else (("x-api-key", value),)
        return (*shown, ("x-forwarded-for", f"198.51.100.9, {address}"))


def limited(processes: Processes, url: str, **settings: str) -> tuple[str, int]:
    """A warehouse where five keys a minute may be guessed: its target, and the port of its metrics."""
    port = free_port()
    given = {
        "WAREHOUSE_WRONG_KEYS_PER_MINUTE_MAX": "5",
        "WAREHOUSE_TRUSTED_PROXIES": '["127.0.0.0/8"]',
        "WAREHOUSE_METRICS_LISTEN": f"127.0.0.1:{port}",
        **settings,
    }
    keys = with_keys(key("reader", "reader", READER), key("admin", "admin", ADMIN))
    return processes.warehouse(url, settings={**keys, **given})[1], port


def test_who_guesses_keys_is_stopped_and_nobody_else(processes: Processes, warehouse_database_url: str) -> None:
    target, metrics_port = limited(processes, warehouse_database_url)
    with grpc.insecure_channel(target, NO_PROXY) as channel:
        show = Shown(channel)
        assert show.key(READER) == "OK"
        guesses: list[str | None] = [f"guess-{number}" for number in range(8)]
        guesses[2] = None
        assert [show.key(guess) for guess in guesses] == ["UNAUTHENTICATED"] * 5 + ["RESOURCE_EXHAUSTED"] * 3
        # Right, and not told so; the reader, who has been there before, goes on; so does everybody elsewhere.
        assert (show.key(ADMIN), show.key(READER)) == ("RESOURCE_EXHAUSTED", "OK")
        assert (show.key(ADMIN, "203.0.113.6"), show.key("guess", "203.0.113.6")) == ("OK", "UNAUTHENTICATED")
        # A guess is a guess wherever it is made; what needs no key is answered all the same.
        assert all(show.to_health(f"guess-{number}", "203.0.113.7") for number in range(8))
        assert show.key(ADMIN, "203.0.113.7") == "RESOURCE_EXHAUSTED"
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as answer:
        line = next(line for line in answer.read().decode().splitlines() if "wrong_keys_of_address" in line)
    assert line == 'warehouse_limited_total{bound="wrong_keys_of_address"} 8.0'


def test_a_right_key_is_refused_as_soon_as_a_wrong_one(processes: Processes, warehouse_database_url: str) -> None:
    """Also where the call's message never comes: whoever must wait for it would be known to be somebody."""
    target, _port = limited(processes, warehouse_database_url, WAREHOUSE_TRUSTED_PROXIES="[]")
    path = "/warehouse.v1.WarehouseService/GetCaller"
    with contextlib.closing(open_connection(int(target.rpartition(":")[2]))) as stranger:
        shown = [*(f"guess-{number}" for number in range(6)), ADMIN]
        for number, value in enumerate(shown):
            stranger.sendall(call(2 * number + 1, path, {"x-api-key": value}))
            # Each has its answer before the next one is sent.
            ended = {stream for kind, _flags, stream, _body in frames(stranger, 0.3) if kind == HEADERS}
            assert ended == {2 * number + 1}, value


def test_keys_in_clear_text_off_this_machine_are_warned_of(processes: Processes, warehouse_database_url: str) -> None:
    port = free_port()
    settings = with_keys(key("admin", "admin", ADMIN)) | {"WAREHOUSE_LISTEN": f"0.0.0.0:{port}"}
    process, _target = processes.warehouse(warehouse_database_url, port=port, settings=settings)
    [line] = [line for line in process.log_path.read_text().splitlines() if "settings_at_risk" in line]
    assert json.loads(line)["level"] == "warning"
    assert "WAREHOUSE_TLS_CERTIFICATE" in json.loads(line)["why"]


def test_the_port_of_metrics_is_not_filled_up_and_repeats_nothing(
    processes: Processes, warehouse_database_url: str
) -> None:
    _target, port = limited(processes, warehouse_database_url)
    with connections(port, 100, b"GET /metrics HTTP/1.1\r\nX-A: ") as opened:
        # The newest gets in, as the oldest have to go.
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert answer.status == 200
        assert sum(map(is_ended, opened)) > 40
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(f"GET /metrics HTTP/1.1\r\nHost: x\r\nX-API-Key {ADMIN}\r\n\r\n".encode())
        assert b" 400 " in peer.recv(65536)
    assert not any(ADMIN in process.log_path.read_text() for process in processes.started)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /metrics HTTP/1.1", 200),
        ("GET /other HTTP/1.1", 404),
        ("POST /metrics HTTP/1.1", 405),
        ("GET /metrics HTTP/1.1\r\nExpect: miracles", 417),
        ("GET /metrics HTTP/9", 400),
        ("nonsense", 400),
    ],
)
def test_every_answer_of_the_port_of_metrics_has_its_headers(
    processes: Processes, warehouse_database_url: str, request_line: str, status: int
) -> None:
    _target, port = limited(processes, warehouse_database_url)
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(f"{request_line}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = head_of(peer)
    assert status_of(head) == status
    lines = head.decode().split("\r\n\r\n")[0].split("\r\n")[1:]
    headers = [tuple(line.split(": ", 1)) for line in lines]
    assert [value for name, value in headers if name == "Server"] == ["warehouse"]
    assert {
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    } <= set(headers)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([key("a", "reader", ADMIN), key("b", "admin", ADMIN)], "the same sha256 twice"),
        ([key("shop/7", "order", ADMIN)], "WAREHOUSE_API_KEYS[0].name"),
        ([key("shop 7", "order", ADMIN)], "no space, no slash"),
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
