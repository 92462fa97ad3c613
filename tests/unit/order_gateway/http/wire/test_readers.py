"""Numbers, amounts, instants and days from outside are taken exactly where the API's document says so."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money as MoneyMessage
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from order_gateway.http.views import plain_id
from order_gateway.http.wire import fields
from order_gateway.http.wire.readers import END_OF_TIME, INT64_MAX, is_digits
from order_gateway.http.wire.strict_json import decode
from service_kit.currencies import WITHOUT_CENTS
from warehouse.rpc import wire
from warehouse.settings import Limits
from warehouse.validation import Checks


def wide(text: str) -> str:
    """The text with full-width digits, which Python reads as numbers."""
    return text.translate({ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789"})


HOSTILE = "_ \t\n\r\x00+-.,:eEtTzZxX'/０１٣²Ⅷ\u00a0\u200b\u2212%" + wide("013")
INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)


def document(kind: Any) -> dict[str, Any]:
    """What the API's document says of a kind of value."""
    schema: dict[str, Any] = TypeAdapter(kind).json_schema(mode="validation")
    return schema


def patterns(schema: dict[str, Any]) -> list[re.Pattern[str]]:
    """The patterns of the strings that a schema allows, read as strictly as JSON Schema means them."""
    found = [schema, *schema.get("anyOf", ())]
    return [re.compile(one["pattern"].removesuffix("$") + r"\Z", re.ASCII) for one in found if "pattern" in one]


def taken(kind: Any, value: object) -> Any:
    """What a value becomes; None if it is refused."""
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return None


@st.composite
def nearly(draw: st.DrawFn, *kinds: Any) -> str:
    """Strings that the document allows, often with something in them that it does not."""
    allowed = [pattern for kind in kinds for pattern in patterns(document(kind))]
    text: str = draw(st.one_of(*(st.from_regex(pattern, fullmatch=True) for pattern in allowed)))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(text)))
        keep = draw(st.integers(0, 1))
        text = text[:place] + draw(st.sampled_from(HOSTILE)) + text[place + keep :]
    return text


@given(nearly(fields.Money) | st.text(max_size=20))
@example("1_9.99")
@example(" 19.99 ")
@example("19.99\n")
@example("-0.00")
@example("+1")
@example("1e2")
@example(wide("19.99"))
@example("Infinity")
@example("NaN")
@example("")
@example(".5")
@example("1.")
@example("00000000000")
def test_a_price_as_a_string(text: str) -> None:
    [pattern] = patterns(document(fields.Money))
    amount = taken(fields.Money, text)
    assert (amount is not None) == bool(pattern.match(text))
    if amount is not None:
        assert amount == Decimal(text)
        assert 0 <= amount <= Decimal("9999999999.99")


@given(st.decimals(allow_nan=True, allow_infinity=True) | st.decimals(-1, 10**11, places=3) | st.integers())
@example(Decimal("1E+2"))
@example(Decimal("-0.00"))
@example(Decimal("1E+999999"))
@example(Decimal("1E-999999"))
@example(10**4000)
def test_a_price_as_a_number(number: Decimal | int) -> None:
    amount = taken(fields.Money, number)
    value = Decimal(number) if isinstance(number, int) else number
    good = value.is_finite() and not value.is_signed() and value <= Decimal("9999999999.99")
    assert (amount is not None) == (good and value * 100 == int(value * 100))
    if amount is not None:
        assert (amount, amount.as_tuple().exponent) == (value, -2)


@pytest.mark.parametrize("value", [True, False, None, [], {}, 1.5, float("nan")])
def test_what_is_no_price(value: object) -> None:
    assert taken(fields.Money, value) is None


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        *(("1", 1), ("1.0", 1), ("1e3", 1000), ("1000000", 10**6)),
        *((bad, None) for bad in ("0", "-1", "1.5", "1e7", "1e400", "9" * 4000, "true", '"1"', "null", "-0.0")),
    ],
)
def test_a_quantity_in_json(text: str, quantity: int | None) -> None:
    [value] = decode(f"[{text}]")
    assert taken(fields.Quantity, value) == quantity


@given(nearly(fields.Instant) | st.text(max_size=30))
@example("2026-11-20 12:00:00Z")
@example("2026-11-20T12:00:00")
@example("2026-02-29T00:00:00Z")
@example("0000-01-01T00:00:00Z")
@example("0001-01-01T00:00:00+00:01")
@example("9999-12-31T23:59:59-00:01")
@example("9999-12-31T23:59:59.999999999Z")
@example("2026-11-20T23:59:60Z")
@example("2026-11-20T24:00:00Z")
@example("2026-11-20T12:00:00+24:00")
@example("0001-01-01T00:00:00-00:60")
@example(wide("2026-11-20T12:00:00Z"))
@example("2026-11-20T12:00:00Z\n")
def test_an_instant(text: str) -> None:
    [pattern] = patterns(document(fields.Instant))
    instant = taken(fields.Instant, text)
    matched = bool(pattern.match(text))
    assert (instant is not None) == (matched and exists(text))
    if instant is not None:
        assert instant.tzinfo is UTC


def exists(text: str) -> bool:
    """Whether there is such an instant, reckoned without the reader."""
    year, month, day, hour, minute, second, *_ = (int(part) for part in re.findall(r"[0-9]+", text))
    zone = re.search(r"([+-])([0-9]{2}):([0-9]{2})$", text)
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        if zone:
            hours, minutes = int(zone[2]), int(zone[3])
            if hours > 23 or minutes > 59:
                return False
            ahead = timedelta(hours=hours, minutes=minutes)
            assert (local - ahead if zone[1] == "+" else local + ahead).year
    except (ValueError, OverflowError):
        return False
    return True


@given(nearly(fields.From, fields.Until) | st.text(max_size=30))
@example("9999-12-31")
@example("0001-01-01")
@example("0000-12-31")
@example("2026-2-3")
@example("20261120")
@example("2026-W47-5")
def test_the_days_of_a_list(text: str) -> None:
    day, instant = patterns(document(fields.From))
    assert patterns(document(fields.From)) == patterns(document(fields.Until))
    start, end = taken(fields.From, text), taken(fields.Until, text)
    assert (start is None) == (end is None)
    if day.match(text):
        assert (start is not None) == exists(f"{text}T00:00:00Z")
        if start is not None:
            assert end == (END_OF_TIME if text == "9999-12-31" else start + timedelta(days=1))
    else:
        assert (start is not None) == (bool(instant.match(text)) and exists(text))
        assert start == end


def test_the_last_day_there_is_has_an_end() -> None:
    assert taken(fields.Until, "9999-12-31") == datetime.max.replace(tzinfo=UTC)
    assert taken(fields.From, "9999-12-31") == datetime(9999, 12, 31, tzinfo=UTC)


@given(st.text(st.sampled_from("0123456789" + HOSTILE), max_size=22) | st.integers(-1, 2**64).map(str))
@example("007")
@example("١٢")
@example("²")
@example("1_000")
@example(str(2**63))
def test_numbers_in_a_path_or_a_query(text: str) -> None:
    schema = document(fields.IdText)
    number = taken(fields.IdText, text)
    plain = re.fullmatch(r"0|[1-9][0-9]*", text, re.ASCII)
    assert (number is not None) == bool(plain and schema["minimum"] <= int(text) <= schema["maximum"])
    assert is_digits(text) == bool(plain and int(text) <= INT64_MAX)
    assert plain_id(text) == (int(text) if is_digits(text) else text)


@given(INT64, INT32)
@example(0, -1)
@example(2**63 - 1, 2**31 - 1)
@example(-62_135_596_801, 0)
@example(253_402_300_800, 0)
def test_instants_over_grpc(seconds: int, nanos: int) -> None:
    checks = Checks()
    since = wire.since_filter(checks, Timestamp(seconds=seconds, nanos=nanos))
    good = -62_135_596_800 <= seconds <= 253_402_300_799 and 0 <= nanos < 10**9
    assert (not checks.violations) == good
    if good:
        assert since == seconds * 10**6 + nanos // 1000


@given(INT64 | st.integers(-2, 604_801), INT32)
def test_durations_over_grpc(seconds: int, nanos: int) -> None:
    checks, limits = Checks(), Limits()
    wire._ttl(checks, Duration(seconds=seconds, nanos=nanos), limits)
    micros = seconds * 10**6 + nanos // 1000
    assert (not checks.violations) == (0 <= nanos < 10**9 and 0 < micros <= limits.ttl_max_seconds * 10**6)


@given(
    INT64 | st.integers(-1, 10**10), INT32 | st.integers(0, 99).map(lambda cents: cents * 10**7), st.text(max_size=4)
)
@example(9_999_999_999, 990_000_000, "EUR")
@example(0, 0, "ÀÁÂ")
@example(0, 1_000_000_000, "EUR")
@example(0, -(2**31), "EUR")
@example(0, 10_000_000, "KRW")
@example(1, 0, "KRW")
def test_money_over_grpc(units: int, nanos: int, code: str) -> None:
    checks = Checks()
    price = wire._price(checks, MoneyMessage(units=units, nanos=nanos, currency_code=code))
    good = 0 <= units <= 9_999_999_999 and 0 <= nanos < 10**9 and nanos % 10**7 == 0
    good = good and not (nanos and code in WITHOUT_CENTS)
    assert (not checks.violations) == (good and re.fullmatch("[A-Z]{3}", code) is not None)
    if not checks.violations:
        assert Decimal(price) == Decimal(units) + Decimal(nanos) / 10**9
