"""The provider's callbacks: each message counts once, and makes the order's payment be looked at again.

What a callback says is not believed, only that there is news: the payment is looked up at the provider. So callbacks
may come late, twice, in any order, or before the answer that they are about.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.lifecycle import Step
from service_kit.database.database import Database

FORGOTTEN_AT_ONCE = 100
"""Old messages deleted with each new one, so that the table stays as short as its time."""
_NOTE = text(
    "INSERT IGNORE INTO payment_callbacks (message_id, order_id, received_at) VALUES (:message_id, :order_id, NOW(6))"
)
_LOOK_AGAIN = text(
    f"UPDATE intents SET due_at = NOW(6) WHERE order_id = :order_id AND step IN ('{Step.CHARGE}', '{Step.REFUND}')"  # noqa: S608
)
_OLD = text(
    "SELECT message_id FROM payment_callbacks WHERE received_at < TIMESTAMPADD(MICROSECOND, -:age, NOW(6))"
    " ORDER BY received_at LIMIT :batch FOR UPDATE SKIP LOCKED"
)
_FORGET = text("DELETE FROM payment_callbacks WHERE message_id = :message_id")


class Callbacks:
    """The messages that have come.

    Args:
        tolerance_seconds: how far a message's time may be off; it is remembered for four times as long.
    """

    def __init__(self, database: Database, tolerance_seconds: float) -> None:
        self._database = database
        self._age = round(tolerance_seconds * 4e6)

    async def take(self, message_id: str, order_id: int | None) -> bool:
        """Note a message and let the order's open payment or refund be looked at now; False if it came before.

        Raises: DatabaseFault.
        """
        seen: list[str] = []

        async def work(connection: AsyncConnection) -> bool:
            noted = await connection.execute(_NOTE, {"message_id": message_id, "order_id": order_id})
            is_new = noted.rowcount == 1 or message_id in seen
            if not is_new:
                return False
            # If the answer of COMMIT is lost, the next try of this call finds its own row.
            seen.append(message_id)
            if order_id is not None:
                await connection.execute(_LOOK_AGAIN, {"order_id": order_id})
            for old in (await connection.execute(_OLD, {"age": self._age, "batch": FORGOTTEN_AT_ONCE})).scalars().all():
                await connection.execute(_FORGET, {"message_id": old})
            return True

        return await self._database.run_in_transaction(work)
