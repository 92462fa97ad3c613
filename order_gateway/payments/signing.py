"""PURE: signed callbacks, with the headers of https://www.standardwebhooks.com: webhook-id, -timestamp, -signature.

The signature is "v1," and the Base64 of HMAC-SHA256 over "<id>.<timestamp>.<body>"; several may stand there, parted by
spaces, while a secret is changed. A secret that begins with "whsec_" is Base64; any other is taken as it is.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

VERSION = "v1"
SIGNATURES_MAX = 10
"""More than that are not looked at."""
_ID = re.compile(r"[!-~]{1,128}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_BASE64_PREFIX = "whsec_"


class BadSignature(Exception):
    """The callback is not from the provider, or not from now; the message says what is wrong with it."""


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of webhook-signature."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"{VERSION},{base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()}"


def verify(
    headers: Mapping[str, str], body: bytes, secrets: Iterable[str], now: float, tolerance_seconds: float
) -> str:
    """The message's id, if one of `secrets` has signed it, and not long ago. Raises: BadSignature."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    given = headers.get("webhook-signature", "").split()
    if not _ID.fullmatch(message_id) or not _TIMESTAMP.fullmatch(timestamp) or not given:
        raise BadSignature("send webhook-id, webhook-timestamp and webhook-signature")
    if abs(now - int(timestamp)) > tolerance_seconds:
        raise BadSignature(f"the callback is not from now: webhook-timestamp is off by more than {tolerance_seconds} s")
    expected = [sign(secret, message_id, int(timestamp), body).encode() for secret in secrets if secret]
    # Each is compared with each, whatever was found before: the time taken tells nothing.
    matches = [
        hmac.compare_digest(one.encode(errors="replace"), other) for one in given[:SIGNATURES_MAX] for other in expected
    ]
    if not any(matches):
        raise BadSignature("the signature is not that of this message")
    return message_id


def _key(secret: str) -> bytes:
    if secret.startswith(_BASE64_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_BASE64_PREFIX), validate=True)
        except binascii.Error:
            return secret.encode()
    return secret.encode()
