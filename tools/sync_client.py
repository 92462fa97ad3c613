"""Makes the client that blocks from the one that is awaited: `python tools/sync_client.py`, a part of `make format`.

Both have the same calls because one is made from the other. Outside of `running.py`, of which there are two, the
awaited one uses asyncio by nothing but its keywords, so that it is enough to take these away. A test compares.
"""

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[1] / "clients" / "python" / "stockwarden_client"
MODULES = ("calling", "connections", "holds", "stock")
MADE = "# Made from ../{name}.py by tools/sync_client.py. Change that one.\n"
REWRITTEN = (
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"import Awaitable, ", "import "),
    (r"\bgrpc\.aio\.", "grpc."),
    (r"ServiceAsyncStub\b", "ServiceStub"),
    (r"`WarehouseClient`", "`SyncWarehouseClient`"),
    (rf"\bstockwarden_client\.({'|'.join((*MODULES, 'running'))})\b", r"stockwarden_client.sync.\1"),
)


def made(name: str) -> str:
    """The module `name` of the client that blocks, in the house format."""
    text = (CLIENT / f"{name}.py").read_text()
    for pattern, replacement in REWRITTEN:
        text = re.sub(pattern, replacement, text)
    place = str(CLIENT / "sync" / f"{name}.py")
    for command in (["check", "--quiet", "--select", "I", "--fix-only"], ["format", "--quiet"]):
        ruff = [str(Path(sys.executable).parent / "ruff"), *command, "--stdin-filename", place, "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return MADE.format(name=name) + text


if __name__ == "__main__":
    for module in MODULES:
        (CLIENT / "sync" / f"{module}.py").write_text(made(module))
