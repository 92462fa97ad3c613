"""The caller has taken the money and says so with a reference; it is the one who gives it back, when asked to."""

from order_gateway.payments.port import Authorised, Bill, Charged, RefundRequested


class ExternalPayments:
    """Believes the caller, who must be a service or an admin; nothing here leaves this process."""

    name = "external"

    async def authorise(self, bill: Bill) -> Authorised:
        """The caller says that the money is there."""
        return Authorised(bill.reference or "")

    async def charge(self, bill: Bill) -> Charged:
        """The caller says that it is taken."""
        return Charged(bill.reference or "")

    async def refund(self, bill: Bill) -> RefundRequested:
        """Ask for it: the order's event says so, and the list of refunds."""
        return RefundRequested()

    async def look_up(self, bill: Bill) -> Charged:
        """What the caller said."""
        return Charged(bill.reference or "")

    async def close(self) -> None:
        """Nothing: there is no connection."""
