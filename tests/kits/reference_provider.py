"""A payment provider that keeps the contract, as a process of its own, and behaves as badly as it is told to.

    python -m tests.kits.reference_provider --port 4000 --state FILE.sqlite --key KEY --callback-url URL --secret SECRET

What it has answered for is on disk before it answers, so it may be killed at any moment. `POST /control` takes
{"script": [{"operation": ..., "fault": ...}]}: each entry is for the next call of that operation (`callback`, too);
with "forget": true its books are empty again.
With --chaos SEED it draws its own faults.
"""

import argparse
import asyncio
import json
import random
import sqlite3
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from order_gateway.payments.signing import sign

SLOW_SECONDS = 2.0
SETTLE_SECONDS = 0.3
CALLBACK_PAUSE_SECONDS = 0.2
CHAOS = {
    "lose_request": 0.06,
    "lose_answer": 0.08,
    "slow": 0.03,
    "double": 0.06,
    "unavailable": 0.04,
    "garbage": 0.02,
    "pending": 0.12,
    "early_callback": 0.06,
    "decline": 0.08,
}
CALLBACK_CHAOS = {"wrong_signature": 0.15, "replay": 0.3, "lose_request": 0.1, "late": 0.2}
TABLES = """
CREATE TABLE IF NOT EXISTS payments (
  key TEXT PRIMARY KEY, order_id TEXT, state TEXT NOT NULL, amount TEXT, currency TEXT, content TEXT, settle_at REAL,
  outcome TEXT
);
CREATE TABLE IF NOT EXISTS moves (key TEXT, kind TEXT, amount TEXT, currency TEXT);
CREATE TABLE IF NOT EXISTS requests (
  operation TEXT, key TEXT, idempotency_key TEXT, body TEXT, status INTEGER, answer TEXT
);
CREATE TABLE IF NOT EXISTS callbacks (id TEXT PRIMARY KEY, order_id TEXT, body TEXT, done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS heard (id TEXT, fault TEXT, status INTEGER, answer TEXT);
"""


class Books:
    """The provider's memory."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + TABLES)

    def run(self, statement: str, *values: object) -> list[sqlite3.Row]:
        return self._connection.execute(statement, values).fetchall()

    def payment(self, key: str) -> dict[str, Any] | None:
        rows = self.run("SELECT * FROM payments WHERE key = ?", key)
        return dict(rows[0]) if rows else None

    def do(self, operation: str, key: str, body: dict[str, Any], fault: str) -> tuple[int, dict[str, Any] | None]:
        """One operation in one transaction: the status of the answer, and the payment."""
        self.run("BEGIN IMMEDIATE")
        try:
            status = _OPERATIONS[operation](self, key, body, fault)
        except BaseException:
            self.run("ROLLBACK")
            raise
        self.run("COMMIT")
        return status, self.payment(key)

    def authorise(self, key: str, body: dict[str, Any], fault: str) -> int:
        content = json.dumps(body, sort_keys=True)
        known = self.payment(key)
        if known is not None:
            return 200 if known["content"] == content else 409
        is_declined = fault == "decline" or body["reference"] == "simulate-decline"
        outcome = "declined" if is_declined else "authorised"
        is_late = fault in ("pending", "early_callback")
        self.run(
            "INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(key, body["order_id"], "pending" if is_late else outcome, body["amount"], body["currency"], content),
            *((time.time() + SETTLE_SECONDS, outcome) if is_late else (None, None)),
        )
        return 200

    def capture(self, key: str, body: dict[str, Any], fault: str) -> int:
        return self._move(key, body, fault, "authorised", "capturing", "captured")

    def refund(self, key: str, body: dict[str, Any], fault: str) -> int:
        return self._move(key, body, fault, "captured", "refunding", "refunded")

    def void(self, key: str, _body: dict[str, Any], _fault: str) -> int:
        known = self.payment(key)
        if known is None:
            self.run("INSERT INTO payments (key, state) VALUES (?, 'voided')", key)
        elif known["state"] in ("pending", "authorised"):
            self.run("UPDATE payments SET state = 'voided', settle_at = NULL WHERE key = ?", key)
        elif known["state"] not in ("voided", "declined"):
            return 409
        return 200

    def look_up(self, key: str, _body: dict[str, Any], _fault: str) -> int:
        return 404 if self.payment(key) is None else 200

    def settle(self, key: str | None = None) -> None:
        """Decide what waits long enough, or is named, and write down the callback."""
        due = (
            self.run("SELECT * FROM payments WHERE settle_at <= ?", time.time())
            if key is None
            else self.run("SELECT * FROM payments WHERE key = ? AND settle_at IS NOT NULL", key)
        )
        for payment in due:
            self.run("BEGIN IMMEDIATE")
            self._become(payment["key"], payment["outcome"])
            body = json.dumps(
                {"type": "payment.updated", "data": {"order_id": payment["order_id"], "state": payment["outcome"]}}
            )
            self.run(
                "INSERT INTO callbacks (id, order_id, body) VALUES (?, ?, ?)",
                *(f"msg-{uuid.uuid4().hex}", payment["order_id"], body),
            )
            self.run("COMMIT")

    def _move(self, key: str, body: dict[str, Any], fault: str, before: str, meanwhile: str, after: str) -> int:
        known = self.payment(key)
        if known is None:
            return 404
        if known["state"] in (meanwhile, after):
            return 200
        if known["state"] != before or (known["amount"], known["currency"]) != (body["amount"], body["currency"]):
            return 409
        if fault == "pending":
            self.run(
                "UPDATE payments SET state = ?, settle_at = ?, outcome = ? WHERE key = ?",
                *(meanwhile, time.time() + SETTLE_SECONDS, after, key),
            )
        else:
            self._become(key, after)
        return 200

    def _become(self, key: str, state: str) -> None:
        self.run("UPDATE payments SET state = ?, settle_at = NULL WHERE key = ?", state, key)
        if state in ("captured", "refunded"):
            self.run("INSERT INTO moves SELECT key, ?, amount, currency FROM payments WHERE key = ?", state, key)


_OPERATIONS: dict[str, Callable[[Books, str, dict[str, Any], str], int]] = {
    "authorise": Books.authorise,
    "capture": Books.capture,
    "refund": Books.refund,
    "void": Books.void,
    "look_up": Books.look_up,
}


class Provider:
    """The books behind HTTP, and the faults on the way."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._books = Books(options.state)
        self._script: list[dict[str, str]] = []
        self._chance = random.Random(options.chaos)

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/health", self._health),
                web.post("/control", self._control),
                web.put("/v1/payments/{key}", self._handler("authorise")),
                web.get("/v1/payments/{key}", self._handler("look_up")),
                web.post("/v1/payments/{key}/capture", self._handler("capture")),
                web.post("/v1/payments/{key}/void", self._handler("void")),
                web.post("/v1/payments/{key}/refund", self._handler("refund")),
            ]
        )
        app.cleanup_ctx.append(self._call_back)
        return app

    def _handler(self, operation: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._answer(operation, request)

        return handle

    async def _answer(self, operation: str, request: web.Request) -> web.StreamResponse:
        fault = self._fault(operation, CHAOS)
        if fault == "lose_request":
            return _hang_up(request)
        if fault == "unavailable":
            return web.Response(status=503)
        if request.headers.get("Authorization") != f"Bearer {self._options.key}":
            return web.Response(status=401)
        if operation != "look_up" and "Idempotency-Key" not in request.headers:
            return web.json_response({"message": "send an Idempotency-Key"}, status=400)
        raw = await request.text()
        key = request.match_info["key"]
        status, payment = self._books.do(operation, key, json.loads(raw or "{}"), fault)
        if fault == "double":
            status, payment = self._books.do(operation, key, json.loads(raw or "{}"), fault)
        answer = None if payment is None or status == 404 else _shown(payment)
        written = (raw, status, json.dumps(answer))
        self._books.run(
            "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)",
            *(operation, key, request.headers.get("Idempotency-Key", ""), *written),
        )
        return await self._send(request, fault, status, answer)

    async def _send(
        self, request: web.Request, fault: str, status: int, answer: dict[str, Any] | None
    ) -> web.StreamResponse:
        match fault:
            case "lose_answer":
                return _hang_up(request)
            case "slow":
                await asyncio.sleep(SLOW_SECONDS)
            case "garbage":
                return web.Response(body=b'{"key": "\xff', content_type="application/json")
            case "too_long":
                return web.Response(
                    body=json.dumps(answer).encode() + b" " * 1_000_000, content_type="application/json"
                )
            case "redirect":
                return web.Response(status=307, headers={"Location": str(request.url)})
            case "another_amount":
                answer = {**(answer or {}), "amount": "0.01"}
            case "another_key":
                answer = {**(answer or {}), "key": "another"}
            case "early_callback":
                # The caller hears of the outcome before it gets the answer, which does not know of it.
                self._books.settle(request.match_info["key"])
                await self._deliver_all()
        return web.Response(status=status) if answer is None else web.json_response(answer, status=status)

    async def _control(self, request: web.Request) -> web.Response:
        told = await request.json()
        self._script = told["script"]
        if told.get("forget"):
            for table in ("payments", "moves", "requests", "callbacks", "heard"):
                self._books.run(f"DELETE FROM {table}")
        return web.json_response({})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({})

    def _fault(self, operation: str, chaos: dict[str, float]) -> str:
        for entry in self._script:
            if entry["operation"] == operation:
                self._script.remove(entry)
                return entry["fault"]
        if self._options.chaos is not None:
            luck = self._chance.random()
            for fault, share in chaos.items():
                luck -= share
                if luck < 0:
                    return fault
        return ""

    async def _call_back(self, _app: web.Application) -> Any:
        async def run() -> None:
            while True:
                await asyncio.sleep(CALLBACK_PAUSE_SECONDS)
                self._books.settle()
                await self._deliver_all()

        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as self._session:
            task = asyncio.create_task(run())
            yield
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _deliver_all(self) -> None:
        waiting = self._books.run("SELECT * FROM callbacks WHERE done = 0")
        self._chance.shuffle(waiting)
        for callback in waiting:
            await self._deliver(callback)

    async def _deliver(self, callback: sqlite3.Row) -> None:
        fault = self._fault("callback", CALLBACK_CHAOS)
        if not self._options.callback_url or fault in ("lose_request", "late"):
            return
        body = callback["body"].encode()
        now = int(time.time()) - (100_000 if fault == "too_old" else 0)
        secret = "not the secret of these two" if fault == "wrong_signature" else self._options.secret
        headers = {
            "webhook-id": callback["id"],
            "webhook-timestamp": str(now),
            "webhook-signature": sign(secret, callback["id"], now, body),
            "Content-Type": "application/json",
        }
        for _ in range(2 if fault == "replay" else 1):
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.post(self._options.callback_url, data=body, headers=headers) as response:
                    heard = (callback["id"], fault, response.status, await response.text())
                    self._books.run("INSERT INTO heard VALUES (?, ?, ?, ?)", *heard)
                    if response.status == 200:
                        self._books.run("UPDATE callbacks SET done = 1 WHERE id = ?", callback["id"])


def _shown(payment: dict[str, Any]) -> dict[str, Any]:
    shown = {"key": payment["key"], "state": payment["state"], "provider_reference": f"ref-{payment['key'][-12:]}"}
    if payment["amount"] is not None:
        shown |= {"amount": payment["amount"], "currency": payment["currency"]}
    return {**shown, "message": "the bank said no"} if payment["state"] == "declined" else shown


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--key", default="provider-key")
    parser.add_argument("--callback-url", default="")
    parser.add_argument("--secret", default="a-secret-of-this-machine-only")
    parser.add_argument("--chaos", type=int, help="draw faults, beginning with this seed")
    options = parser.parse_args()
    web.run_app(Provider(options).app(), host="127.0.0.1", port=options.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
