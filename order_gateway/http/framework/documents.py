"""The API's document, and a page to browse it that needs nothing from elsewhere."""

import importlib.util
from pathlib import Path

import msgspec
from aiohttp import web

from order_gateway.http.framework.openapi import Schema

ASSETS = frozenset(
    {
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "swagger-ui-standalone-preset.js",
        "favicon-16x16.png",
        "favicon-32x32.png",
    }
)
SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Swagger UI writes styles into its elements; the pictures in its stylesheet are data."""
_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Order service</title>
  <link rel="stylesheet" href="swagger-ui.css">
  <link rel="icon" href="favicon-32x32.png">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="swagger-ui-bundle.js"></script>
  <script src="start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({url: "%s", dom_id: "#swagger-ui", deepLinking: true, persistAuthorization: false})
"""


class DocumentRoutes:
    """The handlers of openapi.json and /swagger/; no key needed."""

    def __init__(self, document: Schema, prefix: str) -> None:
        self._document = msgspec.json.encode(document)
        self._address = f"{prefix}/openapi.json"
        self._folder = _assets()

    def routes(self) -> list[web.RouteDef]:
        """Where they are."""
        return [
            web.get(self._address, self.show),
            web.get("/swagger", self.move),
            web.get("/swagger/", self.page),
            web.get("/swagger/start.js", self.start),
            web.get("/swagger/{name}", self.asset),
        ]

    async def show(self, _request: web.Request) -> web.Response:
        """GET /api/v1/openapi.json."""
        return web.Response(body=self._document, content_type="application/json", charset="utf-8")

    async def move(self, _request: web.Request) -> web.Response:
        """GET /swagger: the page's own links need the slash."""
        return web.Response(status=308, headers={"Location": "/swagger/"})

    async def page(self, _request: web.Request) -> web.Response:
        """GET /swagger/: the page."""
        headers = {"Content-Security-Policy": SECURITY_POLICY}
        return web.Response(text=_PAGE, content_type="text/html", headers=headers)

    async def start(self, _request: web.Request) -> web.Response:
        """GET /swagger/start.js: what the page does first."""
        return web.Response(text=_START % self._address, content_type="text/javascript")

    async def asset(self, request: web.Request) -> web.StreamResponse:
        """GET /swagger/...: the files of Swagger UI."""
        name = request.match_info["name"]
        if name not in ASSETS:
            raise web.HTTPNotFound
        return web.FileResponse(self._folder / name)


def _assets() -> Path:
    # Found, not imported: of that package only the files are wanted.
    spec = importlib.util.find_spec("swagger_ui")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static"
