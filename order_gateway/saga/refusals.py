"""PURE: refusals as they are kept with their orders."""

from order_gateway.gateway.port import Refusal


def refusal_record(refusal: Refusal) -> dict[str, object]:
    """A refusal as it is kept with its order."""
    return {
        "code": refusal.code,
        "message": refusal.message,
        "details": [{name: _plain(value) for name, value in item.items()} for item in refusal.details],
    }


def _plain(value: object) -> object:
    return value if isinstance(value, int | None) else str(value)
