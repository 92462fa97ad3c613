"""Both services as real processes with the demo's stock, what they cost, and what they say of an attack."""

import asyncio
import os
import re
import select
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from development.free_ports import free_port
from development.service_process import ServiceProcess
from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from warehouse.demo import load_demo

ORDERS, ORDER = "/api/v1/orders", "/api/v1/orders/1"
WISH: dict[str, Any] = {
    "user_id": 7,
    "shipping_address": "Street 1",
    "payment_method": "card",
    "items": [{"product_id": 1, "warehouse_id": 1, "quantity": 1}],
}
KEYS: Mapping[str, Any] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "other": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
}
"""Private keys of those who issue tokens, by their kids; made anew for each run."""
ANSWER_SECONDS_MAX = 30
SAY_SECONDS = 0.15
"""How long an answer is waited for that may never come."""
NOT_LIMITED = {
    f"ORDERS_{name}": "1000000"
    for name in ("OPEN_REQUESTS_PER_SECOND_MAX", "REQUESTS_PER_SECOND_MAX", "REQUESTS_PER_SECOND_PER_PERSON_MAX")
} | {f"ORDERS_{name}": "1" for name in ("KEY_SHARE_MAX", "PERSON_SHARE_MAX", "ADDRESS_SHARE_MAX")}
"""All attacks here come from one address with one key; how they are kept apart from others is tested elsewhere."""


@dataclass(frozen=True)
class Attacked:
    """Where they listen, and their processes."""

    gateway: ServiceProcess
    warehouse: ServiceProcess
    port: int
    target: str
    metrics_port: int
    """The warehouse's."""

    @property
    def base_url(self) -> str:
        """Of the HTTP API."""
        return f"http://127.0.0.1:{self.port}/api/v1"

    def logs(self) -> str:
        """All that both have logged."""
        return "".join(one.log_path.read_text(errors="replace") for one in (self.gateway, self.warehouse))

    def send(self, *parts: bytes, half_close: bool = False) -> bytes:
        """Send bytes on a new connection, each part by itself, and give all that comes back until it is closed.

        Args:
            half_close: let the other side know that no more will come, so that it does not wait for it.
        """
        return sent(self.port, *parts, half_close=half_close)


@contextmanager
def attacked(
    processes: Processes,
    warehouse_url: str,
    orders_url: str,
    settings: Mapping[str, str] | None = None,
    *,
    warehouse_settings: Mapping[str, str] | None = None,
    warehouse_key: str = "",
) -> Iterator[Attacked]:
    """Both, running; stopped at the end.

    Args:
        settings: of the order gateway.
        warehouse_settings: of the warehouse; without any, it has no keys.
        warehouse_key: of an admin, for the demo and the order gateway.
    """
    metrics_port = free_port()
    of_warehouse = {"WAREHOUSE_METRICS_LISTEN": f"127.0.0.1:{metrics_port}", **(warehouse_settings or {})}
    warehouse, target = processes.warehouse(warehouse_url, settings=of_warehouse)
    asyncio.run(load_demo(target, warehouse_key))
    shown = {"ORDERS_WAREHOUSE_API_KEY": warehouse_key} if warehouse_key else {}
    gateway, base_url = processes.order_gateway(
        orders_url, target, settings={**NOT_LIMITED, **shown, **(settings or {})}
    )
    port = int(base_url.rpartition(":")[2].partition("/")[0])
    try:
        yield Attacked(gateway, warehouse, port, target, metrics_port)
    finally:
        processes.stop_all()


def sent(port: int, *parts: bytes, half_close: bool = False) -> bytes:
    """See Attacked.send; to any port of this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS_MAX) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in parts:
                connection.sendall(part)
            if half_close:
                # The gateway takes it for a hanging up, so it may say first what it has to say.
                select.select([connection], [], [], SAY_SECONDS)
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)
        except (ConnectionResetError, BrokenPipeError):
            return b""


def read_all(connection: socket.socket | ssl.SSLSocket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def http(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str | bytes] | None = None, *, last: bool = True
) -> bytes:
    """A request as bytes, with a valid key unless `headers` say otherwise.

    Args:
        last: the connection is to be closed after it.
    """
    known: dict[str, str | bytes] = {"Host": "shop", "X-API-Key": DEVELOPMENT_API_KEY}
    if body:
        known |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    if last:
        known["Connection"] = "close"
    known |= headers or {}
    lines = [f"{method} {path} HTTP/1.1".encode()]
    for name, value in known.items():
        lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def statuses(answered: bytes) -> list[int]:
    """The statuses of the answers in what a server sent, interim ones as well."""
    return [int(status) for status in re.findall(rb"(?:^|[\n}])HTTP/1\.[01] ([0-9]{3}) ", answered)]


def cpu_seconds(pid: int | None) -> float:
    """Processor time that a process has had, all threads, to the nanosecond where the kernel tells it."""
    assert pid is not None, "it does not run any more"
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except FileNotFoundError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total / 1e9


def resident_mib(pid: int | None) -> float:
    """Memory that a process has now."""
    assert pid is not None, "it does not run any more"
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def public_keys() -> dict[str, Any]:
    """The JWK set of KEYS."""
    kinds: Mapping[str, tuple[Any, str]] = {
        "rsa": (RSAAlgorithm, "RS256"),
        "other": (RSAAlgorithm, "RS256"),
        "ec": (ECAlgorithm, "ES256"),
    }
    return {
        "keys": [
            kind.to_jwk(KEYS[name].public_key(), as_dict=True) | {"kid": name, "alg": algorithm}
            for name, (kind, algorithm) in kinds.items()
        ]
    }
