"""What is refused of an environment: unknown names, unknown parts, what is not safe; all at once, each in a line."""

import json
from collections.abc import Mapping

import pytest

from order_gateway.settings import OrdersSettings
from service_kit.settings import (
    InvalidSettings,
    ServiceSettings,
    is_loopback,
    known_names,
    load_settings,
    nested_models,
)
from tests.kits.secrets_used import hashed
from warehouse.settings import WarehouseSettings

URL = "mysql://u:p@127.0.0.1:3306/shop"
SERVICES: tuple[type[ServiceSettings], ...] = (WarehouseSettings, OrdersSettings)
INSECURE = "yes-on-a-private-network"
Environment = pytest.MonkeyPatch


def key(secret: str) -> str:
    digest = hashed(secret)
    return json.dumps([{"name": "shop", "role": "order", "sha256": digest}])


def problems(
    kind: type[ServiceSettings], environment: Environment, given: Mapping[str, str], *, to_serve: bool = True
) -> list[str]:
    """The lines about an environment that has only these variables of ours."""
    with environment.context() as patched:
        for name in known_names(kind):
            patched.delenv(name, raising=False)
        prefix = str(kind.model_config["env_prefix"])
        for name, value in {f"{prefix}DATABASE_URL": URL, "ORDERS_PROFILE": "development", **given}.items():
            patched.setenv(name, value)
        try:
            load_settings(kind, to_serve=to_serve)
        except InvalidSettings as error:
            return [line.strip() for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WAREHOUSE_API_KEY", "WAREHOUSE_API_KEYS"),
        ("WAREHOUSE_WORKER", "WAREHOUSE_WORKERS"),
        ("warehouse_worker", "WAREHOUSE_WORKERS"),
        ("WAREHOUSE_BATCHER__BATCH_SIZE", "WAREHOUSE_BATCHER__BATCH_SIZE_MAX"),
        ("WAREHOUSE_BATCHER_BATCH_SIZE_MAX", "WAREHOUSE_BATCHER__BATCH_SIZE_MAX"),
        ("WAREHOUSE_DATABASE__POOLSIZE", "WAREHOUSE_DATABASE__POOL_SIZE"),
        ("WAREHOUSE_TLS_CERT", "WAREHOUSE_TLS_CERTIFICATE"),
    ],
)
def test_a_misspelled_name_is_refused_with_the_nearest_known_one(
    monkeypatch: Environment, name: str, meant: str
) -> None:
    expected = [f"{name.upper()}: there is no such setting; did you mean {meant}?"]
    assert problems(WarehouseSettings, monkeypatch, {name: "1"}) == expected
    assert problems(WarehouseSettings, monkeypatch, {name: "1"}, to_serve=False) == expected


def test_the_names_of_the_order_gateway_too(monkeypatch: Environment) -> None:
    given = {"ORDERS_RELAY__POL_SECONDS": "1", "ORDERS_WAREHOUSE__TARGETS": "x", "ORDERS_GATEWAY_MODE": "auto"}
    lines = problems(OrdersSettings, monkeypatch, given)
    assert [line.partition(":")[0] for line in lines] == list(given)
    assert "did you mean ORDERS_RELAY__POLL_SECONDS?" in lines[0]
    assert "ORDERS_WAREHOUSE__TARGET?" in lines[1]


def test_parts_written_as_json_are_read_as_strictly(monkeypatch: Environment) -> None:
    lines = problems(OrdersSettings, monkeypatch, {"ORDERS_RELAY": '{"pol_seconds": 1}'})
    assert lines == ["ORDERS_RELAY__POL_SECONDS: there is no such setting; did you mean ORDERS_RELAY__POLL_SECONDS?"]
    lines = problems(WarehouseSettings, monkeypatch, {"WAREHOUSE_API_KEYS": key("s").replace("role", "roles")})
    assert lines == [
        "WAREHOUSE_API_KEYS[0].role: Field required",
        "WAREHOUSE_API_KEYS[0].roles: there is no such setting",
    ]
    lines = problems(
        WarehouseSettings, monkeypatch, {"WAREHOUSE_API_KEYS": "", "WAREHOUSE_BATCHER": "{", "WAREHOUSE_WORKERS": "0"}
    )
    assert sorted(lines) == [
        "WAREHOUSE_API_KEYS: must be JSON",
        "WAREHOUSE_BATCHER: must be JSON",
        "WAREHOUSE_WORKERS: Input should be greater than or equal to 1",
    ]


def test_what_both_services_are_told_and_what_kubernetes_tells_is_nobodys_mistake(monkeypatch: Environment) -> None:
    given = {
        "WAREHOUSE_GATEWAY": "auto",
        "WAREHOUSE_SERVICE_HOST": "10.0.0.1",
        "WAREHOUSE_SERVICE_PORT_GRPC": "50051",
        "WAREHOUSE_PORT": "tcp://10.0.0.1:50051",
        "WAREHOUSE_PORT_50051_TCP_ADDR": "10.0.0.1",
        "WAREHOUSE_DB_SERVICE_HOST": "10.0.0.2",
    }
    assert problems(WarehouseSettings, monkeypatch, given) == []
    [line] = problems(WarehouseSettings, monkeypatch, {"WAREHOUSE_PORT": "50051"})
    assert line.startswith("WAREHOUSE_PORT: there is no such setting")


@pytest.mark.parametrize("kind", SERVICES)
def test_no_part_of_the_settings_takes_unknown_fields(kind: type[ServiceSettings]) -> None:
    models = nested_models(kind)
    assert len(models) >= 4
    assert [model.__name__ for model in models if model.model_config.get("extra") != "forbid"] == []


def test_the_warehouse_knows_the_names_with_its_prefix_that_are_the_order_gateways() -> None:
    assert {name for name in known_names(OrdersSettings) if name.startswith("WAREHOUSE_")} == (
        WarehouseSettings.others_names
    )


def test_every_reason_is_told_at_once(monkeypatch: Environment) -> None:
    lines = problems(
        WarehouseSettings,
        monkeypatch,
        {
            "WAREHOUSE_API_KEY": "x",
            "WAREHOUSE_LISTEN": "0.0.0.0:50051",
            "WAREHOUSE_WORKERS": "many",
            "WAREHOUSE_TLS_CERTIFICATE": "/nowhere/server.pem",
            "WAREHOUSE_TLS_KEY": "/nowhere/server.key",
            "WAREHOUSE_TLS_CLIENT_CA": "/nowhere/ca.pem",
            "WAREHOUSE_DATABASE__POOL_SIZE": "2",
        },
    )
    assert [line.partition(":")[0] for line in lines] == [
        "WAREHOUSE_API_KEY",
        "WAREHOUSE_WORKERS",
        "WAREHOUSE_API_KEYS",
        "WAREHOUSE_TLS_CERTIFICATE",
        "WAREHOUSE_TLS_KEY",
        "WAREHOUSE_TLS_CLIENT_CA",
        "WAREHOUSE_DATABASE__POOL_SIZE",
    ]


def test_a_warehouse_without_keys_is_for_this_machine_or_said_on_purpose(monkeypatch: Environment) -> None:
    open_to_all = {"WAREHOUSE_LISTEN": "0.0.0.0:50051"}
    [line] = problems(WarehouseSettings, monkeypatch, open_to_all)
    assert "everybody who reaches 0.0.0.0:50051 (WAREHOUSE_LISTEN) is an admin" in line
    assert f"WAREHOUSE_ALLOW_INSECURE={INSECURE}" in line
    assert problems(WarehouseSettings, monkeypatch, open_to_all, to_serve=False) == []
    assert problems(WarehouseSettings, monkeypatch, open_to_all | {"WAREHOUSE_ALLOW_INSECURE": INSECURE}) == []
    assert problems(WarehouseSettings, monkeypatch, open_to_all | {"WAREHOUSE_API_KEYS": key("secret")}) == []
    [line] = problems(WarehouseSettings, monkeypatch, open_to_all | {"WAREHOUSE_ALLOW_INSECURE": "yes"})
    assert line.startswith("WAREHOUSE_ALLOW_INSECURE")
    for known in ("", "order-service-api-key"):
        [line] = problems(WarehouseSettings, monkeypatch, {"WAREHOUSE_API_KEYS": key(known)})
        assert "everybody knows the key of 'shop'" in line


@pytest.mark.parametrize(
    ("listen", "local"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("localhost:1", True), ("[::1]:1", True), ("[::]:1", False)]
    + [(f"{host}:1", False) for host in ("0.0.0.0", "10.0.0.1", "127.0.0.1.example.com", "localhost.example.com", "")],
)
def test_only_this_machine_reaches_a_loopback_address(listen: str, local: bool) -> None:
    assert is_loopback(listen) is local


def test_a_url_that_is_wrong_does_not_hide_what_else_is(monkeypatch: Environment) -> None:
    given = {"WAREHOUSE_DATABASE_URL": "mysql://u:p@h/shop?ssl=on", "WAREHOUSE_LISTEN": "0.0.0.0:1"}
    lines = problems(WarehouseSettings, monkeypatch, given)
    assert [line.partition(":")[0] for line in lines] == ["WAREHOUSE_DATABASE_URL", "WAREHOUSE_API_KEYS"]
    given = {"ORDERS_DATABASE_URL": "mysql://u:p@h/shop?ssl=on", "ORDERS_PROFILE": "production", "ORDERS_GATEWAY": "no"}
    lines = problems(OrdersSettings, monkeypatch, given)
    assert [line.partition(":")[0] for line in lines[:2]] == ["ORDERS_DATABASE_URL", "ORDERS_GATEWAY"]
    assert any(line.startswith("set ORDERS_API_KEYS") for line in lines[2:])
