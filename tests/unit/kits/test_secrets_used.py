"""What looks for secrets in logs finds them."""

import uuid
from pathlib import Path

from tests.kits.processes import DEVELOPMENT_API_KEY
from tests.kits.secrets_used import found_in, note_settings, secret


def test_a_secret_in_a_log_is_found(tmp_path: Path) -> None:
    log, used = tmp_path / "log", secret(uuid.uuid4().hex)
    password, jwt_secret, missing = uuid.uuid4().hex, uuid.uuid4().hex, tmp_path / "none"
    note_settings({"ORDERS_DATABASE_URL": f"mysql://u:{password}@h/x", "ORDERS_JWT_SECRET": jwt_secret})
    log.write_text(f"nothing\n{DEVELOPMENT_API_KEY}\n{uuid.uuid4().hex}\n")
    assert found_in([log, missing]) == []
    for leaked in (used, password, jwt_secret, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3MTIzNCJ9", "$argon2id$v=19"):
        log.write_text(f"nothing\nheader: {leaked}!\n")
        assert found_in([log, missing]) == [f"{log}:2"]
