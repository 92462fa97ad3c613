"""The hands of a test on the rows of orders and on the relay's clock."""

from sqlalchemy import text

from order_gateway.saga.pending_steps import PendingSteps
from order_gateway.saga.relay import Relay
from service_kit.database.database import Database


class ByHand:
    """What every order service has that is put together without its HTTP."""

    database: Database
    intents: PendingSteps
    relay: Relay

    async def relay_all(self) -> None:
        """Let the relay do all that is open, however late it is due."""
        for _ in range(10):
            await self.execute("UPDATE intents SET due_at = NOW(6)")
            for intent in await self.intents.claim(100, 30):
                await self.relay.do(intent)

    async def execute(self, statement: str) -> None:
        """Change the orders database by hand."""
        async with self.database.engine.begin() as connection:
            await connection.execute(text(statement))
