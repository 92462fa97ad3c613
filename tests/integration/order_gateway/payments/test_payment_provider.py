"""The http provider against a real one: a process of its own that loses, delays and doubles what it is asked."""

import asyncio
import datetime
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from order_gateway.payments import Authorised, Bill, Charged, Declined, Payments, Pending, ProviderFault, Refunded
from order_gateway.payments.http_provider import HttpProvider
from order_gateway.payments.settings import HttpProviderSettings, PaymentSettings
from tests.kits.payment_kit import (
    CALLBACK_SECRET,
    PROVIDER_KEY,
    ReferenceProvider,
    paths,
    violations,
)
from tests.kits.processes import Processes

PATIENT = PaymentSettings(tries=4, retry_wait_initial_seconds=0.01, retry_wait_max_seconds=0.02)


def bill(key: str = "k-1", amount: str = "39.98", reference: str | None = None) -> Bill:
    return Bill(17, key, Decimal(amount), "EUR", "card", reference)


def provider_at(url: str, **settings: Any) -> HttpProvider:
    given = {"url": url, "api_key": PROVIDER_KEY, "callback_secret": CALLBACK_SECRET, "timeout_seconds": 1, **settings}
    return HttpProvider(HttpProviderSettings.model_validate(given))


async def until(ask: Callable[[], Awaitable[object]], kind: type, value: object = None) -> None:
    """Ask again and again until the answer is of this kind, and this value."""
    async with asyncio.timeout(10):
        while True:
            answer = await ask()
            if isinstance(answer, kind) and value in (None, answer):
                return
            await asyncio.sleep(0.02)


class Shop:
    """A provider, and the two ends of the wire to it."""

    def __init__(self, reference: ReferenceProvider) -> None:
        self.reference = reference
        self.http = provider_at(self.reference.url)
        self.payments = Payments(self.http, PATIENT)

    def requests(self) -> list[str]:
        return [operation for (operation,) in self.reference.rows("SELECT operation FROM requests ORDER BY rowid")]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceProvider]:
    processes = Processes(tmp_path_factory.mktemp("provider"))
    yield ReferenceProvider(processes)
    processes.stop_all()


@pytest.fixture
async def shop(reference: ReferenceProvider) -> AsyncIterator[Shop]:
    reference.process.start()
    reference.will(forget=True)
    shop = Shop(reference)
    yield shop
    await shop.payments.close()


async def test_the_straight_way_and_back(shop: Shop) -> None:
    assert await shop.http.look_up(bill()) is None
    assert isinstance(await shop.http.authorise(bill()), Authorised)
    assert shop.reference.balance() == {}
    for _ in range(2):
        assert isinstance(await shop.http.charge(bill()), Charged)
        assert shop.reference.balance() == {"EUR": Decimal("39.98")}
    assert isinstance(await shop.http.look_up(bill()), Charged)
    for _ in range(2):
        assert await shop.http.refund(bill()) == Refunded()
        assert shop.reference.balance() == {"EUR": 0}
    assert isinstance(await shop.http.authorise(bill()), Declined)


async def test_declined(shop: Shop) -> None:
    assert await shop.payments.take(bill(reference="simulate-decline")) == Declined("the bank said no")
    assert await shop.payments.give_back(bill()) == Refunded()
    assert shop.requests() == ["authorise", "void"]
    assert shop.reference.balance() == {}


async def test_what_was_given_up_is_never_charged_whenever_it_arrives(shop: Shop) -> None:
    assert await shop.http.refund(bill("never-seen")) == Refunded()
    assert isinstance(await shop.http.authorise(bill("never-seen")), Declined)
    await shop.http.authorise(bill("authorised"))
    assert await shop.http.refund(bill("authorised")) == Refunded()
    assert isinstance(await shop.http.charge(bill("authorised")), Declined)
    assert shop.reference.balance() == {}


LOST = ("lose_request", "lose_answer", "slow", "double", "unavailable", "garbage", "too_long", "redirect")


@pytest.mark.parametrize("operation", ["authorise", "capture"])
@pytest.mark.parametrize("fault", [*LOST, "another_amount", "another_key"])
async def test_whatever_becomes_of_an_answer_the_money_is_taken_once(shop: Shop, operation: str, fault: str) -> None:
    shop.reference.will((operation, fault), (operation, "lose_answer"), ("look_up", "lose_answer"))
    assert isinstance(await shop.payments.take(bill()), Charged)
    assert shop.reference.moves_per_key() == [1]
    assert shop.reference.balance() == {"EUR": Decimal("39.98")}


@pytest.mark.parametrize("operation", ["void", "refund"])
@pytest.mark.parametrize("fault", LOST)
async def test_whatever_becomes_of_an_answer_the_money_is_given_back_once(
    shop: Shop, operation: str, fault: str
) -> None:
    await shop.payments.take(bill())
    shop.reference.will((operation, fault), (operation, "lose_answer"))
    assert await shop.payments.give_back(bill()) == Refunded()
    assert shop.reference.moves_per_key() == [1, 1]
    assert shop.reference.balance() == {"EUR": 0}


@pytest.mark.parametrize("fault", [*LOST, "another_amount", "another_key"])
async def test_an_answer_that_is_none_is_no_decline(shop: Shop, fault: str) -> None:
    # Twice, because the library repeats a PUT by itself where the connection ends.
    shop.reference.will(("authorise", fault), ("authorise", fault))
    if fault == "double":
        assert isinstance(await shop.http.authorise(bill()), Authorised)
    else:
        with pytest.raises(ProviderFault):
            await shop.http.authorise(bill())


async def test_another_key_or_another_amount_under_the_same_key(shop: Shop) -> None:
    stranger = provider_at(shop.reference.url, api_key="wrong")
    with pytest.raises(ProviderFault, match="ORDERS_PAYMENTS__HTTP__API_KEY"):
        await stranger.authorise(bill())
    await stranger.close()
    await shop.http.authorise(bill())
    with pytest.raises(ProviderFault, match="another amount"):
        await shop.http.authorise(bill(amount="39.97"))
    with pytest.raises(ProviderFault, match="another amount"):
        await shop.http.charge(bill(amount="1.00"))
    assert shop.reference.balance() == {}


async def test_an_outcome_that_comes_later(shop: Shop) -> None:
    shop.reference.will(("authorise", "pending"), ("capture", "pending"), ("refund", "pending"))
    assert await shop.payments.take(bill()) == Pending()
    await until(lambda: shop.payments.take(bill()), Charged)
    await until(lambda: shop.payments.give_back(bill()), Refunded)
    assert shop.reference.moves_per_key() == [1, 1]


async def test_killed_in_mid_flight_it_goes_on_where_it_was(shop: Shop) -> None:
    shop.reference.will(("capture", "slow"))
    await shop.http.authorise(bill())
    taking = asyncio.create_task(shop.http.charge(bill()))
    await until(lambda: asyncio.to_thread(shop.reference.moves_per_key), list, [1])
    shop.reference.process.kill()
    with pytest.raises(ProviderFault):
        await taking
    with pytest.raises(ProviderFault):
        await shop.http.look_up(bill())
    shop.reference.process.start()
    assert isinstance(await shop.payments.take(bill()), Charged)
    assert shop.reference.moves_per_key() == [1]


async def test_a_provider_that_is_silent_is_not_asked_by_everybody(shop: Shop) -> None:
    shop.reference.process.kill()
    patient = provider_at(shop.reference.url, silences_max=2, silence_pause_seconds=60)
    errors = []
    for _ in range(4):
        with pytest.raises(ProviderFault) as caught:
            await patient.authorise(bill())
        errors.append(str(caught.value))
    await patient.close()
    assert [error for error in errors if "for a while" in error] == errors[2:]


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that only vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    names = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(names, names, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(local, critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths[1].write_bytes(key.private_bytes(*form))
    return paths


async def test_only_a_certificate_that_is_trusted_is_spoken_to(tmp_path: Path) -> None:
    heard: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        heard.append(request.headers["Authorization"])
        record = {"key": "k-1", "state": "authorised", "amount": "39.98", "currency": "EUR", "more": [1]}
        return web.json_response(record, headers={"Set-Cookie": "a=b"})

    app = web.Application()
    app.router.add_put("/v1/payments/{key}", answer)
    own, stranger = certificate(tmp_path, "own"), certificate(tmp_path, "stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*own)
    server = TestServer(app, scheme="https", host="127.0.0.1")
    await server.start_server(ssl=context)
    url = f"https://127.0.0.1:{server.port}/v1"
    for ca_file in (None, stranger[0]):
        untrusting = provider_at(url, ca_file=ca_file)
        with pytest.raises(ProviderFault, match="Certificate"):
            await untrusting.authorise(bill())
        await untrusting.close()
    assert heard == []
    trusting = provider_at(url, ca_file=own[0])
    assert isinstance(await trusting.authorise(bill()), Authorised)
    await trusting.close()
    await server.close()
    assert heard == [f"Bearer {PROVIDER_KEY}"]


async def test_what_goes_over_the_wire_is_what_the_contract_says(shop: Shop) -> None:
    shop.reference.will(("authorise", "pending"))
    await shop.payments.take(bill("pending", reference="tok_1"))
    await shop.payments.give_back(bill("pending", reference="tok_1"))
    await shop.payments.take(bill("declined", reference="simulate-decline"))
    await shop.payments.take(bill("captured", "999999999999999999.99"))
    await shop.payments.give_back(bill("captured", "999999999999999999.99"))
    await shop.payments.give_back(bill("never-seen"))
    await shop.http.look_up(bill("captured", "999999999999999999.99"))
    requests = shop.reference.rows("SELECT operation, key, idempotency_key, body, status, answer FROM requests")
    where = {operation: (path, method) for operation, path, method in paths()}
    wrong: list[str] = []
    for operation, key, idempotency_key, body, status, answer in requests:
        path, method = where[operation]
        schema = ("content", "application/json", "schema")
        if method != "get":
            assert idempotency_key == f"{key}.{operation}"
            wrong += violations(("paths", path, method, "requestBody", *schema), json.loads(body))
        wrong += violations(("paths", path, method, "responses", str(status), *schema), json.loads(answer))
        wrong += violations(("components", "schemas", "Key"), key)
    assert wrong == []
    assert {operation for operation, *_ in requests} == set(where)
    assert violations(("components", "schemas", "Payment"), {"key": "k", "state": "captured"})
