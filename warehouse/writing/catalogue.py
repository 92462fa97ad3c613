"""Products and warehouses: rare changes, a plain transaction each, idempotent by request id like all others."""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pymysql
import sqlalchemy
from sqlalchemy import Row, func, insert, literal_column, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database.database import DUPLICATE_KEY, Database, RaceLost, error_number
from service_kit.times import microseconds_from_database, microseconds_to_database
from warehouse.reading.tables import products, request_ids, warehouses
from warehouse.stock.commands import (
    Answer,
    CreateProduct,
    CreateWarehouse,
    decode_answer,
    encode_answer,
    request_hash,
)
from warehouse.stock.records import Product, Warehouse
from warehouse.stock.refusals import Reason, Refusal, request_id_reused

_NOW: sqlalchemy.ColumnElement[Any] = literal_column("UTC_TIMESTAMP(6)")
Act = Callable[[AsyncConnection], Awaitable[Answer | Refusal]]


class Catalogue:
    """Adds and reads products and warehouses. All methods raise DatabaseFault."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_product(self, command: CreateProduct) -> Answer | Refusal:
        """Add a product, unless its sku or id is taken."""

        async def act(connection: AsyncConnection) -> Answer | Refusal:
            taken = or_(products.c.sku == command.sku, products.c.product_id == command.product_id)
            if (await connection.execute(select(products.c.product_id).where(taken))).first():
                details = (("sku", command.sku), ("product_id", str(command.product_id)))
                return Refusal(
                    Reason.PRODUCT_EXISTS, f"there is a product with sku {command.sku!r} or this id", details
                )
            values = {
                "sku": command.sku,
                "name": command.name,
                "description": command.description,
                "list_price": None if command.list_price is None else Decimal(command.list_price),
                "currency": command.currency,
            }
            key = {"product_id": command.product_id} if command.product_id else {}
            await connection.execute(insert(products).values(**key, **values, created_at=_NOW, updated_at=_NOW))
            row = (await connection.execute(select(products).where(products.c.sku == command.sku))).one()
            return Answer(product=_product(row))

        return await self._once(command, act)

    async def create_warehouse(self, command: CreateWarehouse) -> Answer | Refusal:
        """Add a warehouse, unless its code or id is taken."""

        async def act(connection: AsyncConnection) -> Answer | Refusal:
            table = warehouses.c
            taken = or_(table.code == command.code, table.warehouse_id == command.warehouse_id)
            if (await connection.execute(select(table.warehouse_id).where(taken))).first():
                details = (("code", command.code), ("warehouse_id", str(command.warehouse_id)))
                message = f"there is a warehouse with code {command.code!r} or this id"
                return Refusal(Reason.WAREHOUSE_EXISTS, message, details)
            key = {"warehouse_id": command.warehouse_id} if command.warehouse_id else {}
            values = {"code": command.code, "name": command.name, "priority": command.priority}
            await connection.execute(insert(warehouses).values(**key, **values, created_at=_NOW, updated_at=_NOW))
            row = (await connection.execute(select(warehouses).where(table.code == command.code))).one()
            return Answer(warehouse=_warehouse(row))

        return await self._once(command, act)

    async def products(self, product_ids: Sequence[int]) -> list[Product]:
        """Those of `product_ids` that exist, by id."""
        query = select(products).where(products.c.product_id.in_(product_ids)).order_by(products.c.product_id)
        return await self._read(query)

    async def _read(self, query: sqlalchemy.Select[Any]) -> list[Product]:
        async def read(connection: AsyncConnection) -> list[Product]:
            return [_product(row) for row in (await connection.execute(query)).all()]

        return await self._database.run_in_transaction(read)

    async def _once(self, command: CreateProduct | CreateWarehouse, act: Act) -> Answer | Refusal:
        """Let `act` have its effect unless the request id has had one."""
        hash_of_request = request_hash(command)

        async def known(connection: AsyncConnection) -> Answer | Refusal | None:
            columns = (func.lower(func.hex(request_ids.c.fingerprint)), request_ids.c.answer)
            query = select(*columns).where(request_ids.c.request_id == command.request_id)
            row = (await connection.execute(query)).first()
            if row is None:
                return None
            return decode_answer(row[1]) if row[0] == hash_of_request else request_id_reused(command.request_id)

        async def work(connection: AsyncConnection) -> Answer | Refusal:
            if (answer := await known(connection)) is not None:
                return answer
            outcome = await act(connection)
            if isinstance(outcome, Refusal):
                # What stands in the way may be what this very request made on another server, just now.
                return await known(connection) or outcome
            await connection.execute(
                insert(request_ids).values(
                    request_id=command.request_id,
                    fingerprint=func.unhex(hash_of_request),
                    answer=encode_answer(outcome),
                    created_at=_NOW,
                )
            )
            return outcome

        return await self._database.run_in_transaction(lambda connection: _start_over_if_beaten(work, connection))


async def _start_over_if_beaten(work: Act, connection: AsyncConnection) -> Answer | Refusal:
    """Somebody else made the same key a moment ago: now that theirs is visible the answer is another one."""
    try:
        return await work(connection)
    except (sqlalchemy.exc.IntegrityError, pymysql.err.IntegrityError) as error:
        if error_number(error) == DUPLICATE_KEY:
            raise RaceLost from error
        raise


class ProductPage(msgspec.Struct, frozen=True):
    """A page of the catalogue.

    Attributes:
        total: how many products there are in all; 0 if that was not to be counted.
        read_at: when, in microseconds since 1970.
    """

    products: list[Product]
    total: int
    read_at: int


async def products_page(
    connection: AsyncConnection, after: int, size: int, *, skip: int, changed_since: int | None, counted: bool
) -> ProductPage:
    """`size` products with the next greater ids than `after`, without the first `skip` of them.

    Args:
        changed_since: only those that were changed then (microseconds since 1970) or later; None: all.
        counted: whether to count the whole catalogue, too.
    """
    query = select(products).where(products.c.product_id > after).order_by(products.c.product_id)
    if changed_since is not None:
        query = query.where(products.c.updated_at >= microseconds_to_database(changed_since))
    # Before the page: what is changed after this instant is found by asking for what has changed since.
    read_at = microseconds_from_database((await connection.execute(select(_NOW))).scalar_one())
    page = [_product(row) for row in (await connection.execute(query.offset(skip).limit(size))).all()]
    total = int((await connection.execute(select(func.count()).select_from(products))).scalar_one()) if counted else 0
    return ProductPage(page, total, read_at)


def _product(row: Row[Any]) -> Product:
    return Product(
        row.product_id,
        row.sku,
        row.name,
        row.description,
        None if row.list_price is None else f"{row.list_price:.2f}",
        row.currency,
        microseconds_from_database(row.created_at),
        microseconds_from_database(row.updated_at),
    )


def _warehouse(row: Row[Any]) -> Warehouse:
    values: list[Any] = [
        *row[:-2],
        microseconds_from_database(row.created_at),
        microseconds_from_database(row.updated_at),
    ]
    return Warehouse(*values)
