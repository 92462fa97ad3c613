"""An account without the right to ignore read_only, and a server that is read-only to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sqlalchemy.engine import make_url

from development.local_server import LocalServer
from service_kit.database import migrating
from tests.kits.warehouse_kit import fresh, sql

PLAIN = "plain"


@contextlib.asynccontextmanager
async def read_only(server: LocalServer) -> AsyncIterator[None]:
    """The server takes no writes, except from accounts that may ignore that."""
    await asyncio.to_thread(sql, server.url, "SET GLOBAL read_only = ON")
    try:
        yield
    finally:
        await asyncio.to_thread(sql, server.url, "SET GLOBAL read_only = OFF")


def plain_url(server: LocalServer, service: migrating.Service) -> str:
    """A migrated database of its own, and an account that has no right but on it."""
    server.start()
    name = f"{service}_{fresh('db').replace('-', '_')}"
    migrating.upgrade(f"{server.url}/{name}", service)
    account = f"'{PLAIN}'@'127.0.0.1'"
    sql(server.url, f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY 'secret'")
    sql(server.url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {account}")
    parsed = make_url(server.url).set(username=PLAIN, password="secret", database=name)
    return parsed.render_as_string(hide_password=False)
