"""A payment provider behind HTTP; the contract, for whoever implements it, is in provider_openapi.yaml."""

import ssl
import time
from decimal import Decimal
from enum import StrEnum
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from order_gateway.payments.port import Authorised, Bill, Charged, Declined, Pending, ProviderFault, Refunded
from order_gateway.payments.settings import HttpProviderSettings

log = structlog.get_logger(__name__)
JSON = "application/json"
CHUNK_BYTES = 16_384
_WITH_PAYMENT = frozenset({200, 201, 202, 409})
"""Statuses of answers that say how the payment stands; 409: not as was asked."""


class PaymentState(StrEnum):
    """How a payment stands at the provider."""

    PENDING = "pending"
    AUTHORISED = "authorised"
    CAPTURING = "capturing"
    CAPTURED = "captured"
    DECLINED = "declined"
    VOIDED = "voided"
    REFUNDING = "refunding"
    REFUNDED = "refunded"


class PaymentRecord(msgspec.Struct, frozen=True):
    """What the provider says about a payment; further fields are not looked at.

    Attributes:
        amount: must be there, with its currency, unless the payment was voided before it was heard of.
    """

    key: str
    state: PaymentState
    amount: Decimal | None = None
    currency: str = ""
    provider_reference: str = ""
    message: str = ""


class _PayRequest(msgspec.Struct, frozen=True):
    order_id: str
    amount: str
    currency: str
    method: str
    reference: str | None


class _AmountRequest(msgspec.Struct, frozen=True):
    amount: str
    currency: str


class _Nothing(msgspec.Struct, frozen=True):
    pass


_read = msgspec.json.Decoder(PaymentRecord).decode
_encode = msgspec.json.Encoder().encode
PROVIDER_REFERENCE_LENGTH_MAX = 128
MESSAGE_LENGTH_MAX = 255


class HttpProvider:
    """Speaks the contract. Close it after use.

    Redirects are not followed, proxies of the environment not used; an answer that is too long, malformed or about
    another payment is no answer.
    """

    name = "http"

    def __init__(self, settings: HttpProviderSettings) -> None:
        self._settings = settings
        self._base = settings.url.rstrip("/")
        # Now, because reading the certificates takes long.
        self._trust = ssl.create_default_context(cafile=settings.ca_file)
        self._session: aiohttp.ClientSession | None = None
        self._silence = Silence(settings.silences_max, settings.silence_pause_seconds)

    async def authorise(self, bill: Bill) -> Authorised | Charged | Declined | Pending:
        """Set the amount aside. Raises: ProviderFault."""
        request = _PayRequest(str(bill.order_id), f"{bill.amount:.2f}", bill.currency, bill.method, bill.reference)
        return _taking(await self._payment("PUT", bill, "", request))

    async def charge(self, bill: Bill) -> Charged | Declined | Pending:
        """Capture what was authorised. Raises: ProviderFault."""
        answer = _taking(await self._payment("POST", bill, "capture", _amount(bill)))
        if isinstance(answer, Authorised):
            raise ProviderFault("the provider did not capture what it had authorised")
        return answer

    async def refund(self, bill: Bill) -> Refunded | Pending:
        """Void what is not captured, and refund what is. Raises: ProviderFault."""
        state = (await self._payment("POST", bill, "void", _Nothing())).state
        if state is PaymentState.CAPTURED:
            state = (await self._payment("POST", bill, "refund", _amount(bill))).state
        if state in (PaymentState.VOIDED, PaymentState.DECLINED, PaymentState.REFUNDED):
            return Refunded()
        if state in (PaymentState.PENDING, PaymentState.CAPTURING, PaymentState.REFUNDING):
            return Pending()
        raise ProviderFault(f"the provider did not release a payment, which is {state} there")

    async def look_up(self, bill: Bill) -> Authorised | Charged | Declined | Pending | None:
        """How the payment stands. Raises: ProviderFault."""
        answer = await self._ask("GET", bill, "", None)
        return None if answer is None else _taking(answer)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _payment(self, method: str, bill: Bill, operation: str, request: msgspec.Struct) -> PaymentRecord:
        answer = await self._ask(method, bill, operation, request)
        if answer is None:
            raise ProviderFault(f"the provider knows nothing of the payment to {operation or 'authorise'}")
        return answer

    async def _ask(
        self, method: str, bill: Bill, operation: str, request: msgspec.Struct | None
    ) -> PaymentRecord | None:
        """The payment, or None if there is none. Raises: ProviderFault."""
        self._silence.must_be_over(time.monotonic())
        try:
            status, body = await self._send(method, bill, operation, request)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._silence.note(time.monotonic())
            raise ProviderFault(f"the payment provider did not answer: {type(error).__name__}") from error
        self._silence.end()
        if status == 404:
            return None
        if status not in _WITH_PAYMENT:
            raise ProviderFault(_explain(status))
        return _checked(body, bill)

    async def _send(self, method: str, bill: Bill, operation: str, request: msgspec.Struct | None) -> tuple[int, bytes]:
        path = f"/payments/{quote(bill.key, safe='')}{'/' if operation else ''}{operation}"
        headers = {} if request is None else {"Idempotency-Key": f"{bill.key}.{operation or 'authorise'}"}
        session = self._open()
        data = None if request is None else _encode(request)
        async with session.request(
            method, f"{self._base}{path}", data=data, headers=headers, allow_redirects=False
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                body += chunk
                if len(body) > self._settings.answer_size_max_bytes:
                    raise ProviderFault(
                        f"the provider's answer is longer than {self._settings.answer_size_max_bytes} bytes"
                    )
            return response.status, bytes(body)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            settings = self._settings
            # Encodings are not asked for: a short answer could be long when it is decoded.
            headers = {
                "Authorization": f"Bearer {settings.api_key.get_secret_value()}",
                "Accept": JSON,
                "Accept-Encoding": "identity",
                "Content-Type": JSON,
            }
            timeout = aiohttp.ClientTimeout(
                total=settings.timeout_seconds, sock_connect=settings.connect_timeout_seconds
            )
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._trust, limit=settings.connections_max),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
                timeout=timeout,
                auto_decompress=False,
            )
        return self._session


class Silence:
    """Keeps a provider that does not answer from holding up everybody: one call per pause finds out if it is back."""

    def __init__(self, silences_max: int, pause_seconds: float) -> None:
        self._silences_max = silences_max
        self._pause_seconds = pause_seconds
        self._count = 0
        self._next_at = 0.0

    def must_be_over(self, now: float) -> None:
        """Raises: ProviderFault, if it is not this call that finds out."""
        if self._count < self._silences_max:
            return
        if now < self._next_at:
            raise ProviderFault("the payment provider has not answered for a while")
        self._next_at = now + self._pause_seconds

    def note(self, now: float) -> None:
        """There was no answer."""
        self._count += 1
        if self._count == self._silences_max:
            log.warning("payment_provider_silent", calls=self._count)
            self._next_at = now + self._pause_seconds

    def end(self) -> None:
        """There was an answer, whatever it said."""
        if self._count >= self._silences_max:
            log.info("payment_provider_answers_again")
        self._count = 0


def _taking(payment: PaymentRecord) -> Authorised | Charged | Declined | Pending:
    """What a payment's state means for an order that waits for it."""
    reference = payment.provider_reference[:PROVIDER_REFERENCE_LENGTH_MAX]
    match payment.state:
        case PaymentState.AUTHORISED:
            return Authorised(reference)
        case PaymentState.CAPTURED:
            return Charged(reference)
        case PaymentState.PENDING | PaymentState.CAPTURING:
            return Pending()
        case PaymentState.DECLINED:
            return Declined(payment.message[:MESSAGE_LENGTH_MAX] or "the payment was declined")
        case PaymentState.VOIDED | PaymentState.REFUNDING | PaymentState.REFUNDED:
            return Declined("the payment was given up")


def _amount(bill: Bill) -> _AmountRequest:
    return _AmountRequest(f"{bill.amount:.2f}", bill.currency)


def _checked(body: bytes, bill: Bill) -> PaymentRecord:
    try:
        payment = _read(body)
    except msgspec.DecodeError as error:
        raise ProviderFault(f"the provider's answer is not as the contract says: {error}") from error
    except UnicodeDecodeError as error:
        raise ProviderFault("the provider's answer is not UTF-8") from error
    if payment.key != bill.key:
        raise ProviderFault("the provider's answer is about another payment")
    is_same = payment.amount is not None and payment.amount.is_finite() and payment.amount == bill.amount
    if payment.state is not PaymentState.VOIDED and not (is_same and payment.currency == bill.currency):
        raise ProviderFault("the provider has another amount under the key of this payment")
    return payment


def _explain(status: int) -> str:
    if status in (401, 403):
        return f"the provider does not take this service's key (HTTP {status}): look at ORDERS_PAYMENTS__HTTP__API_KEY"
    if 300 <= status < 400:
        return f"the provider redirects (HTTP {status}): set ORDERS_PAYMENTS__HTTP__URL to where it is"
    return f"the provider can't do this now (HTTP {status})"
