"""What is logged of a path: enough to find a client's mistake, and no secret that was put into it by mistake."""

import pytest

from order_gateway.http.observing import SEGMENT_LENGTH_MAX, loggable

LONGEST_ID = str(2**63 - 1)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/api/v1/oders",
        f"/api/v1/orders/{LONGEST_ID}/reservations",
        "/api/v1/inventory/check-availability",
        f"/api/v1/inventory/{LONGEST_ID}/{LONGEST_ID}",
    ],
)
def test_routes_ids_and_misspelled_routes_are_logged(path: str) -> None:
    assert loggable(path) == path


@pytest.mark.parametrize("secret", ["k" * 22, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI4In0.dar3_dCvkj4q8S2lCq1OQvI"])
def test_a_secret_in_a_path_is_not(secret: str) -> None:
    known = f"<{len(secret)} characters>"
    assert loggable(f"/api/v1/orders/{secret}") == f"/api/v1/orders/{known}"
    assert loggable(f"/api/v1{secret}/pay") == f"/api/<{len(secret) + 2} characters>/pay"
    assert loggable(secret) == known
    assert len(secret) > SEGMENT_LENGTH_MAX
