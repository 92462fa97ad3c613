"""How calls end, so that they are gone once they have.

Left to themselves, two things would keep a call until Python's garbage collector looks for it, with all that it holds.
"""

import asyncio
from collections.abc import AsyncIterable
from contextlib import aclosing
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
from grpc.aio import AbortError

from warehouse.rpc.status import Metadata

Context = grpc.aio.ServicerContext[Any, Any]
QuestionT = TypeVar("QuestionT")


async def end_call(context: Context, code: grpc.StatusCode, message: str, trailing: Metadata = ()) -> NoReturn:
    """End a call with a status that is not OK.

    gRPC keeps in the call what it raises for that; its traceback leads back to the call, and is dropped here.

    Raises: AbortError, always; it is gRPC's to catch.
    """
    try:
        await context.abort(code, message, trailing)
    except AbortError as ended:
        # Not by the context's own callbacks: they keep the context.
        if (task := asyncio.current_task()) is not None:
            task.add_done_callback(partial(_forget_the_way, ended))
        raise
    raise AssertionError("abort always raises")


def _forget_the_way(ended: BaseException, _task: object) -> None:
    ended.__traceback__ = ended.__context__ = ended.__cause__ = None


async def first_of(questions: AsyncIterable[QuestionT]) -> QuestionT | None:
    """The only question of a call; None: it did not come. Further ones are not read."""
    async with closed_at_end(questions) as asked:
        return await anext(asked, None)


def closed_at_end(questions: AsyncIterable[QuestionT]) -> "aclosing[Any]":
    """Reads questions, and is closed: what gRPC reads them with keeps itself until it is."""
    return aclosing(aiter(questions))
