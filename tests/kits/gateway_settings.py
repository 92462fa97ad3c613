"""Settings of an order gateway, for tests of its parts that start no process."""

from typing import Any

from order_gateway.settings import OrdersSettings
from tests.kits.secrets_used import hashed

SECRET = "s" * 32
KEY = "a-long-secret"


def entry(key: str = KEY, name: str = "shop", roles: tuple[str, ...] = ("service",)) -> dict[str, Any]:
    return {"name": name, "sha256": hashed(key), "roles": list(roles)}


def settings(**changes: Any) -> OrdersSettings:
    return OrdersSettings.model_validate(
        {
            "database_url": "mysql://u:p@127.0.0.1/x",
            "api_keys": [entry()],
            "payments": {"provider": "external"},
            **changes,
        }
    )
