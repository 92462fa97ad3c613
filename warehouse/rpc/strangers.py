"""How often those without a key may call, by address, and what becomes of who calls more often.

A refusal costs about as much as an answer, so refusing alone would slow nobody down. It comes late, then: who waits for
it makes no further calls meanwhile, since a connection has so many at once and no more. What is held back takes memory,
so there is a bound for it; past that a refusal comes at once again.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import uniform

from service_kit.client_addresses import Network, is_trusted
from service_kit.rates import RateLimit, TooOften
from warehouse.rpc.peers import address_of

REFUSAL_SECONDS = (0.5, 1.5)
"""How long such a refusal is held back; not the same time for all, or they would all call again at once."""
HELD_MAX = 1000
"""Refusals held back at the same time."""


class Strangers:
    """Counts the calls of those who show no valid key.

    Args:
        per_second_max: calls of one address.
        trusted_proxies: their connections are others', too, and are not held up.
        note: is told the name of the bound whenever it refuses a call.
    """

    def __init__(self, per_second_max: float, trusted_proxies: Sequence[Network], note: Callable[[str], None]) -> None:
        self._rate = RateLimit(per_second_max, 1)
        self._trusted_proxies = trusted_proxies
        self._note = note
        self._held = 0

    async def count(self, client: str, peer: str) -> None:
        """Take note of a call.

        Args:
            client: whom it counts for.
            peer: as gRPC calls it.

        Raises: TooOften, if it is one too many; that takes a while.
        """
        try:
            self._rate.count(client)
        except TooOften:
            self._note("open_calls_per_second")
            if self._held < HELD_MAX and not is_trusted(address_of(peer), self._trusted_proxies):
                await self._hold_back()
            raise

    async def _hold_back(self) -> None:
        seconds = uniform(*REFUSAL_SECONDS)  # noqa: S311 - no secret
        self._held += 1
        # Not when the call ends: who takes it back would get the place at once.
        asyncio.get_running_loop().call_later(seconds, self._let_go)
        await asyncio.sleep(seconds)

    def _let_go(self) -> None:
        self._held -= 1
