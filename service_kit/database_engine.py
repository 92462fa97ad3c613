"""The pool of connections: SQLAlchemy's, of connections made in `database_connection`, trusted by `database_trust`."""

import ssl
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service_kit.database_connection import Connection, connect
from service_kit.database_settings import DatabaseSettings
from service_kit.database_trust import Trust


class Connector:
    """Makes the connections to `url` (see `Database`), those of the pool and those beside it.

    Attributes:
        engine: the pool, and SQLAlchemy's way to use it.
    """

    def __init__(self, url: URL, settings: DatabaseSettings, trust: Trust) -> None:
        self._settings = settings
        self._tls = _tls_arguments(url)
        query = {name: value for name, value in url.query.items() if name not in ("tls", "tls_ca")}
        self.engine: AsyncEngine = create_async_engine(
            url.set(query={"charset": "utf8mb4", **query}),
            connect_args={"async_creator_fn": self._connect},
            pool_size=settings.pool_size,
            max_overflow=0,
            pool_use_lifo=True,
        )

        def check_out(connection: Any, _record: object, _proxy: object) -> None:
            if not connection.run_async(trust.allows):
                # The pool's own way: it makes another one in this one's place.
                raise sqlalchemy.exc.DisconnectionError

        sqlalchemy.event.listen(self.engine.sync_engine, "checkout", check_out)

    async def connect_apart(self) -> Connection:
        """A connection like those of the pool, and none of them. Raises: ConnectFailed."""
        _, options = self.engine.dialect.create_connect_args(self.engine.url)
        return await self._connect(**options)

    async def _connect(self, **options: Any) -> Connection:
        return await connect(self._settings, **options, **self._tls)


def _tls_arguments(url: URL) -> dict[str, Any]:
    if url.query.get("tls", "off") == "off":
        return {}
    tls_ca = url.query.get("tls_ca")
    return {"ssl": ssl.create_default_context(cafile=str(tls_ca) if tls_ca else None)}
