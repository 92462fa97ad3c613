"""Checks of what comes in: texts, numbers, page tokens, keys, settings."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.settings import InvalidSettings, load_settings
from tests.kits.secrets_used import hashed
from warehouse.auth import ANONYMOUS, ApiKey, Keyring, PermissionDenied, Role, Unauthenticated, must_allow
from warehouse.reading.paging import make_token, page_size, read_token
from warehouse.settings import WarehouseSettings
from warehouse.validation import Checks, InvalidRequest


@pytest.mark.parametrize("value", ["", " a", "a ", "a\n", "\ta", "x" * 65, "a\0b", "a\x7fb", "\u0085", "\u3000a"])
def test_bad_ids_are_refused(value: str) -> None:
    checks = Checks()
    checks.opaque_id("order_id", value)
    with pytest.raises(InvalidRequest, match="order_id"):
        checks.done()


@pytest.mark.parametrize("value", ["a", "a b", "x" * 64, "'; DROP TABLE --", "%s %(a)s", "Ünïcode-✓-😀", '"\\', "0"])
def test_good_ids_are_taken(value: str) -> None:
    checks = Checks()
    assert checks.opaque_id("order_id", value) == value
    checks.done()


def test_all_violations_are_told_at_once() -> None:
    checks = Checks()
    checks.number("quantity", 0, 1, 10)
    checks.count("lines", 0, 100)
    checks.text("reason", "x" * 300, 255)
    with pytest.raises(InvalidRequest) as failure:
        checks.done()
    assert [field for field, _ in failure.value.violations] == ["quantity", "lines", "reason"]


@given(st.lists(st.integers() | st.text(), max_size=3), st.integers(-(2**63), 2**63 - 1), st.text())
def test_a_page_token_comes_back(filters: list[int | str], number: int, text: str) -> None:
    assert read_token(make_token(filters, (number, text)), filters, (int, str)) == (number, text)


@given(st.text(min_size=1))
def test_no_text_is_a_token_by_chance(token: str) -> None:
    with pytest.raises(InvalidRequest, match="page_token"):
        read_token(token, ("a",), (int,))


def test_a_token_belongs_to_its_filters_and_its_listing() -> None:
    token = make_token(("order", 1), (5,))
    for filters, shape in ((("order", 2), (int,)), (("order", 1), (str,)), (("order", 1), (int, int))):
        with pytest.raises(InvalidRequest, match="page_token"):
            read_token(token, filters, shape)


def test_page_sizes_are_bounded() -> None:
    assert (page_size(0, 100), page_size(7, 100)) == (100, 7)
    for wrong in (-1, 1001):
        with pytest.raises(InvalidRequest, match="page_size"):
            page_size(wrong, 100)


def key(name: str, secret: str, role: Role) -> ApiKey:
    """A configured key."""
    return ApiKey(name=name, role=role, sha256=hashed(secret))


def test_keys_allow_what_their_role_includes() -> None:
    keyring = Keyring([key("shop", "s1", Role.ORDER), key("shop", "s2", Role.ORDER), key("boss", "s3", Role.ADMIN)])
    assert [keyring.find(secret)[0] for secret in ("s1", "s2", "s3")] == ["shop", "shop", "boss"]
    for needed in (Role.READER, Role.ORDER):
        must_allow(*keyring.find("s1"), needed)
    must_allow(*keyring.find("s3"), Role.ADMIN)
    with pytest.raises(PermissionDenied, match="role admin; the key 'shop' has the role order") as denied:
        must_allow(*keyring.find("s1"), Role.ADMIN)
    assert denied.value.metadata == {"key": "shop", "role": "order", "needed": "admin"}
    for unknown in (None, "", "s4"):
        with pytest.raises(Unauthenticated):
            keyring.find(unknown)


def test_without_keys_everyone_is_anonymous() -> None:
    assert Keyring([]).find(None) == (ANONYMOUS, Role.ADMIN)


def test_settings_name_everything_that_is_wrong_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORKERS": "0", "LISTEN": "nowhere", "BATCHER__BATCH_SIZE_MAX": "many"}.items():
        monkeypatch.setenv(f"WAREHOUSE_{name}", value)
    with pytest.raises(InvalidSettings) as failure:
        load_settings(WarehouseSettings)
    for name in ("WAREHOUSE_WORKERS", "WAREHOUSE_LISTEN", "WAREHOUSE_BATCHER__BATCH_SIZE_MAX"):
        assert name in str(failure.value)


def test_settings_need_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("WAREHOUSE_DATABASE_URL", raising=False)
    with pytest.raises(InvalidSettings, match="WAREHOUSE_DATABASE_URL"):
        load_settings(WarehouseSettings)
    monkeypatch.setenv("DATABASE_URL", "mysql://root@127.0.0.1:3306")
    assert load_settings(WarehouseSettings).database_url.endswith("3306/warehouse")


def test_tls_files_go_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WAREHOUSE_DATABASE_URL", "mysql://root@127.0.0.1:3306/warehouse")
    monkeypatch.setenv("WAREHOUSE_TLS_CERTIFICATE", str(tmp_path / "certificate.pem"))
    with pytest.raises(InvalidSettings, match="WAREHOUSE_TLS_KEY"):
        load_settings(WarehouseSettings)
