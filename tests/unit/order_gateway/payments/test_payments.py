"""Payments: what the simulator accepts follows from the key, and what got lost on the way is asked for again by key."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from order_gateway.payments import (
    SIMULATE_DECLINE,
    Authorised,
    Bill,
    Charged,
    Declined,
    Payments,
    PaymentSimulator,
    Pending,
    ProviderFault,
    Refunded,
    RefundRequested,
)
from order_gateway.payments.choosing import make_payments
from order_gateway.payments.http_provider import Silence
from order_gateway.payments.settings import SECRET_LENGTH_MIN, payment_problems
from order_gateway.payments.signing import BadSignature, sign, verify
from order_gateway.settings import Band, PaymentSettings, SimulatorSettings

AT_ONCE = PaymentSettings(tries=3, retry_wait_initial_seconds=0.001, retry_wait_max_seconds=0.001)


def bill(key: str = "k", amount: object = 1, reference: str | None = None) -> Bill:
    return Bill(1, key, Decimal(str(amount)), "EUR", "card", reference)


async def accepted(amount: str, *, tries: int = 2000, settings: SimulatorSettings | None = None) -> float:
    simulator = PaymentSimulator(settings or SimulatorSettings())
    answers = [await simulator.authorise(bill(f"key-{number}", amount)) for number in range(tries)]
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
            answers.add(await payments.take(bill(f"k-{number}", 5000)))
        assert len(answers) == 1


async def test_seeds_differ() -> None:
    half = (Band(below=None, success_rate=0.5),)
    answers = [
        [isinstance(await PaymentSimulator(settings).authorise(bill(f"k-{number}")), Declined) for number in range(100)]
        for settings in (SimulatorSettings(bands=half, seed="a"), SimulatorSettings(bands=half, seed="b"))
    ]
    assert answers[0] != answers[1]


async def test_a_decline_can_be_asked_for() -> None:
    answer = await PaymentSimulator(SimulatorSettings()).authorise(bill(reference=SIMULATE_DECLINE))
    assert isinstance(answer, Declined)


async def test_answers_get_lost() -> None:
    simulator = PaymentSimulator(SimulatorSettings(lost_answer_rate=1))
    with pytest.raises(ProviderFault):
        await simulator.authorise(bill())
    with pytest.raises(ProviderFault):
        await simulator.charge(bill())
    with pytest.raises(ProviderFault):
        await simulator.refund(bill())


async def test_answers_can_be_delayed() -> None:
    simulator = PaymentSimulator(SimulatorSettings(delay_seconds=0.05))
    loop = asyncio.get_running_loop()
    started = loop.time()
    await simulator.charge(bill())
    assert loop.time() - started >= 0.05


class Ledger:
    """A provider that does its work, and then loses so many of its answers.

    Attributes:
        standing: what it says of the payment when it is looked up.
    """

    name = "ledger"

    def __init__(self, losing: int = 0) -> None:
        self.losing = losing
        self.asked: list[str] = []
        self.standing: Authorised | Charged | Declined | Pending | None = None

    def answer(self, name: str) -> None:
        self.asked.append(name)
        if self.losing > 0:
            self.losing -= 1
            raise ProviderFault("lost")

    async def authorise(self, bill: Bill) -> Authorised | Charged | Declined | Pending:
        self.standing = self.standing or Authorised("a-1")
        self.answer("authorise")
        return self.standing

    async def charge(self, bill: Bill) -> Charged | Declined | Pending:
        self.standing = Charged("c-1")
        self.answer("charge")
        return self.standing

    async def refund(self, bill: Bill) -> Refunded | RefundRequested | Pending:
        self.answer("refund")
        return Refunded()

    async def look_up(self, bill: Bill) -> Authorised | Charged | Declined | Pending | None:
        self.asked.append("look_up")
        return self.standing

    async def close(self) -> None:
        self.asked.append("close")


async def test_after_a_lost_answer_the_payment_is_looked_up_by_its_key() -> None:
    ledger = Ledger(losing=1)
    assert await Payments(ledger, AT_ONCE).take(bill()) == Charged("c-1")
    assert ledger.asked == ["authorise", "look_up", "charge"]
    ledger = Ledger()
    await ledger.authorise(bill())
    ledger.losing = 1
    ledger.asked.clear()
    # The answer to the authorisation is lost, and the capture had been made by somebody else.
    ledger.standing = Charged("c-0")
    assert await Payments(ledger, AT_ONCE).take(bill()) == Charged("c-0")
    assert ledger.asked == ["authorise", "look_up"]


async def test_calls_to_providers_are_counted() -> None:
    payments = Payments(Ledger(losing=1), AT_ONCE)
    await payments.take(bill())
    calls, seconds = (next(iter(measure.read())) for measure in payments.measures)
    counted = {tuple(sample.labels.values()): sample.value for sample in calls.samples}
    assert counted == {
        ("ledger", "authorise", "ProviderFault"): 1,
        ("ledger", "look_up", "Authorised"): 1,
        ("ledger", "charge", "Charged"): 1,
    }
    assert sum(sample.value for sample in seconds.samples if sample.name.endswith("_count")) == 3


async def test_what_did_not_arrive_is_sent_again() -> None:
    class Deaf(Ledger):
        async def look_up(self, bill: Bill) -> None:
            self.asked.append("look_up")

    ledger = Deaf(losing=2)
    assert await Payments(ledger, AT_ONCE).take(bill()) == Charged("c-1")
    assert ledger.asked == ["authorise", "look_up", "authorise", "look_up", "authorise", "charge"]


async def test_a_lost_refund_is_asked_for_again() -> None:
    ledger = Ledger(losing=2)
    assert await Payments(ledger, AT_ONCE).give_back(bill()) == Refunded()
    assert ledger.asked == ["refund"] * 3


async def test_when_the_tries_are_used_up_it_says_so() -> None:
    ledger = Ledger(losing=3)
    with pytest.raises(ProviderFault):
        await Payments(ledger, AT_ONCE).give_back(bill())
    assert len(ledger.asked) == AT_ONCE.tries


@pytest.mark.parametrize("answer", [Declined("no"), Pending(), Charged("c-0")])
async def test_only_what_was_authorised_is_charged(answer: Charged | Declined | Pending) -> None:
    ledger = Ledger()
    ledger.standing = answer
    assert await Payments(ledger, AT_ONCE).take(bill()) == answer
    assert ledger.asked == ["authorise"]


async def test_nobody_is_asked_for_nothing() -> None:
    ledger = Ledger()
    payments = Payments(ledger, AT_ONCE)
    assert isinstance(await payments.take(bill(amount="0.00")), Charged)
    assert await payments.give_back(bill(amount="0.00")) == Refunded()
    assert ledger.asked == []


async def test_each_payment_stays_with_the_provider_that_began_it() -> None:
    chosen, other = Ledger(), Ledger()
    payments = Payments(chosen, AT_ONCE, {"other": other})
    await payments.take(bill(), "other")
    await payments.give_back(bill(), "other")
    assert (chosen.asked, other.asked) == ([], ["authorise", "charge", "refund"])
    with pytest.raises(ProviderFault, match="not configured any more"):
        await payments.give_back(bill(), "gone")
    await payments.close()
    assert chosen.asked == ["close"]


async def test_an_external_payment_is_believed_and_its_refund_asked_for() -> None:
    payments = make_payments(PaymentSettings(provider="external"), SimulatorSettings(), "production")
    assert payments.are_external
    assert await payments.take(bill(reference="tx-1")) == Charged("tx-1")
    assert await payments.give_back(bill(reference="tx-1")) == RefundRequested()


async def test_what_was_simulated_ends_without_money_where_simulations_are_not_accepted() -> None:
    payments = make_payments(PaymentSettings(provider="external"), SimulatorSettings(), "production")
    assert isinstance(await payments.take(bill(), "simulator"), Declined)
    assert await payments.give_back(bill(), "simulator") == Refunded()


NOW = 1_800_000_000
SECRET = "a callback secret of the tests"
BODY = b'{"data":{"order_id":"1"}}'


def signed(secret: str = SECRET, at: int = NOW, message_id: str = "m-1", body: bytes = BODY) -> dict[str, str]:
    signature = sign(secret, message_id, at, body)
    return {"webhook-id": message_id, "webhook-timestamp": str(at), "webhook-signature": signature}


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's own libraries."""
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_signed_callback_is_believed() -> None:
    assert verify(signed(), BODY, (SECRET, ""), NOW + 300, 300) == "m-1"
    assert verify(signed("the secret before"), BODY, (SECRET, "the secret before"), NOW, 300) == "m-1"
    several = signed()
    several["webhook-signature"] = f"v1,AAAA v2,x {several['webhook-signature']}"
    assert verify(several, BODY, (SECRET,), NOW, 300) == "m-1"


@pytest.mark.parametrize(
    ("headers", "body", "secrets", "now"),
    [
        (signed(), BODY + b" ", (SECRET,), NOW),
        (signed(), BODY, ("another secret",), NOW),
        (signed(), BODY, ("", ""), NOW),
        (signed(), BODY, (), NOW),
        (signed(""), BODY, ("",), NOW),
        (signed(), BODY, (SECRET,), NOW + 301),
        (signed(), BODY, (SECRET,), NOW - 301),
        ({**signed(), "webhook-id": "m-2"}, BODY, (SECRET,), NOW),
        ({**signed(), "webhook-id": ""}, BODY, (SECRET,), NOW),
        ({**signed(), "webhook-timestamp": str(NOW + 1)}, BODY, (SECRET,), NOW),
        ({**signed(), "webhook-timestamp": "1e9"}, BODY, (SECRET,), NOW),
        ({**signed(), "webhook-signature": "v1,\udcff\u00fc"}, BODY, (SECRET,), NOW),
        ({**signed(), "webhook-signature": ""}, BODY, (SECRET,), NOW),
        ({}, BODY, (SECRET,), NOW),
    ],
)
def test_any_other_is_not(headers: dict[str, str], body: bytes, secrets: tuple[str, ...], now: int) -> None:
    with pytest.raises(BadSignature):
        verify(headers, body, secrets, now, 300)


def test_a_silent_provider_is_left_alone_but_for_one_call_per_pause() -> None:
    silence = Silence(silences_max=2, pause_seconds=10)
    for now in (0.0, 1.0):
        silence.must_be_over(now)
        silence.note(now)
    for now in (1.5, 10.9):
        with pytest.raises(ProviderFault):
            silence.must_be_over(now)
    silence.must_be_over(11)
    with pytest.raises(ProviderFault):
        silence.must_be_over(11)
    silence.end()
    silence.must_be_over(11)


HTTP = {"url": "https://pay.example.com/v1", "api_key": "k", "callback_secret": "s" * SECRET_LENGTH_MIN}


@pytest.mark.parametrize(
    ("given", "profile", "words"),
    [
        ({}, "production", ["set ORDERS_PAYMENTS__PROVIDER=http"]),
        ({"provider": "simulator"}, "production", ["takes no money"]),
        ({"provider": "external"}, "production", []),
        ({"provider": "http", "http": HTTP}, "production", []),
        ({}, "development", []),
        ({"provider": "simulator"}, "development", []),
        (
            {"provider": "http", "http": {"ca_file": __file__, "timeout_seconds": 20}},
            "production",
            ["HTTP__URL", "HTTP__API_KEY", "HTTP__CALLBACK_SECRET", "CA_FILE", "TIMEOUT_SECONDS"],
        ),
        ({"provider": "http"}, "development", ["HTTP__URL", "HTTP__API_KEY", "HTTP__CALLBACK_SECRET"]),
        ({"provider": "http", "http": {**HTTP, "callback_secret_before": "short"}}, "production", ["SECRET_BEFORE"]),
        # Somebody who has changed to another provider still has refunds to make with this one.
        ({"provider": "external", "http": {**HTTP, "api_key": ""}}, "production", ["HTTP__API_KEY"]),
        *(
            ({"provider": "http", "http": {**HTTP, "url": url}}, "production", ["HTTP__URL"])
            for url in (
                "http://pay.example.com",
                "http://10.0.0.1/v1",
                "ftp://x",
                "https://",
                "https://u:p@x",
                "https://x:y",
            )
        ),
        *(
            ({"provider": "http", "http": {**HTTP, "url": url}}, "production", [])
            for url in ("http://127.0.0.1:4000/v1", "http://localhost:4000", "http://[::1]:4000", "https://10.0.0.1")
        ),
    ],
)
def test_the_choice_of_a_provider_is_checked_at_start_with_all_problems_at_once(
    given: dict[str, Any], profile: str, words: list[str]
) -> None:
    problems = payment_problems(PaymentSettings.model_validate(given), profile, 10)
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))
