"""What stands before the handlers: keys, tokens, limits, the shapes of values; and settings that are refused."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from aiohttp.typedefs import Handler, Middleware
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from order_gateway.access import DEVELOPMENT_JWT_SECRET, DEVELOPMENT_KEY, DEVELOPMENT_USERS, ApiKey
from order_gateway.http.app import entrance_middleware
from order_gateway.http.bodies import OrderBody, ReserveBody
from order_gateway.http.framework.openapi import _NAME_OF_STATUS
from order_gateway.http.guards import slots as slots_module
from order_gateway.http.guards.auth import Access, Caller
from order_gateway.http.guards.cors import cors_headers
from order_gateway.http.guards.keys import Keyring
from order_gateway.http.guards.reloading import reload_on_change
from order_gateway.http.guards.slots import TIME_LIMIT, Slots, slots_middleware
from order_gateway.http.guards.tokens import Person, Tokens
from order_gateway.http.login import LoginRoutes
from order_gateway.http.wire.errors import STATUS, ApiError, encode, error_middleware, too_often
from order_gateway.http.wire.fields import From, Id, Instant, Money, OrderReference, Until, UserId
from order_gateway.http.wire.strict_json import decode
from order_gateway.lifecycle import NewItem, NewOrder
from order_gateway.settings import OrdersSettings
from service_kit.attempt_limit import AttemptLimit
from service_kit.deadlines import Deadlines
from service_kit.rates import RateLimit, TooOften
from service_kit.reloadable_files import ReloadableFiles
from tests.kits.gateway_settings import KEY, SECRET, entry, settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"api_keys": [entry(DEVELOPMENT_KEY)]}, "development key"),
        ({"jwt_secret": DEVELOPMENT_JWT_SECRET}, "JWT_SECRET is the one of the development profile"),
        ({"jwt_secret": "short"}, "too short"),
        ({"jwt_secret": SECRET, "users": [DEVELOPMENT_USERS[0].model_dump()]}, "password of the development profile"),
        ({"users": [{"name": "x", "user_id": "x", "password_hash": "$argon2id$"}]}, "ORDERS_JWT_SECRET"),
        ({"api_keys": []}, "set ORDERS_API_KEYS"),
        ({"api_keys": [entry("")]}, "an empty key, which lets everybody in"),
        ({"profile": "development", "api_keys": [entry("")]}, "an empty key, which lets everybody in"),
        ({"api_keys_file": "/nowhere/keys.json"}, "/nowhere/keys.json can't be used: No such file"),
        ({"jwt_jwks_file": "/nowhere/jwks.json"}, "/nowhere/jwks.json can't be used: No such file"),
        ({"profile": "development", "listen": "0.0.0.0:3000"}, "ORDERS_ALLOW_INSECURE=yes-on-a-private-network"),
        ({"database": {"pool_size": 3}}, "take 4 or more"),
        ({"warehouse": {"tls_ca": "/nowhere/ca.pem"}}, "ORDERS_WAREHOUSE__TLS_CA: /nowhere/ca.pem can't be read"),
        ({"warehouse": {"target": "other:1"}}, "set ORDERS_WAREHOUSE_TARGET"),
    ],
)
def test_unsafe_settings_are_refused(given: dict[str, Any], message: str) -> None:
    reasons = settings(**given).reasons_not_to_serve()
    assert [message in reason for reason in reasons] == [True]


def test_a_keys_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps([entry("first", "one")]))
    keyring = Keyring(settings(api_keys_file=path))
    assert keyring.file is not None
    assert [bool(keyring.find(key)) for key in (KEY, "first", "second", "")] == [True, True, False, False]
    path.write_text(json.dumps([entry("second", "two")]))
    keyring.file.reload()
    assert [bool(keyring.find(key)) for key in (KEY, "first", "second")] == [True, False, True]
    for unusable in ("{", "[{}]", json.dumps([entry(DEVELOPMENT_KEY, "dev")]), json.dumps([entry("")])):
        path.write_text(unusable)
        keyring.file.reload()
        assert keyring.find("second")
        assert not keyring.find(DEVELOPMENT_KEY)
        assert not keyring.find("")
    path.unlink()
    keyring.file.reload()
    assert keyring.find("second")


@pytest.mark.parametrize(
    ("configured", "in_file"),
    [
        ([entry(), entry(name="other")], []),
        ([], [entry(), entry(name="other")]),
        ([entry()], [entry(name="other")]),
        ([entry()], [entry(roles=("admin",), name="other")]),
    ],
    ids=["in the settings", "in the file", "in both", "with other roles"],
)
def test_a_key_that_is_there_twice_is_refused(
    tmp_path: Path, configured: list[dict[str, Any]], in_file: list[dict[str, Any]]
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(in_file))
    [reason] = settings(api_keys=configured, api_keys_file=path).reasons_not_to_serve()
    assert "the same sha256 twice, as 'shop' and 'other'" in reason


def test_a_keys_file_with_a_key_twice_or_without_roles_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps([entry("first", "one")]))
    keyring = Keyring(settings(api_keys_file=path))
    assert keyring.file is not None
    second = entry("second", "two")
    for unusable in (
        [second, {**second, "name": "three"}],
        [second, entry(name="other")],
        [second, entry("third", "three", roles=())],
    ):
        path.write_text(json.dumps(unusable))
        assert not keyring.file.reload()
        assert [bool(keyring.find(key)) for key in (KEY, "first", "second", "third")] == [True, True, False, False]


def test_a_key_without_roles_is_refused(tmp_path: Path) -> None:
    """Otherwise it would be for somebody to guess whether none are meant, or those that there are by default."""
    with pytest.raises(ValidationError, match="roles"):
        settings(api_keys=[entry(roles=())])
    path = tmp_path / "keys.json"
    path.write_text(json.dumps([entry(), entry("other", "other", roles=())]))
    [reason] = settings(api_keys=[], api_keys_file=path).reasons_not_to_serve()
    assert f"{path} can't be used" in reason
    with pytest.raises(ValueError, match="can't be used"):
        Keyring(settings(api_keys_file=path))


async def test_a_keys_file_is_read_again_at_a_sighup(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    await asyncio.to_thread(path.write_text, json.dumps([entry("first", "one")]))
    keyring = Keyring(settings(api_keys_file=path))
    assert keyring.file is not None
    app = web.Application()
    app.cleanup_ctx.append(reload_on_change([keyring.file], 3600))
    async with TestServer(app), asyncio.timeout(10):
        await asyncio.to_thread(path.write_text, json.dumps([entry("second", "two")]))
        os.kill(os.getpid(), signal.SIGHUP)
        while not keyring.find("second"):  # noqa: ASYNC110 - the signal is handled in the loop's own time
            await asyncio.sleep(0)


def key_pair(key_id: str) -> tuple[ec.EllipticCurvePrivateKey, dict[str, str]]:
    private = ec.generate_private_key(ec.SECP256R1())
    return private, {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private.public_key())), "kid": key_id}


def test_a_jwk_set_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    (old, old_public), (new, new_public) = key_pair("old"), key_pair("new")
    path.write_text(json.dumps({"keys": [old_public]}))
    tokens = Tokens(settings(jwt_jwks_file=path))
    assert tokens.file is not None
    claims = {"sub": "7", "iss": "order-service", "aud": "order-service", "exp": time.time() + 60}

    def is_believed(key: ec.EllipticCurvePrivateKey, key_id: str) -> bool:
        try:
            return tokens.read(f"Bearer {jwt.encode(claims, key, 'ES256', {'kid': key_id})}") == Person("7", "customer")
        except ApiError:
            return False

    assert (is_believed(old, "old"), is_believed(new, "new")) == (True, False)
    path.write_text(json.dumps({"keys": [new_public]}))
    assert tokens.file.reload()
    assert (is_believed(old, "old"), is_believed(new, "new")) == (False, True)
    for unusable in ("{", '{"keys": []}', json.dumps({"keys": [{**old_public, "kid": ""}]})):
        path.write_text(unusable)
        assert not tokens.file.reload()
        assert is_believed(new, "new")


def test_a_change_that_leaves_size_and_time_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"one")
    before = path.stat()
    files = ReloadableFiles("keys", [path], lambda contents: contents[0])
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files.reload()
    assert not files.reload()
    assert files.content == b"two"
    path.unlink()
    assert not files.reload()
    assert files.content == b"two"
    path.write_bytes(b"three")
    assert files.reload()


async def test_a_token_tells_who_its_user_is() -> None:
    development = OrdersSettings.model_validate({"database_url": "mysql://u@h/x", "profile": "development"})
    tokens = Tokens(development)
    user = await tokens.log_in("admin", "admin")
    assert tokens.read(f"Bearer {tokens.issue(user)}") == Person("admin", "admin")
    for name, password in (("admin", "customer"), ("nobody", "admin")):
        with pytest.raises(ApiError, match="wrong"):
            await tokens.log_in(name, password)


def test_without_users_no_tokens_are_issued() -> None:
    assert not Tokens(settings(jwt_secret=SECRET)).are_issued


def test_the_person_counts_not_the_key() -> None:
    admin_key = ApiKey.model_validate(entry(roles=("service", "admin")))
    customer = Caller(admin_key, Person("7", "customer"))
    assert Caller(admin_key).is_admin
    assert not customer.is_admin
    assert customer.only_user == "7"
    assert customer.actor == "shop/7"
    customer.must_be("7")
    with pytest.raises(ApiError, match="only their own"):
        customer.must_be("8")
    for access in (Access.SERVICE, Access.ADMIN):
        with pytest.raises(ApiError) as caught:
            customer.must_have(access)
        assert STATUS[caught.value.code] == 403
    assert Caller(ApiKey.model_validate(entry()), Person("1", "admin")).is_admin


def test_a_name_may_come_so_often_and_no_more() -> None:
    limit = RateLimit(3, 60)
    assert not limit.may_be_full
    for _ in range(3):
        limit.count("a")
    assert limit.may_be_full
    with pytest.raises(TooOften) as caught:
        limit.count("a")
    refused = too_often(caught.value)
    assert refused.headers == {"Retry-After": "20"}
    assert STATUS[refused.code] == 429
    limit.count("b")


def test_a_rate_below_one_is_kept_too() -> None:
    limit = RateLimit(0.5, 1)
    limit.count("a")
    with pytest.raises(TooOften) as caught:
        limit.count("a")
    assert too_often(caught.value).headers == {"Retry-After": "2"}


def load_middleware(in_flight_max: int, seconds_max: float) -> Middleware:
    slots = Slots(settings(open_requests_in_flight_max=in_flight_max, address_share_max=1))
    slots.deadlines = Deadlines(seconds_max)
    return slots_middleware(slots)


@asynccontextmanager
async def served(guard: Middleware, handler: Handler) -> AsyncIterator["TestClient[Any, Any]"]:
    app = web.Application(middlewares=[error_middleware, guard])
    app.router.add_get("/", handler)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_too_many_at_once_are_refused_at_once() -> None:
    go_on, inside = asyncio.Event(), asyncio.Semaphore(0)

    async def handler(_request: web.Request) -> web.Response:
        inside.release()
        await go_on.wait()
        return web.Response()

    async with served(load_middleware(2, 60), handler) as client:
        waiting = [asyncio.create_task(client.get("/")) for _ in range(2)]
        for _ in waiting:
            await inside.acquire()
        async with client.get("/") as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "1"
        go_on.set()
        assert [(await answer).status for answer in waiting] == [200, 200]
        async with client.get("/") as response:
            assert response.status == 200


async def test_what_takes_too_long_ends() -> None:
    async def handler(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with served(load_middleware(2, 0.05), handler) as client, client.get("/") as response:
        assert response.status == 504
        assert (await response.json())["error"]["code"] == "DEADLINE_EXCEEDED"


async def test_a_stream_may_take_longer() -> None:
    async def handler(request: web.Request) -> web.Response:
        request[TIME_LIMIT].lift()
        await asyncio.sleep(0.1)
        return web.Response()

    async with served(load_middleware(2, 0.05), handler) as client, client.get("/") as response:
        assert response.status == 200


async def test_a_timeout_inside_is_not_taken_for_the_limit() -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise TimeoutError

    async with served(load_middleware(2, 60), handler) as client, client.get("/") as response:
        assert response.status == 500


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Id, [1, Decimal("2.0"), 2**63 - 1], [0, True, "1", Decimal("1.5"), 2**63, Decimal("1e400"), None]),
        (Money, [0, "19.99", Decimal("1E+2")], [-1, "x", "NaN", Decimal("0.001"), "1e99999", 1.5, True, "Infinity"]),
        (UserId, [7, "anna", "ünal", Decimal("7.0")], ["", " a", "a ", 0, True, "x" * 65, "a\n", None, 2**63]),
        (OrderReference, [7, "web-7"], ["", " a", "ü", 0, "x" * 65, "a\n", None]),
        (
            Instant,
            ["2026-11-20T12:00:00Z", "2026-11-20t12:00:00.123456789+01:00"],
            ["2026-11-20", "2026-11-20T12:00:00", "2026-13-20T12:00:00Z", "0001-01-01T00:00:00+23:59", 5, None],
        ),
        (From, ["2026-11-20", "2026-11-20T12:00:00Z"], ["yesterday", "2026-02-30", "20261120"]),
    ],
)
def test_values(kind: Any, good: list[Any], bad: list[Any]) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    for value in good:
        adapter.validate_python(value, strict=True)
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value, strict=True)


def test_a_day_at_the_end_is_meant_whole() -> None:
    day = "2026-11-20"
    ends, begins = TypeAdapter(Until).validate_python(day), TypeAdapter(From).validate_python(day)
    assert (ends - begins).days == 1


def test_items_have_two_names_and_one_meaning() -> None:
    line = {"product_id": 1, "warehouse_id": 1, "quantity": 1}
    common = {"order_id": 1, "reserve_until": "2026-11-20T12:00:00Z"}
    for name in ("items", "order_items"):
        assert len(ReserveBody.model_validate({**common, name: [line]}).lines) == 1
    several: list[dict[str, Any]] = [{}, {"items": [line], "order_items": [line]}, {"items": []}]
    for wrong in several:
        with pytest.raises(ValidationError):
            ReserveBody.model_validate({**common, **wrong})


def test_every_status_is_described() -> None:
    assert set(STATUS.values()) - {405, 500} <= set(_NAME_OF_STATUS)


@given(
    st.lists(st.tuples(st.integers(0, 10**12 - 1), st.integers(1, 1_000_000)), min_size=1, max_size=100), st.booleans()
)
def test_no_cent_is_lost_between_the_wire_and_the_total(lines: list[tuple[int, int]], as_text: bool) -> None:
    prices = [f"{cents // 100}.{cents % 100:02}" for cents, _ in lines]
    items_sent = [
        {"product_id": 1, "warehouse_id": 1, "quantity": quantity, "unit_price": position}
        for position, (_, quantity) in enumerate(lines)
    ]
    sent = json.dumps({"user_id": 1, "shipping_address": "x", "payment_method": "card", "items": items_sent})
    for position, price in enumerate(prices):
        sent = sent.replace(f'"unit_price": {position}}}', f'"unit_price": {json.dumps(price) if as_text else price}}}')
    body = OrderBody.model_validate(decode(sent))
    items = tuple(NewItem(item.product_id, 1, item.quantity, item.unit_price or Decimal(0)) for item in body.items)
    order = NewOrder("1", "x", "card", items, "c", "test")
    assert order.total_amount * 100 == sum(cents * quantity for cents, quantity in lines)
    assert json.loads(encode(order.total_amount), parse_float=Decimal) == order.total_amount


@pytest.mark.parametrize(("trusted", "is_late"), [([], True), (["127.0.0.0/8"], False)])
async def test_a_refusal_is_held_back_only_on_the_clients_own_connection(
    monkeypatch: pytest.MonkeyPatch, trusted: list[str], is_late: bool
) -> None:
    """One that a proxy needs for others, too, is free again at once."""
    monkeypatch.setattr(slots_module, "REFUSAL_SECONDS", (3600, 3600))
    slots = Slots(settings(open_requests_per_second_max=1, trusted_proxies=trusted))

    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[entrance_middleware(slots)])
    app.add_routes([web.get("/health", health)])
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/health")).status == 200
        second = asyncio.create_task(client.get("/health"))
        done, _ = await asyncio.wait([second], timeout=0.2 if is_late else 10)
        assert bool(done) is not is_late
        if done:
            assert (await second).status == 429
        else:
            second.cancel()
            await asyncio.wait([second])


@pytest.mark.parametrize(("origin", "allowed"), [("https://shop.example", True), ("https://sh\u00f6p.example", False)])
def test_an_origin_that_is_no_text_is_not_sent_back(origin: str, allowed: bool) -> None:
    headers = cors_headers(make_mocked_request("GET", "/", headers={"Origin": origin}), ["*"])
    assert ("Access-Control-Allow-Origin" in headers) == allowed
    assert headers["Vary"] == "Origin"


async def test_attempts_to_log_in_are_counted_by_client_and_not_by_proxy() -> None:
    """One customer who tries passwords does not lock out the others, nor gets further by making up addresses."""

    async def attempts(trusted: list[str], *forwarded: str) -> list[int]:
        made = settings(
            jwt_secret=SECRET,
            users=[{"name": "x", "user_id": "x", "password_hash": DEVELOPMENT_USERS[0].password_hash[:-1] + "x"}],
            logins_per_minute_max=1,
            trusted_proxies=trusted,
        )
        routes = LoginRoutes(Tokens(made), RateLimit(1, 60), AttemptLimit(60), 60, "", made.trusted_proxies)
        [operation] = routes.operations()
        app = web.Application(middlewares=[error_middleware])
        app.add_routes([operation.route()])
        body = {"username": "nobody", "password": "x"}
        async with TestClient(TestServer(app)) as client:
            found = []
            for address in forwarded:
                headers = {"X-Forwarded-For": address}
                async with client.post("/auth/token", json=body, headers=headers) as response:
                    found.append(response.status)
            return found

    assert await attempts(["127.0.0.0/8"], "203.0.113.5", "203.0.113.5", "203.0.113.6") == [401, 429, 401]
    spoofed = ("198.51.100.1, 203.0.113.5", "198.51.100.2, 203.0.113.5", "203.0.113.6, 127.0.0.1")
    assert await attempts(["127.0.0.0/8"], *spoofed) == [401, 429, 401]
    # Nobody is trusted unless it is said: what comes in the header is the client's own.
    assert await attempts([], "203.0.113.5", "203.0.113.6", "203.0.113.7") == [401, 429, 429]
