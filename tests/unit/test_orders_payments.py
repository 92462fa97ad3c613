"""Payments: what the simulator accepts follows from the key, and what got lost on the way is asked for again by key."""

import asyncio
from decimal import Decimal

import pytest

from order_gateway.payments import (
    SIMULATE_DECLINE,
    Authorised,
    Charged,
    Declined,
    Payments,
    PaymentSimulator,
    ProviderFault,
)
from order_gateway.settings import Band, PaymentSettings, SimulatorSettings

AT_ONCE = PaymentSettings(tries=3, retry_wait_initial_seconds=0.001, retry_wait_max_seconds=0.001)


async def accepted(amount: str, *, tries: int = 2000, settings: SimulatorSettings | None = None) -> float:
    simulator = PaymentSimulator(settings or SimulatorSettings())
    answers = [await simulator.authorise(f"key-{number}", Decimal(amount), "card", None) for number in range(tries)]
    return sum(isinstance(answer, Authorised) for answer in answers) / tries


@pytest.mark.parametrize(
    ("amount", "least", "most"),
    [("0.01", 1, 1), ("99.99", 1, 1), ("100.00", 0.93, 0.97), ("999.99", 0.93, 0.97), ("1000.00", 0.87, 0.93)],
)
async def test_success_by_amount_band(amount: str, least: float, most: float) -> None:
    assert least <= await accepted(amount) <= most


async def test_the_same_key_gives_the_same_answer_also_after_a_restart() -> None:
    for number in range(100):
        answers = set()
        for _ in range(2):
            payments = Payments(PaymentSimulator(SimulatorSettings()), PaymentSettings())
            answers.add(await payments.take(f"k-{number}", Decimal(5000), "card", None))
        assert len(answers) == 1


async def test_seeds_differ() -> None:
    half = (Band(below=None, success_rate=0.5),)
    answers = [
        [
            isinstance(await PaymentSimulator(settings).authorise(f"k-{number}", Decimal(1), "card", None), Declined)
            for number in range(100)
        ]
        for settings in (SimulatorSettings(bands=half, seed="a"), SimulatorSettings(bands=half, seed="b"))
    ]
    assert answers[0] != answers[1]


async def test_a_decline_can_be_asked_for() -> None:
    answer = await PaymentSimulator(SimulatorSettings()).authorise("k", Decimal(1), "card", SIMULATE_DECLINE)
    assert isinstance(answer, Declined)


async def test_answers_get_lost() -> None:
    simulator = PaymentSimulator(SimulatorSettings(lost_answer_rate=1))
    with pytest.raises(ProviderFault):
        await simulator.authorise("k", Decimal(1), "card", None)
    with pytest.raises(ProviderFault):
        await simulator.charge("k", Decimal(1))
    with pytest.raises(ProviderFault):
        await simulator.refund("k", Decimal(1))


async def test_answers_can_be_delayed() -> None:
    simulator = PaymentSimulator(SimulatorSettings(delay_seconds=0.05))
    loop = asyncio.get_running_loop()
    started = loop.time()
    await simulator.charge("k", Decimal(1))
    assert loop.time() - started >= 0.05


class Ledger:
    """A provider that does its work, and then loses so many of its answers."""

    def __init__(self, losing: int) -> None:
        self.losing = losing
        self.asked: list[tuple[str, str]] = []
        self.moved: set[tuple[str, str]] = set()

    def answer(self, name: str, key: str) -> None:
        self.asked.append((name, key))
        self.moved.add((name, key))
        if self.losing > 0:
            self.losing -= 1
            raise ProviderFault("lost")

    async def authorise(self, key: str, amount: Decimal, method: str, reference: str | None) -> Authorised | Declined:
        self.answer("authorise", key)
        return Authorised("a-1")

    async def charge(self, key: str, amount: Decimal) -> Charged | Declined:
        self.answer("charge", key)
        return Charged("c-1")

    async def refund(self, key: str, amount: Decimal) -> None:
        self.answer("refund", key)


async def test_a_lost_answer_is_asked_for_again_at_once_and_moves_no_more_money() -> None:
    ledger = Ledger(losing=2)
    assert await Payments(ledger, AT_ONCE).take("k", Decimal(1), "card", None) == Charged("c-1")
    assert ledger.asked == [("authorise", "k")] * 3 + [("charge", "k")]
    assert ledger.moved == {("authorise", "k"), ("charge", "k")}
    ledger.losing = 2
    await Payments(ledger, AT_ONCE).give_back("k", Decimal(1))
    assert ledger.asked[4:] == [("refund", "k")] * 3


async def test_when_the_tries_are_used_up_it_says_so() -> None:
    ledger = Ledger(losing=3)
    with pytest.raises(ProviderFault):
        await Payments(ledger, AT_ONCE).take("k", Decimal(1), "card", None)
    assert len(ledger.asked) == AT_ONCE.tries


async def test_what_was_not_authorised_is_not_charged() -> None:
    payments = Payments(PaymentSimulator(SimulatorSettings()), AT_ONCE)
    assert isinstance(await payments.take("k", Decimal(1), "card", SIMULATE_DECLINE), Declined)
