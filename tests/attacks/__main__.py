"""`make attacks [ARGS=WORD]`: what a well-behaved caller notices of each attack, and what it costs the attacked.

For each attack: the 99th percentile of the well-behaved caller's latency without and beside it, and the processor time
of the attacked process. It takes about two minutes, against 127.0.0.1 only; with a word, only
the attacks whose names hold it are made.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc

from development.local_server import LocalServer
from development.service_process import ServiceProcess
from service_kit.database import migrating
from stockwarden_client.v1 import warehouse_pb2 as pb
from stockwarden_client.v1 import warehouse_pb2_grpc
from tests.attacks.attackers import WAREHOUSE_ATTACKS, gateway_attacks
from tests.attacks.http import PREFIX, as_person, key_only
from tests.kits.processes import ROOT, Processes
from tests.kits.secrets_used import key_of
from warehouse.demo import load_demo

SECONDS = 4.0
"""How long each measurement takes."""
PAUSE_SECONDS = 0.01
"""Between two requests of the well-behaved caller."""
RATIO_MAX = 5.0
NOTHING = "(none)"
"""The attack that is none; what the others are compared with."""
PATIENCE_SECONDS = 5.0
ORDER = {
    "user_id": "7",
    "shipping_address": "Street 1",
    "payment_method": "card",
    "items": [{"product_id": 1, "warehouse_id": 1, "quantity": 1}],
}
Ask = Callable[[], Awaitable[None]]


@dataclass
class Result:
    """What one attack did."""

    name: str
    p99_ms: float
    errors: list[str]
    processor_seconds: float


async def measured(ask: Ask) -> tuple[float, list[str]]:
    """The 99th percentile of the latency of `ask` in milliseconds, and how it failed."""
    taken, errors, until = [], [], time.monotonic() + SECONDS
    while time.monotonic() < until:
        started = time.perf_counter()
        try:
            await ask()
        except grpc.aio.AioRpcError as error:
            errors.append(f"{error.code().name} {error.details()}")
        except (aiohttp.ClientError, TimeoutError) as error:
            errors.append(repr(error))
        taken.append(time.perf_counter() - started)
        await asyncio.sleep(PAUSE_SECONDS)
    return sorted(taken)[int(len(taken) * 0.99)] * 1000, errors


async def beside(names: Iterable[str], port: int, ask: Ask, process: ServiceProcess, *more: str) -> list[Result]:
    """Measure beside each of these attacks."""
    results, word = [], "".join(sys.argv[1:2])
    for name in names:
        if word not in name and name != NOTHING:
            continue
        async with attacking(name, str(port), *more):
            before = processor_seconds(process)
            p99, errors = await measured(ask)
            results.append(Result(name, p99, errors, processor_seconds(process) - before))
        await asyncio.sleep(0.5)
    return results


@asynccontextmanager
async def attacking(*arguments: str) -> AsyncIterator[None]:
    """An attacker, for the time of the `with`."""
    attacker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.attacks.attackers", *arguments, stdin=asyncio.subprocess.PIPE, cwd=ROOT
    )
    # What it needs to begin.
    await asyncio.sleep(1.5)
    yield
    await attacker.communicate(b"")


def processor_seconds(process: ServiceProcess) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def on_gateway(base_url: str, process: ServiceProcess) -> list[Result]:
    """The attacks on the order gateway, beside customer 8."""
    async with (
        aiohttp.ClientSession(headers=as_person("7")) as session,
        session.post(f"{base_url}/orders", json=ORDER) as response,
    ):
        order = str((await response.json())["data"]["id"])
    port = int(base_url.removesuffix(PREFIX).rpartition(":")[2])
    async with aiohttp.ClientSession(
        headers=as_person("8"), timeout=aiohttp.ClientTimeout(PATIENCE_SECONDS)
    ) as session:

        async def ask() -> None:
            async with session.get(f"{base_url}/orders") as response:
                response.raise_for_status()
                await response.read()

        return await beside(gateway_attacks(order), port, ask, process, order)


async def on_warehouse(target: str, process: ServiceProcess) -> list[Result]:
    """The attacks on the warehouse, beside a shop."""
    question = pb.CheckStockRequest(items=[pb.Line(product_id=1, warehouse_id=1, quantity=1)])
    async with grpc.aio.insecure_channel(target) as channel:
        stub: warehouse_pb2_grpc.WarehouseServiceAsyncStub = warehouse_pb2_grpc.WarehouseServiceStub(channel)

        async def ask() -> None:
            await stub.CheckStock(question, metadata=(("x-api-key", key_of("shop")),), timeout=PATIENCE_SECONDS)

        return await beside(WAREHOUSE_ATTACKS, int(target.rpartition(":")[2]), ask, process)


def show(title: str, results: list[Result]) -> bool:
    """Print the results; whether all of them are good."""
    none, *others = results
    print(f"\n{title}: p99 without an attack {none.p99_ms:.1f} ms, processor {none.processor_seconds:.2f} s")
    is_good = True
    for result in others:
        ratio = result.p99_ms / none.p99_ms
        is_bad = ratio > RATIO_MAX or bool(result.errors)
        is_good = is_good and not is_bad
        print(
            f"  {result.name:<46} p99 {result.p99_ms:7.1f} ms {ratio:5.1f} x  errors {len(result.errors):3d}"
            f"  processor {result.processor_seconds:5.2f} s{'  MISSED' if is_bad else ''}"
        )
        for error in dict.fromkeys(result.errors):
            print(f"      {error}")
    return is_good


def main() -> int:
    """Measure everything; 1 if the well-behaved notice too much."""
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder, LocalServer(Path(folder), "mariadb") as server:
        for service in ("warehouse", "orders"):
            migrating.upgrade(f"{server.url}/{service}", service)
        processes = Processes(Path(folder))
        try:
            keys = {"WAREHOUSE_API_KEYS": key_only("shop")}
            warehouse, target = processes.warehouse(f"{server.url}/warehouse", settings=keys)
            asyncio.run(load_demo(target, key_of("shop")))
            of_gateway = {"ORDERS_WAREHOUSE_API_KEY": key_of("shop")}
            gateway, base_url = processes.order_gateway(f"{server.url}/orders", target, settings=of_gateway)
            are_good = [
                show("Warehouse", asyncio.run(on_warehouse(target, warehouse))),
                show("Order gateway", asyncio.run(on_gateway(base_url, gateway))),
            ]
        finally:
            processes.stop_all()
    return 0 if all(are_good) else 1


if __name__ == "__main__":
    sys.exit(main())
