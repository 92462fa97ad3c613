"""No text that a caller sends means anything to the database, whatever a proxy makes of the server's status flags."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.type.money_pb2 import Money

from service_kit.database import connection as database_connection
from service_kit.database.connection import literal
from service_kit.database.database import Database, DatabaseAway, DatabaseSettings
from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.database_proxy import proxied
from tests.kits.orders_api import KEY, ORDER, Api, serving_orders
from tests.kits.warehouse_kit import (
    Calls,
    No,
    assert_clean,
    cancel,
    connection,
    fresh,
    outcome,
    refused,
    reserve,
    scalar,
    serving,
)

pytestmark = pytest.mark.sql
CONTROLS = tuple(f"a{chr(code)}b" for code in (*range(32), 127))
QUOTES = (
    "'", "''", '"', "`", "\\", "\\\\", "\\'", "'\\", "\\\\'", "a\\", "a'", '\\"', '","', '\\",\\"', "\\u0027", "\\x27",
    "'; DROP TABLE movements; -- ", "\\'; DROP TABLE movements; -- ", "' OR '1'='1", "')) OR SLEEP(9) -- ", "*/", "/*",
    "#",     "%s", "%(levels)s", "%%", "%", "{}", "$", "]", "}", "null", "\\N", "_", "\\%", "0x27", "?",
)  # fmt: skip
ENDS = (
    "\u00bf'", "\u00bf\\", "\u00e9'", "\u00e9\\", "\u20ac'", "\u65e5\u672c\\'", "\U0001f600'", "\U0001f600\\",
    "\u02bc", "\u2019", "\uff07", "\uff3c", "\u00a5", "\u20a9", "\u2028", "\ufeff", "\uffff", "\U0010ffff", "e\u0301'",
)  # fmt: skip
HOSTILE = (*CONTROLS, *QUOTES, *ENDS)
BUGS = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED"}
METHODS = {
    method.name: method
    for file in (pb.DESCRIPTOR, stock.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
    if not method.server_streaming
}
TOGETHER = 24
"""Calls at the same time: some go alone, the others in batches, which are written in another way."""


def filled(message: Message) -> Message:
    """A request with something in every field."""
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name):
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            child = getattr(message, field.name)
            fill_in(field, child.add() if field.is_repeated else child)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                getattr(message, field.name).append(fresh("text"))
            elif field.name != "page_token":
                setattr(message, field.name, fresh("text"))
        elif field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64):
            if field.is_repeated:
                getattr(message, field.name).append(1)
            else:
                setattr(message, field.name, 1)
    return message


def fill_in(field: Any, child: Message) -> None:
    if isinstance(child, Money):
        child.CopyFrom(Money(currency_code="EUR", units=1))
    elif field.message_type is not None and field.message_type.name in ("Duration", "Timestamp"):
        child.seconds = 60  # type: ignore[attr-defined]
    else:
        filled(child)


def texts(message: Message) -> Iterator[Callable[[str], None]]:
    """A way to set each text field."""
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            value = getattr(message, field.name)
            yield partial(value.__setitem__, 0) if field.is_repeated else partial(setattr, message, field.name)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            value = getattr(message, field.name)
            for child in value if field.is_repeated else [value]:
                yield from texts(child)


def hostile_requests() -> Iterator[tuple[str, Message]]:
    for name, method in METHODS.items():
        kind = getattr(pb if hasattr(pb, method.input_type.name) else stock, method.input_type.name)
        for number in range(len(list(texts(filled(kind()))))):
            for text in HOSTILE:
                request = filled(kind())
                list(texts(request))[number](text)
                yield name, request


@contextlib.asynccontextmanager
async def dropping_flags(url: str) -> AsyncIterator[str]:
    async with proxied(url) as (proxy, way):
        proxy.drops_flags = True
        yield way


async def test_every_text_field_of_every_call_of_the_warehouse(warehouse_database_url: str) -> None:
    async with dropping_flags(warehouse_database_url) as url, serving(url) as calls:
        await calls.keep({(1, 1): 1_000_000})
        wrong: list[tuple[str, str, No]] = []
        waiting = list(hostile_requests())
        assert {"Reserve", "BatchReserve", "Cancel", "CreateProduct"} <= {name for name, _ in waiting}

        async def send() -> None:
            while waiting:
                name, request = waiting.pop()
                stub = calls.holds if hasattr(calls.holds, name) else calls.stock
                ended = await outcome(getattr(stub, name)(request))
                if isinstance(ended, No) and ended.code in BUGS:
                    wrong.append((name, str(request), ended))

        await asyncio.gather(*(send() for _ in range(TOGETHER)))
        assert wrong == []
        assert scalar(warehouse_database_url, "SELECT COUNT(*) FROM movements") > 0
    await assert_clean(warehouse_database_url)


async def _round_trip(calls: Calls, number: int, text: str) -> None:
    request = reserve((1, 1, 1), order_id=text, request_id=f"{number}", correlation_id=text)
    held = await outcome(calls.holds.Reserve(request))
    if isinstance(held, No):
        assert (held.code, set(held.fields)) == ("INVALID_ARGUMENT", {"order_id", "correlation_id"}), (text, held)
        assert not text.isprintable() or text.strip() != text
        return
    found = await calls.holds.GetReservation(pb.GetReservationRequest(reservation_id=held.reservation.reservation_id))
    assert (found.reservation.order_id, found.reservation.correlation_id) == (text, text)
    await calls.holds.Cancel(cancel(reservation_id=held.reservation.reservation_id, reason=text))
    found = await calls.holds.GetReservation(pb.GetReservationRequest(reservation_id=held.reservation.reservation_id))
    assert found.reservation.reason == text
    product = stock.CreateProductRequest(
        request_id=f"P{number}", sku=f"{number}{text}", name=text, description=text * 9
    )
    made = (await calls.stock.CreateProduct(product)).product
    [read] = (await calls.stock.BatchGetProducts(stock.BatchGetProductsRequest(product_ids=[made.product_id]))).products
    assert (read.sku, read.name, read.description) == (f"{number}{text}", text, text * 9)


@pytest.mark.parametrize("drops_flags", [False, True])
async def test_hostile_texts_come_back_as_they_were(warehouse_database_url: str, drops_flags: bool) -> None:
    async with contextlib.AsyncExitStack() as stack:
        url = warehouse_database_url
        if drops_flags:
            url = await stack.enter_async_context(dropping_flags(url))
        calls = await stack.enter_async_context(serving(url))
        await calls.keep({(1, 1): 1_000_000})
        for text in HOSTILE[: len(HOSTILE) // 2]:
            await _round_trip(calls, HOSTILE.index(text), text)
        await asyncio.gather(*(_round_trip(calls, number + 1000, text) for number, text in enumerate(HOSTILE)))
    await assert_clean(warehouse_database_url)


async def test_every_text_field_of_the_orders(orders_database_url: str) -> None:
    async with dropping_flags(orders_database_url) as url, serving_orders(url) as api:
        taken = [await _order_with(api, number, text) for number, text in enumerate(HOSTILE)]
        assert sum(taken) > len(QUOTES)
        more = await asyncio.gather(*(_order_with(api, number + 1000, text) for number, text in enumerate(HOSTILE)))
        assert list(more) == taken


async def _order_with(api: Api, number: int, text: str) -> bool:
    """Use a text wherever a client can put one; whether it was taken as an address."""
    plain = {**ORDER, "user_id": "u"}
    kept = True
    for field, headers in (
        ("shipping_address", KEY),
        ("user_id", KEY),
        ("payment_method", {**KEY, "Idempotency-Key": f"k{number}"}),
    ):
        status, answer = await _send(api, "POST", "/api/v1/orders", {**plain, field: text}, headers)
        assert status in (201, 400), (field, text, answer)
        if status == 201:
            path = f"/api/v1/orders/{answer['data']['id']}"
            assert answer["data"][field] == text, (field, answer)
            assert (await _send(api, "GET", path))[1]["data"][field] == text
            status, paid = await _send(api, "POST", f"{path}/payment", {"payment_reference": text})
            assert status in (200, 400), (text, paid)
            status, ended = await _send(api, "POST", f"{path}/cancel", {"reason": text})
            assert status in (200, 400), (text, ended)
        elif field == "shipping_address":
            kept = False
    if text.isprintable() and text.isascii() and " " not in text:
        key = {**KEY, "Idempotency-Key": text + str(number)}
        first = await _send(api, "POST", "/api/v1/orders", plain, key)
        assert first[0] == 201
        assert await _send(api, "POST", "/api/v1/orders", plain, key) == first
    async with api.client.get("/api/v1/orders", params={"user_id": text}, headers=KEY) as response:
        assert response.status in (200, 400), text
        listed = await response.json()
    if response.status == 200:
        assert {order["user_id"] for order in listed["data"]} == {text}
    return kept


async def _send(
    api: Api, method: str, path: str, body: object = None, headers: dict[str, str] = KEY
) -> tuple[int, Any]:
    async with api.client.request(method, path, json=body, headers=headers) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", "STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES"])
@pytest.mark.parametrize("charset", ["utf8mb4", "latin1", "gbk", "sjis"])
def test_a_literal_means_the_same_in_every_mode(database_server: str, mode: str, charset: str) -> None:
    """Inert whatever the server takes the bytes for; and the text itself where the character set can say it."""
    with connection(f"{database_server}/information_schema") as made, made.cursor() as cursor:
        cursor.execute(f"SET NAMES {charset}")
        cursor.execute(f"SET sql_mode = '{mode}'")
        for text in HOSTILE:
            cursor.execute(f"SELECT HEX({literal(text)}) AS found, 'still here' AS rest".encode())
            [(found, rest)] = cursor.fetchall()
            assert rest == "still here"
            if charset == "utf8mb4" or text.isascii():
                assert bytes.fromhex(found).decode() == text


WRONG = {
    "sql_mode": "SET sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    "time_zone": "SET time_zone = '+01:00'",
    "transaction_isolation|tx_isolation": "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "character_set_client": "SET NAMES latin1",
    "autocommit": "SET autocommit = 1",
    "innodb_lock_wait_timeout": "SET innodb_lock_wait_timeout = 50",
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_session_that_is_not_as_it_must_be_is_not_used(
    warehouse_database_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As behind a proxy that ignores what it is told, or tells another server."""
    set_up = database_connection.session_set_up
    monkeypatch.setattr(database_connection, "session_set_up", lambda bounds: f"{set_up(bounds)};{WRONG[name]}")
    bounds = DatabaseSettings(tries=2)
    database = Database(warehouse_database_url, bounds)
    for use in (database.ping(), database.run_in_transaction(lambda made: made.exec_driver_sql("SELECT 1"))):
        with pytest.raises(DatabaseAway) as raised:
            await use
        assert any(word in str(raised.value.__cause__) for word in name.split("|"))
    await database.close()
    async with serving(warehouse_database_url, database=bounds) as calls:
        assert (await refused(calls.holds.Reserve(reserve((1, 1, 1))))).code == "UNAVAILABLE"
