"""What looks for secrets in logs finds them, wherever they were logged."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.kits.processes import DEVELOPMENT_API_KEY, ROOT
from tests.kits.secrets_used import found_in, hashed, key_of, known_secrets, note_settings, secret


def test_a_secret_in_a_log_is_found(tmp_path: Path) -> None:
    log, used = tmp_path / "log", secret(uuid.uuid4().hex)
    password, jwt_secret, missing = uuid.uuid4().hex, uuid.uuid4().hex, tmp_path / "none"
    note_settings({"ORDERS_DATABASE_URL": f"mysql://u:{password}@h/x", "ORDERS_JWT_SECRET": jwt_secret})
    log.write_text(f"nothing\n{DEVELOPMENT_API_KEY}\n{uuid.uuid4().hex}\n")
    assert found_in([log, missing]) == []
    for leaked in (used, password, jwt_secret, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3MTIzNCJ9", "$argon2id$v=19"):
        log.write_text(f"nothing\nheader: {leaked}!\n")
        assert found_in([log, missing]) == [f"{log}:2"]


def test_what_is_secret_in_settings_is_known() -> None:
    before, inside, deep = uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex
    listed = json.dumps(
        [{"api_key": inside, "name": "a name that is none"}, {"of": {"database_url": f"mysql://u:{deep}@h"}}]
    )
    note_settings({"ORDERS_PAYMENTS__HTTP__CALLBACK_SECRET_BEFORE": before, "ORDERS_ANYTHING": listed})
    assert {before, inside, deep} <= known_secrets()
    assert "a name that is none" not in known_secrets()
    assert key_of("some shop") in known_secrets()
    assert len(hashed(another := uuid.uuid4().hex)) == 64
    assert another in known_secrets()


LEAKS = {
    "what a test prints": "print(SECRET)",
    "what is logged in this process": "logging.getLogger('ours').warning('the key %s', SECRET)",
    "a log file": "run_for_a_while(open('log', 'ab'))",
    "a log file that is removed": "run_for_a_while(open('log', 'ab')); os.remove('log')",
    "what a command prints": "subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, check=True)",
    "what a command prints later": "asyncio.run(command())",
    "nothing": "subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True, check=True)",
}
TEST = """
import asyncio, logging, os, subprocess, sys
from tests.kits.secrets_used import secret

SECRET = secret("a secret of a test")
PROGRAM = "print('line'); print('a secret ' + 'of a test')"

def run_for_a_while(log):
    subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=log).wait()

async def command():
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, stdout=subprocess.PIPE)
    await process.communicate()

def test_it():
    LEAK
"""


@pytest.mark.parametrize(
    ("leak", "processes"), [*((leak, "0") for leak in LEAKS), ("a log file", "2"), ("nothing", "2")]
)
def test_a_run_of_tests_fails_when_something_logs_a_secret(tmp_path: Path, leak: str, processes: str) -> None:
    (tmp_path / "test_leak.py").write_text(TEST.replace("LEAK", LEAKS[leak]))
    (tmp_path / "pytest.ini").write_text("[pytest]")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n", processes),
            *("-p", "xdist", "-p", "tests.kits.secrets_watch", "test_leak.py"),
        ],
        cwd=tmp_path,
        # Loading all plugins that are installed takes longer than the run.
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    is_clean = leak == "nothing"
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert (done.returncode, "secrets in logs" in done.stdout) == (0 if is_clean else 1, not is_clean), done.stdout
    assert "a secret of a test" not in done.stdout
