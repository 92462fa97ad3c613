"""Reserve calls that share a BatchReserve, against a server on a real socket whose answers are wrong or stuck."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

from order_gateway.gateway.grpc.adapter import GrpcGateway
from order_gateway.gateway.port import Call, GatewayFault, Hold, StockLine
from service_kit.batcher import BatcherSettings
from stockwarden_client import ClientSettings, WarehouseClient, WarehouseUnavailable, line
from stockwarden_client.v1 import warehouse_pb2 as pb

STUCK = pb.BatchReserveResult(error=Status(code=code_pb2.ABORTED, message="locked"))


def held(request: pb.ReserveRequest) -> pb.Reservation:
    name, state = f"of-{request.order_id}", pb.RESERVATION_STATE_RESERVED
    return pb.Reservation(reservation_id=name, order_id=request.order_id, state=state)


class Warehouse:
    """Answers a BatchReserve with `results_less` results less; the orders in `stuck` are stuck there, and not alone."""

    def __init__(self, results_less: int = 0, stuck: frozenset[str] = frozenset()) -> None:
        self.results_less = results_less
        self.stuck = stuck
        self.calls: list[str] = []
        self.alone = asyncio.Event()

    async def batch(self, request: pb.BatchReserveRequest, _context: Any) -> pb.BatchReserveResponse:
        self.calls.append(f"batch of {len(request.requests)}")
        results = [
            STUCK if one.order_id in self.stuck else pb.BatchReserveResult(reservation=held(one))
            for one in request.requests
        ]
        return pb.BatchReserveResponse(results=results[: len(results) - self.results_less])

    async def reserve(self, request: pb.ReserveRequest, _context: Any) -> pb.ReserveResponse:
        self.calls.append(f"alone {request.order_id}")
        if request.order_id in self.stuck:
            await self.alone.wait()
        return pb.ReserveResponse(reservation=held(request))


@asynccontextmanager
async def connected(warehouse: Warehouse) -> AsyncIterator[WarehouseClient]:
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Reserve": grpc.unary_unary_rpc_method_handler(
            warehouse.reserve, pb.ReserveRequest.FromString, pb.ReserveResponse.SerializeToString
        ),
        "BatchReserve": grpc.unary_unary_rpc_method_handler(
            warehouse.batch, pb.BatchReserveRequest.FromString, pb.BatchReserveResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("warehouse.v1.WarehouseService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    settings = ClientSettings(target=f"127.0.0.1:{port}", deadline_seconds=5, attempt_timeout_seconds=5)
    async with WarehouseClient(settings) as client:
        yield client
    await server.stop(None)


def call(order_id: str) -> Call:
    return Call(request_id=f"request-{order_id}", correlation_id="", actor="", deadline_seconds=5)


@pytest.mark.parametrize("results_less", [1, 2])
async def test_an_answer_that_does_not_tell_of_each_request_is_no_answer(results_less: int) -> None:
    async with connected(Warehouse(results_less)) as client:
        requests = [pb.ReserveRequest(request_id=f"r{n}", order_id=f"o{n}", lines=[line(1, 1, 1)]) for n in range(2)]
        with pytest.raises(WarehouseUnavailable, match=f"tells of {2 - results_less} requests, 2 were sent"):
            await client.batch_reserve(requests)


async def test_all_who_shared_a_call_hear_that_the_outcome_is_not_known_and_the_next_call_works() -> None:
    warehouse = Warehouse(1)
    async with connected(warehouse) as client:
        gateway = GrpcGateway(client, BatcherSettings())
        lines = [StockLine(1, 1, 1)]
        results = await asyncio.gather(
            *(gateway.reserve(name, lines, 60, call(name)) for name in "abc"), return_exceptions=True
        )
        faults = [one for one in results if isinstance(one, GatewayFault)]
        assert [fault.code for fault in faults] == ["WAREHOUSE_UNAVAILABLE"] * 3
        warehouse.results_less = 0
        assert isinstance(await gateway.reserve("d", lines, 60, call("d")), Hold)
        await gateway.close()


async def test_a_stuck_hold_is_waited_for_alone() -> None:
    warehouse = Warehouse(stuck=frozenset("b"))
    async with connected(warehouse) as client:
        gateway = GrpcGateway(client, BatcherSettings())
        lines = [StockLine(1, 1, 1)]
        first, stuck, third = (asyncio.ensure_future(gateway.reserve(name, lines, 60, call(name))) for name in "abc")
        assert isinstance(await first, Hold)
        assert isinstance(await third, Hold)
        assert isinstance(await gateway.reserve("d", lines, 60, call("d")), Hold)
        assert not stuck.done()
        warehouse.alone.set()
        assert isinstance(await stuck, Hold)
        assert "batch of 3" in warehouse.calls
        assert warehouse.calls.count("alone b") == 1
        await gateway.close()
