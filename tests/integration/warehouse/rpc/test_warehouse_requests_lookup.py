"""What became of calls, by their request ids: one's own and nobody else's, as of one moment, in answers that fit."""

from collections.abc import AsyncIterator

import pytest

from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.warehouse_kit import Calls, serving

pytestmark = pytest.mark.sql


@pytest.fixture
async def calls(warehouse_database_url: str) -> AsyncIterator[Calls]:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 1000, (2, 1): 1000})
        yield calls


async def look_up(calls: Calls, *request_ids: str) -> list[pb.RequestOutcome]:
    answer = await calls.holds.BatchGetRequests(pb.BatchGetRequestsRequest(request_ids=request_ids))
    return list(answer.outcomes)
