"""Currencies, by their ISO 4217 codes: which amounts there are in them."""

from decimal import Decimal

CENT = Decimal("0.01")
"""To which amounts of money are exact, whatever their currency."""
WITHOUT_CENTS = frozenset(
    (
        "BIF",
        "CLP",
        "DJF",
        "GNF",
        "ISK",
        "JPY",
        "KMF",
        "KRW",
        "PYG",
        "RWF",
        "UGX",
        "UYI",
        "VND",
        "VUV",
        "XAF",
        "XOF",
        "XPF",
    )
)
"""Currencies without a minor unit. Amounts in those with three places (KWD) are kept to two: nothing finer is taken."""
