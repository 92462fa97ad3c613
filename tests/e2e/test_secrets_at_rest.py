"""Who reads the databases finds no key, no password, no token and no card number there, whatever was asked before."""

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from argon2 import PasswordHasher

from development.free_ports import free_port
from order_gateway.payments.signing import sign
from tests.conftest import MakeDatabase
from tests.kits.payment_kit import CALLBACK_SECRET, PROVIDER_KEY, ReferenceProvider
from tests.kits.processes import Processes
from tests.kits.raw_http import RawAnswer, exchange, request
from tests.kits.secrets_used import hashed, key_of, known_secrets, lines_with_secrets, secret
from tests.kits.shop_processes import order
from tests.kits.waiting import block_until
from tests.kits.warehouse_kit import connection
from warehouse.demo import load_demo

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
ORDERS = "/api/v1/orders"
SHOP, ADMIN, WAREHOUSE = key_of("shop"), key_of("admin"), key_of("warehouse")
PASSWORD, WRONG_PASSWORD, JWT_SECRET = key_of("password"), key_of("wrong password"), secret(key_of("jwt") * 2)
CARD, CHECK_DIGITS = secret("4242424242424242"), "c-v-c-7193"
REFERENCE = "tok_reference_of_a_payment"
PATIENCE_SECONDS = 20


class Shop:
    """Both services with keys, a person with a password, and a provider that takes the money."""

    def __init__(self, processes: Processes, warehouse_url: str, orders_url: str) -> None:
        keys = [{"name": "gateway", "role": "admin", "sha256": hashed(WAREHOUSE)}]
        _, target = processes.warehouse(warehouse_url, settings={"WAREHOUSE_API_KEYS": json.dumps(keys)})
        asyncio.run(load_demo(target, WAREHOUSE))
        port = free_port()
        provider = ReferenceProvider(processes, f"http://127.0.0.1:{port}/api/v1/payments/callbacks")
        user = {"name": "ann", "user_id": "7", "password_hash": PasswordHasher(time_cost=1).hash(PASSWORD)}
        settings = {
            **provider.settings,
            "ORDERS_PROFILE": "production",
            "ORDERS_API_KEYS": json.dumps(
                [
                    {"name": "shop", "sha256": hashed(SHOP)},
                    {"name": "office", "sha256": hashed(ADMIN), "roles": ["service", "admin"]},
                ]
            ),
            "ORDERS_JWT_SECRET": JWT_SECRET,
            "ORDERS_USERS": json.dumps([user]),
            "ORDERS_WAREHOUSE_API_KEY": WAREHOUSE,
            "ORDERS_RELAY__POLL_SECONDS": "0.1",
        }
        _, self.base_url = processes.order_gateway(orders_url, target, port=port, settings=settings)

    def ask(self, method: str, path: str, body: object = None, *headers: str) -> RawAnswer:
        text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
        return exchange(self.base_url, request(method, path, *headers, body=text))

    def data(self, method: str, path: str, body: object = None, *headers: str, status: int = 200) -> Any:
        answer = self.ask(method, path, body, *headers)
        assert answer.status == status, answer
        return json.loads(answer.body)["data" if status < 400 else "error"]


@pytest.fixture(scope="module")
def urls(make_database: MakeDatabase) -> tuple[str, str]:
    return make_database("warehouse"), make_database("orders")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, urls: tuple[str, str]) -> Iterator[Shop]:
    processes = Processes(tmp_path_factory.mktemp("shop"))
    try:
        yield Shop(processes, *urls)
    finally:
        processes.stop_all()


def test_no_secret_is_found_in_any_table(shop: Shop, urls: tuple[str, str]) -> None:
    as_person = sell_and_refund(shop)
    news_are_told(shop)
    what_is_refused(shop, as_person)
    tables = [dump(url) for url in urls]
    stored = b"\n".join(tables)
    # What should be there is found, so what should not would be, too.
    for kept in (REFERENCE, "Street 1", "cart-1", "card-5", "shop/7", "m-forged-no", "gateway/shop/7"):
        assert (kept.encode() in stored) == (kept != "m-forged-no"), kept
    assert [line for table in tables for line in lines_with_secrets(table)] == []
    for used in (SHOP, ADMIN, WAREHOUSE, PASSWORD, WRONG_PASSWORD, JWT_SECRET, CARD, PROVIDER_KEY, CALLBACK_SECRET):
        assert used in known_secrets()
        assert hashlib.sha256(used.encode()).hexdigest().encode() not in stored
    assert CHECK_DIGITS.encode() not in stored


def sell_and_refund(shop: Shop) -> tuple[str, str]:
    """A person logs in, buys, pays, and an admin gives the money back; the person's headers."""
    login = {"username": "ann", "password": PASSWORD}
    token = secret(shop.data("POST", "/api/v1/auth/token", login)["access_token"])
    assert shop.ask("POST", "/api/v1/auth/token", {**login, "password": WRONG_PASSWORD}).status == 401
    as_person = f"X-API-Key: {SHOP}", f"Authorization: Bearer {token}"
    placed = [shop.data("POST", ORDERS, order(), *as_person, "Idempotency-Key: cart-1", status=201) for _ in range(2)]
    assert placed[0] == placed[1]
    path = f"{ORDERS}/{placed[0]['id']}"
    paying = {"payment_reference": REFERENCE}
    assert shop.data("POST", f"{path}/payment", paying, *as_person, "Idempotency-Key: pay-1")["status"] == "paid"
    cancelled = shop.data(
        "POST", f"{path}/cancel", {"reason": "admin"}, f"X-API-Key: {ADMIN}", "Idempotency-Key: end-1"
    )
    assert cancelled["status"] == "cancelled"
    block_until(lambda: shop.data("GET", path, None, *as_person)["payment_status"] == "refunded")
    return as_person


def news_are_told(shop: Shop) -> None:
    """The provider calls back; so does somebody who does not know the secret."""
    body = json.dumps({"type": "payment.updated", "data": {"order_id": "1", "card_number": CARD}})
    now = int(time.time())
    told = []
    for message_id, key in (("m-right", CALLBACK_SECRET), ("m-forged-no", key_of("forged"))):
        headers = f"webhook-id: {message_id}", f"webhook-timestamp: {now}"
        signed = f"webhook-signature: {sign(key, message_id, now, body.encode())}"
        told.append(shop.ask("POST", "/api/v1/payments/callbacks", body, *headers, signed).status)
    assert told[1] == 401
    assert told[0] in (200, 400)


def what_is_refused(shop: Shop, as_person: tuple[str, str]) -> None:
    """Cards, keys and passwords where they don't belong, under Idempotency-Keys, so that the answers are stored."""
    card = {"number": CARD, "cvc": CHECK_DIGITS}
    bodies: list[object] = [
        {**order(), "card_number": CARD, "cvc": CHECK_DIGITS},
        {**order(), "payment_method": card},
        {**order(), "payment_method": f"card {CARD} {CHECK_DIGITS} {'x' * 64}"},
        {**order(), "user_id": f"{PASSWORD}{'x' * 64}"},
        {**order(), "items": [{"product_id": CARD, "warehouse_id": CHECK_DIGITS, "quantity": 1}]},
        f'{{"card": "{CARD}", "cvc": "{CHECK_DIGITS}"',
    ]
    for number, body in enumerate(bodies):
        assert shop.ask("POST", ORDERS, body, *as_person, f"Idempotency-Key: card-{number}").status == 400, body
    for number, body in enumerate(({"payment_reference": card}, {"payment_reference": CARD * 20}, {"card": card})):
        headers = f"X-API-Key: {SHOP}", f"Idempotency-Key: pay-card-{number}"
        assert shop.ask("POST", f"{ORDERS}/1/payment", body, *headers).status == 400
    shop.ask("POST", f"{ORDERS}/1/cancel?api_key={SHOP}", {}, f"X-API-Key: {SHOP}", "Idempotency-Key: query-1")


def dump(url: str) -> bytes:
    """Every value of every row of every table, one a line."""
    lines = []
    with connection(url) as made, made.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        for (table,) in cursor.fetchall():
            cursor.execute(f"SELECT * FROM `{table}`")
            for row in cursor.fetchall():
                lines += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    assert lines
    return b"\n".join(lines)
