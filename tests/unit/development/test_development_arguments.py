"""What `make audit ARGS=...` hands on to which service."""

from development.runner import _without_option


def test_the_warehouse_is_not_asked_for_orders_since() -> None:
    assert _without_option(["--repair", "--since", "2026-11-25", "--dry-run"], "--since") == ["--repair", "--dry-run"]
    assert _without_option(["--since=2026-11-25", "--repair"], "--since") == ["--repair"]
    assert _without_option(["--since"], "--since") == []
