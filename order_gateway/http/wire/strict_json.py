"""JSON as RFC 8259 has it, and no more. What it takes to read a text grows as its length does, whatever is in it.

Python's own reader also takes NaN, Infinity and the last of duplicate names; floats would lose cents.
"""

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

FIELDS_MAX = 200
"""Fields of one object, or of a query: no operation knows a tenth of them, and each unknown one is a violation."""
WHOLE_DIGITS_MAX = 40
"""Python's time to read a whole number grows with the square of its digits; nothing here takes more than 19 of them."""
EXPONENT_MAX = 99
"""Of a number. Arithmetic with numbers beyond is an error of its own, or never ends."""
_TOO_LARGE = Decimal("Infinity")
_TOO_SMALL = Decimal(f"1e-{EXPONENT_MAX}")


def _whole(text: str) -> int | Decimal:
    """What is too large for anything is infinite: the checks of its field say so."""
    return int(text) if len(text) <= WHOLE_DIGITS_MAX else _signed(_TOO_LARGE, text)


def _fraction(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        # Its exponent has more digits than an exponent can have here.
        return _signed(_TOO_SMALL if "e-" in text.lower() else _TOO_LARGE, text)
    exponent = number.adjusted()
    if -EXPONENT_MAX <= exponent <= EXPONENT_MAX:
        return number
    return _signed(_TOO_LARGE if exponent > 0 else _TOO_SMALL, text)


def _signed(number: Decimal, text: str) -> Decimal:
    return number.copy_negate() if text.startswith("-") else number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > FIELDS_MAX:
        raise ValueError(f"an object has {len(pairs)} fields, at most {FIELDS_MAX} are read")
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError(f"the field {_first_twice(pairs)[:64]!r} is given more than once")
    return value


def _first_twice(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return ""


decode = json.JSONDecoder(
    parse_float=_fraction, parse_int=_whole, parse_constant=_no_constant, object_pairs_hook=_object
).decode
"""Raises: ValueError (with words for the client), RecursionError."""
