"""How far a long command is: written over on a terminal, now and then elsewhere, nothing if it is soon over."""

import io

import pytest

from service_kit.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("service_kit.progress.time.monotonic", lambda: now[0])
    return now


def test_a_file_gets_a_line_now_and_then(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Progress("orders compared", stream)
    for second in range(12):
        clock[0] = 100.0 + second
        shown.note(second * 1000, second / 20)
    shown.end()
    assert stream.getvalue() == "orders compared: 5,000 (25%), 1,000/s\norders compared: 10,000 (50%), 1,000/s\n"


def test_a_terminal_has_one_line_that_goes_away(clock: list[float]) -> None:
    stream = Terminal()
    shown = Progress("slices", stream)
    clock[0] = 101.0
    shown.note(3, more="of a check")
    shown.end()
    assert stream.getvalue() == "\r\x1b[Kslices: 3, 3/s, of a check\r\x1b[K"


def test_what_is_soon_over_says_nothing(clock: list[float]) -> None:
    stream = Terminal()
    shown = Progress("slices", stream)
    shown.note(1)
    shown.end()
    assert stream.getvalue() == ""
