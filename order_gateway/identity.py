"""PURE: what an order is called outside this service: in the warehouse, and in request ids.

Its number alone is no name: a database that was restored gives numbers out again, and another installation, or a
caller who holds stock without an order, may use the same ones. So a name has the installation's token in it, and a
random key that was drawn for this order alone.
"""

import re
import secrets

import msgspec

from order_gateway.lifecycle import Order, Step

KEY_BYTES = 10
"""With token, number (of at most 19 digits), step and position, a request id then has no more than 64 characters."""
_NAME = re.compile(r"([0-9a-f]{8})-([1-9][0-9]{0,18})-([0-9a-f]{20})")
_BARE_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


class OrderName(msgspec.Struct, frozen=True):
    """What an order is called outside.

    Attributes:
        installation: the token of its database.
        number: its id.
        key: drawn at random for it alone; empty for an order from before orders had keys.
    """

    installation: str
    number: int
    key: str

    @property
    def in_warehouse(self) -> str:
        """The warehouse's order id."""
        return f"{self.installation}-{self.number}-{self.key}" if self.key else str(self.number)

    def request_id(self, step: Step, position: int | None = None) -> str:
        """The request id of a step; the same for every repetition.

        Args:
            position: of the line, where a step is a call per line.
        """
        begin = self.in_warehouse if self.key else f"{self.installation}-order-{self.number}"
        return f"{begin}-{step}" if position is None else f"{begin}-{step}-{position}"


def new_request_key() -> str:
    """Random digits for one order.

    From the operating system: a generator of this process would go on alike in two copies of a virtual machine.
    """
    return secrets.token_hex(KEY_BYTES)


def name_of(installation: str, order: Order) -> OrderName:
    """What `order` is called outside."""
    return OrderName(installation, order.id, order.request_key)


def parse(warehouse_order_id: str) -> OrderName | None:
    """The name that an order id of the warehouse is, if it looks like one; whether there is such an order is not known.

    A bare number may be an order from before orders had keys, of any installation, or no order at all.
    """
    if found := _NAME.fullmatch(warehouse_order_id):
        return OrderName(found[1], int(found[2]), found[3])
    return OrderName("", int(warehouse_order_id), "") if _BARE_NUMBER.fullmatch(warehouse_order_id) else None
