"""The payment simulator: what it accepts follows from the key, so that asking again changes nothing."""

from decimal import Decimal

import pytest

from order_gateway.payments import SIMULATE_DECLINE, Charged, Declined, PaymentSimulator, ProviderFault
from order_gateway.settings import Band, SimulatorSettings


async def accepted(amount: str, *, tries: int = 2000, settings: SimulatorSettings | None = None) -> float:
    simulator = PaymentSimulator(settings or SimulatorSettings())
    answers = [await simulator.charge(f"key-{number}", Decimal(amount), "card", None) for number in range(tries)]
    return sum(isinstance(answer, Charged) for answer in answers) / tries


@pytest.mark.parametrize(
    ("amount", "least", "most"),
    [("0.01", 1, 1), ("99.99", 1, 1), ("100.00", 0.93, 0.97), ("999.99", 0.93, 0.97), ("1000.00", 0.87, 0.93)],
)
async def test_success_by_amount_band(amount: str, least: float, most: float) -> None:
    assert least <= await accepted(amount) <= most


async def test_the_same_key_gives_the_same_answer_also_after_a_restart() -> None:
    for number in range(100):
        first = await PaymentSimulator(SimulatorSettings()).charge(f"k-{number}", Decimal(5000), "card", None)
        again = await PaymentSimulator(SimulatorSettings()).charge(f"k-{number}", Decimal(5000), "card", None)
        assert first == again


async def test_seeds_differ() -> None:
    half = (Band(below=None, success_rate=0.5),)
    answers = [
        [
            isinstance(await PaymentSimulator(settings).charge(f"k-{number}", Decimal(1), "card", None), Charged)
            for number in range(100)
        ]
        for settings in (SimulatorSettings(bands=half, seed="a"), SimulatorSettings(bands=half, seed="b"))
    ]
    assert answers[0] != answers[1]


async def test_a_decline_can_be_asked_for() -> None:
    answer = await PaymentSimulator(SimulatorSettings()).charge("k", Decimal(1), "card", SIMULATE_DECLINE)
    assert isinstance(answer, Declined)


async def test_answers_get_lost() -> None:
    simulator = PaymentSimulator(SimulatorSettings(lost_answer_rate=1))
    with pytest.raises(ProviderFault):
        await simulator.charge("k", Decimal(1), "card", None)
    with pytest.raises(ProviderFault):
        await simulator.refund("k", Decimal(1))
