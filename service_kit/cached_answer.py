"""An answer that is kept for a moment: however many ask at once, it is looked for once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

AnswerT = TypeVar("AnswerT")


class CachedAnswer(Generic[AnswerT]):
    """Asks on behalf of all.

    Args:
        ask: what finds the answer.
        seconds: how long an answer is good; 0: only for those who came before it was there.
    """

    def __init__(self, ask: Callable[[], Awaitable[AnswerT]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._asking: asyncio.Task[AnswerT] | None = None
        self._good_until = -float("inf")

    async def get(self) -> AnswerT:
        """An answer that is young enough. Raises: what `ask` raises."""
        asking = self._asking
        if asking is None or (asking.done() and time.monotonic() >= self._good_until):
            asking = self._asking = asyncio.ensure_future(self._find())
        # A caller that goes away must not take the answer from the others.
        return await asyncio.shield(asking)

    async def _find(self) -> AnswerT:
        answer = await self._ask()
        self._good_until = time.monotonic() + self._seconds
        return answer
