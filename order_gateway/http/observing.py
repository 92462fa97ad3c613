"""What every request leaves behind: a log line, numbers for Prometheus, a span of its trace."""

import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from order_gateway.http.wire.errors import CLIENT_GONE, ERROR_CODE
from order_gateway.metrics import GatewayMetrics
from service_kit.logging import note_call
from service_kit.tracing import Tracing, current_traceparent, trace_id

log = structlog.get_logger(__name__)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNKNOWN = "(unknown)"
SEGMENT_LENGTH_MAX = 20
"""Characters of what stands between two slashes, in a log; ids have at most 19, keys and tokens far more."""


def observe_middleware(metrics: GatewayMetrics, tracing: Tracing) -> Middleware:
    """Count, time, trace and log every request; it belongs inside what gives a request its ids."""

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        method, route = known_method(request), route_of(request)
        started, status = time.perf_counter(), CLIENT_GONE
        attributes = {"http.request.method": method, "http.route": route}
        metrics.in_flight += 1
        with tracing.span(f"{method} {route}", "server", request.headers.get("traceparent", ""), attributes) as span:
            note_call(trace_id=trace_id(current_traceparent()))
            try:
                response = await handler(request)
                status = response.status
                return response
            finally:
                metrics.in_flight -= 1
                elapsed = time.perf_counter() - started
                code = request[ERROR_CODE]
                metrics.requests.add(method, route, str(status))
                metrics.request_seconds.observe(elapsed, method, route)
                if code:
                    metrics.refusals.add(code)
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    span.set_failed(code)
                log.info(
                    "request", method=method, route=route, path=loggable(request.path), status=status,
                    ms=round(elapsed * 1000, 3), **({"code": code} if code else {}),
                )  # fmt: skip

    return observe


def known_method(request: web.Request) -> str:
    """The method, if it is one: a label must not be the client's to make up."""
    return request.method if request.method in METHODS else UNKNOWN


def route_of(request: web.Request) -> str:
    """The template of the route, as /api/v1/orders/{id}; never the path itself, which has no end of values."""
    resource = request.match_info.route.resource
    return UNKNOWN if resource is None else resource.canonical


def loggable(path: str) -> str:
    """A path as it is logged: of long segments only the length, as a key may have got there by mistake. PURE."""
    if len(path) <= SEGMENT_LENGTH_MAX:
        return path
    segments = path.split("/")
    return "/".join(part if len(part) <= SEGMENT_LENGTH_MAX else f"<{len(part)} characters>" for part in segments)


class MetricsRoutes:
    """The handler of /metrics; no key needed."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        # By content type, of which there are few: what is asked for without a key must not cost much.
        self._shown: dict[str, tuple[float, bytes]] = {}

    def routes(self) -> list[web.RouteDef]:
        """Where it is."""
        return [web.get("/metrics", self.show)]

    async def show(self, request: web.Request) -> web.Response:
        """GET /metrics, in the format that Prometheus asks for."""
        await self._metrics.look()
        encode, content_type = self._metrics.format(request.headers.get("Accept", ""))
        made, body = self._shown.get(content_type, (-float("inf"), b""))
        if time.monotonic() - made >= self._metrics.text_seconds:
            body = encode()
            self._shown[content_type] = (time.monotonic(), body)
        return web.Response(body=body, headers={"Content-Type": content_type})
