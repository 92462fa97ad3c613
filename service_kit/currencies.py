"""Currencies, by their ISO 4217 codes: which amounts there are in them."""

from decimal import Decimal

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


def is_payable(amount: Decimal, currency: str) -> bool:
    """Whether there is such an amount: where there are no cents, only whole ones."""
    return currency not in WITHOUT_CENTS or amount == amount.to_integral_value()
