"""What `make fuzz` reads and judges: answers in frames, who may be answered what, and when it finds something."""

import hpack
import pytest

from tests.fuzzing.door import KEYS, may_be_answered, role_of
from tests.fuzzing.frame_answers import FrameAnswers, Unreadable
from tests.fuzzing.grpc_requests import CONTINUATION, DATA, END_HEADERS, HEADERS, SETTINGS, frame
from tests.fuzzing.outcome import LONG, Memory, Outcome, Window
from warehouse.auth import Role

RESERVE = "/warehouse.v1.WarehouseService/Reserve"
READER, ORDER, ADMIN = (next(key for key, role in KEYS.items() if role is wanted) for wanted in Role)


def test_the_headers_of_answers_are_read_however_they_come() -> None:
    """In frames that are cut anywhere, with padding and priority, in several frames, with what was said before."""
    encoder = hpack.Encoder()
    first = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    last = encoder.encode([("grpc-status", "13"), ("content-type", "application/grpc")])
    said = (
        frame(SETTINGS, 0, 0, b"")
        + frame(HEADERS, END_HEADERS | 8 | 32, 1, b"\3" + bytes(5) + first + bytes(3))
        + frame(DATA, 0, 1, b"x" * 300)
        + frame(HEADERS, 1, 1, last[:1])
        + frame(CONTINUATION, END_HEADERS, 1, last[1:])
    )
    for step in (1, 7, len(said)):
        answers = FrameAnswers()
        found = [one for at in range(0, len(said), step) for one in answers.feed(said[at : at + step])]
        assert [stream for stream, _ in found] == [1, 1]
        assert found[0][1][":status"] == "200"
        assert found[1][1] == {"grpc-status": "13", "content-type": "application/grpc"}


def test_what_is_no_header_is_told() -> None:
    with pytest.raises(Unreadable):
        list(FrameAnswers().feed(frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff")))


def test_who_shows_what_is_somebody_or_a_stranger() -> None:
    assert role_of((("x-other", "a"), ("x-api-key", READER))) is Role.READER
    for strange in ((), (("x-api-key", "a"),), (("x-api-key", ADMIN), ("x-api-key", ADMIN))):
        assert role_of(strange) is None


@pytest.mark.parametrize(
    ("role", "status", "may"),
    [
        (None, "UNAUTHENTICATED", True),
        (None, "RESOURCE_EXHAUSTED", True),
        (None, "OK", False),
        (None, "NOT_FOUND", False),
        (None, "PERMISSION_DENIED", False),
        (Role.READER, "PERMISSION_DENIED", True),
        (Role.READER, "OK", False),
        (Role.ORDER, "OK", True),
        (Role.ADMIN, "OK", True),
    ],
)
def test_what_somebody_may_be_answered(role: Role | None, status: str, may: bool) -> None:
    assert may_be_answered(RESERVE, role, status) is may
    assert may_be_answered("/grpc.health.v1.Health/Check", role, status)


def outcome(beside_ms: float, cost_seconds: float = 1) -> Outcome:
    """A polite caller that waits 1 ms alone and 2 ms beside the generator."""
    return Outcome(
        requests=1000,
        seconds=1,
        alone=[Window([1.0] * 50, processor_seconds=0.25)] * 2,
        beside_generator=[Window([2.0] * 50)] * 2,
        beside=Window([1.0] * 95 + [beside_ms] * 5, processor_seconds=cost_seconds),
    )


def test_both_ratios_are_judged() -> None:
    assert list(outcome(4.9).judge(LONG, latency=True)) == []
    (found,) = outcome(5.1).judge(LONG, latency=True)
    assert "5.1 times that alone" in found
    assert len(list(outcome(10.1).judge(LONG, latency=True))) == 2
    assert list(outcome(10.1).judge(LONG, latency=False)) == []


def test_what_costs_more_than_its_share_is_found() -> None:
    (found,) = outcome(1, cost_seconds=3.5).judge(LONG, latency=True)
    assert "costs more than" in found


def test_memory_is_what_stays() -> None:
    memory = Memory(0.1)
    for share, mib in ((0, 50), (0.1, 164), (0.2, 100), (0.5, 164), (0.9, 170), (1, 164), (1, 110)):
        memory.note(share, {"gateway": mib})
    made = Outcome(memory_mib=memory.early_and_late(), seconds=1)
    assert made.memory_mib == {"gateway": (100, 110)}
    made.memory_mib = {"gateway": (100, 251)}
    assert "grown" in next(made.judge(LONG, latency=False))
