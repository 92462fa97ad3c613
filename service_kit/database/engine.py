"""The pool of connections: SQLAlchemy's, of connections made in `database_connection`, trusted by `database_trust`."""

from typing import Any

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service_kit.database.connection import Connection, connect
from service_kit.database.errors import CONNECTION_FAILED, ConnectFailed, error_number
from service_kit.database.settings import DatabaseSettings
from service_kit.database.trust import Trust
from service_kit.database_url import DatabaseAddress, encrypt_connections


class Connector:
    """Makes the connections to a database, those of the pool and those beside it.

    Attributes:
        engine: the pool, and SQLAlchemy's way to use it.
    """

    def __init__(self, address: DatabaseAddress, settings: DatabaseSettings, trust: Trust) -> None:
        self._settings = settings
        self._encrypt = encrypt_connections(address) if address.tls else None
        self.engine: AsyncEngine = create_async_engine(
            address.url.set(drivername="mysql+aiomysql", query={"charset": "utf8mb4"}),
            connect_args={"async_creator_fn": self._connect},
            pool_size=settings.pool_size,
            max_overflow=0,
            # Errors are logged, and what customers write is none of the log's business.
            hide_parameters=True,
            pool_use_lifo=True,
        )

        def check_out(connection: Any, _record: object, _proxy: object) -> None:
            if not connection.run_async(trust.allows):
                # The pool's own way: it makes another one in this one's place.
                raise sqlalchemy.exc.DisconnectionError

        sqlalchemy.event.listen(self.engine.sync_engine, "checkout", check_out)

    async def check_out(self) -> AsyncConnection:
        """A connection of the pool; to be closed.

        Raises: ConnectFailed, also for what SQLAlchemy asks on its first connection.
        """
        connection = self.engine.connect()
        try:
            return await connection.start()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise ConnectFailed(error_number(error) or CONNECTION_FAILED, str(error)) from error

    async def connect_apart(self) -> Connection:
        """A connection like those of the pool, and none of them. Raises: ConnectFailed."""
        _, options = self.engine.dialect.create_connect_args(self.engine.url)
        return await self._connect(**options)

    async def _connect(self, **options: Any) -> Connection:
        if self._encrypt is not None:
            self._encrypt(None, None, [], options)
        return await connect(self._settings, **options)
