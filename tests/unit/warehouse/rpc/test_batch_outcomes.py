"""A BatchReserve waits for what became of each of its requests, and for none of them once its caller has gone."""

import asyncio
import gc
from typing import Any

import pytest

from warehouse.rpc.reservations import Begun, _outcomes
from warehouse.stock.commands import Answer
from warehouse.stock.refusals import Refusal, request_id_reused

NOT_BEGUN = ValueError("malformed")
FAILED = TimeoutError("too late")
REFUSED = request_id_reused("r")
Future = asyncio.Future[Answer | Refusal]


def futures(count: int) -> list[Future]:
    """Requests under way."""
    loop = asyncio.get_running_loop()
    return [loop.create_future() for _ in range(count)]


async def test_every_outcome_stands_in_the_place_of_its_request() -> None:
    answered, refused, failed = futures(3)
    waiting = asyncio.ensure_future(_outcomes([failed, NOT_BEGUN, answered, refused]))
    refused.set_result(REFUSED)
    answered.set_result(Answer())
    await asyncio.sleep(0)
    assert not waiting.done()
    failed.set_exception(FAILED)
    assert await waiting == [FAILED, NOT_BEGUN, Answer(), REFUSED]


async def test_what_nobody_waits_for_any_more_is_dropped_without_a_word() -> None:
    loop, said = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: said.append(context))
    first, failed, answered, last = begun = futures(4)
    waiting = asyncio.ensure_future(_outcomes([*begun, NOT_BEGUN]))
    await asyncio.sleep(0)
    failed.set_exception(FAILED)
    answered.set_result(Answer())
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [future.cancelled() for future in (first, failed, answered, last)] == [True, False, False, True]
    # The task keeps its frames, and they the futures.
    del first, failed, answered, last, begun, waiting
    gc.collect()
    assert said == []


async def test_a_batch_without_anything_under_way_is_not_waited_for() -> None:
    begun: list[Begun] = [NOT_BEGUN, FAILED]
    assert await _outcomes(begun) == [NOT_BEGUN, FAILED]
