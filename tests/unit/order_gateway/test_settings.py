"""What the order service refuses to start with, and what it makes of its environment."""

import pytest

from order_gateway.access import DEVELOPMENT_KEY
from order_gateway.http.guards.auth import find_key
from order_gateway.settings import OrdersSettings
from service_kit.settings import InvalidSettings, load_settings
from tests.kits.secrets_used import hashed

SECRET = "a-long-secret"
KEYS = f'[{{"name": "shop", "sha256": "{hashed(SECRET)}"}}]'


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://u:p@127.0.0.1:3306")
    for name in ("ORDERS_DATABASE_URL", "ORDERS_PROFILE", "ORDERS_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORDERS_PAYMENTS__PROVIDER", "external")


def test_development_has_its_key_and_its_own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_PROFILE", "development")
    settings = load_settings(OrdersSettings)
    assert settings.database_url == "mysql://u:p@127.0.0.1:3306/orders"
    found = find_key(settings.api_keys, DEVELOPMENT_KEY)
    assert found is not None
    assert found.name == "development"
    assert find_key(settings.api_keys, "") is None


def test_production_needs_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettings, match="set ORDERS_API_KEYS"):
        load_settings(OrdersSettings)
    monkeypatch.setenv("ORDERS_API_KEYS", KEYS)
    assert find_key(load_settings(OrdersSettings).api_keys, SECRET) is not None


def test_production_refuses_the_development_key(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashed(DEVELOPMENT_KEY)
    monkeypatch.setenv("ORDERS_API_KEYS", f'[{{"name": "shop", "sha256": "{digest}"}}]')
    with pytest.raises(InvalidSettings, match="development key"):
        load_settings(OrdersSettings)


def test_a_database_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("ORDERS_PROFILE", "development")
    with pytest.raises(InvalidSettings, match="ORDERS_DATABASE_URL"):
        load_settings(OrdersSettings)


def test_settings_out_of_bounds_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_PROFILE", "development")
    monkeypatch.setenv("ORDERS_RELAY__POLL_SECONDS", "0")
    monkeypatch.setenv("ORDERS_PAYMENT_WINDOW_SECONDS", "-1")
    monkeypatch.setenv("ORDERS_PAYMENTS__TRIES", "0")
    with pytest.raises(InvalidSettings) as caught:
        load_settings(OrdersSettings)
    assert "ORDERS_RELAY__POLL_SECONDS" in str(caught.value)
    assert "ORDERS_PAYMENT_WINDOW_SECONDS" in str(caught.value)
    assert "ORDERS_PAYMENTS__TRIES" in str(caught.value)


def test_production_does_not_start_without_somebody_who_takes_the_money(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_API_KEYS", KEYS)
    monkeypatch.delenv("ORDERS_PAYMENTS__PROVIDER")
    with pytest.raises(InvalidSettings, match="ORDERS_PAYMENTS__PROVIDER=http"):
        load_settings(OrdersSettings)
    monkeypatch.setenv("ORDERS_PAYMENTS__PROVIDER", "simulator")
    with pytest.raises(InvalidSettings, match="takes no money"):
        load_settings(OrdersSettings)
    monkeypatch.setenv("ORDERS_PAYMENTS__PROVIDER", "http")
    monkeypatch.setenv("ORDERS_PAYMENTS__HTTP__URL", "http://pay.example.com")
    with pytest.raises(InvalidSettings) as caught:
        load_settings(OrdersSettings)
    assert all(name in str(caught.value) for name in ("begin with https", "HTTP__API_KEY", "HTTP__CALLBACK_SECRET"))
    monkeypatch.setenv("ORDERS_PAYMENTS__HTTP__URL", "https://pay.example.com")
    monkeypatch.setenv("ORDERS_PAYMENTS__HTTP__API_KEY", "k")
    monkeypatch.setenv("ORDERS_PAYMENTS__HTTP__CALLBACK_SECRET", "s" * 24)
    assert load_settings(OrdersSettings).payments.provider == "http"


def test_the_default_currency_is_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_API_KEYS", KEYS)
    assert load_settings(OrdersSettings).currency_default == "USD"
    monkeypatch.setenv("ORDERS_CURRENCY_DEFAULT", "euro")
    with pytest.raises(InvalidSettings, match="ORDERS_CURRENCY_DEFAULT"):
        load_settings(OrdersSettings)
