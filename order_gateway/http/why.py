"""Why an order is as it is, for admins."""

from aiohttp import web

from order_gateway.audit.why import Explanation, OrderExplainer
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import Access
from order_gateway.http.wire.errors import success
from order_gateway.http.wire.fields import ById


class WhyRoutes:
    """The operation that explains an order."""

    def __init__(self, explainer: OrderExplainer, prefix: str) -> None:
        self._explainer = explainer
        self._prefix = prefix

    def operations(self) -> list[Operation]:
        """The one there is."""
        at = f"{self._prefix}/orders/{{id}}/why"
        codes = ("ORDER_NOT_FOUND",)
        return [Operation("GET", at, self.explain, Explanation, "operations", codes=codes, access=Access.ADMIN)]

    async def explain(self, _request: web.Request, path: ById) -> web.Response:
        """Explain an order: its open steps with tries, last error and next try, its history, what the warehouse has."""
        return success(await self._explainer.explain(path.id))
