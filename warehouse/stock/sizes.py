"""How much fits into one message, so that no call can have an answer that can't be sent. Pure."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

MESSAGE_BYTES_LEAST = 1024 * 1024
"""No server is set to send less: what is bounded by count alone (1,000 stock levels, 100 items) always fits."""
HOLDS_BYTES_MAX = MESSAGE_BYTES_LEAST - 64 * 1024
"""What the reservations in the answer of a Commit or Cancel may take together."""
LIST_ENVELOPE_BYTES = 4096
"""Kept free for what stands around the elements of a list: token, total, names."""
_ELEMENT_BYTES = 8
"""The tag and the length before each element."""
_RESULT_BYTES = 1024
"""What a result of a BatchReserve needs at most beyond its request's own fields and lines: ids and times of the
reservation, or a status with the reason and a text, but no lines named."""
_LINE_BYTES = 16
"""What a line of a reservation takes more than the line that was asked for."""
_RESERVATION_BYTES = 160
_HELD_LINE_BYTES = 48
_CHARACTER_BYTES = 4

NAMED_LINES = (100, 20, 5, 1, 0)
"""How many lines a refusal names: as many as fit, tried in this order."""


class Sized(Protocol):
    """A protobuf message."""

    def ByteSize(self) -> int:  # noqa: N802 - protobuf's name
        """Its length when it is sent."""
        ...


SizedT = TypeVar("SizedT", bound=Sized)


def that_fit(elements: Sequence[SizedT], message_bytes_max: int) -> Sequence[SizedT]:
    """The first of `elements` that one message holds, at least one if there is any."""
    left = message_bytes_max - LIST_ENVELOPE_BYTES
    for position, element in enumerate(elements):
        left -= element.ByteSize() + _ELEMENT_BYTES
        if left < 0:
            return elements[: max(position, 1)]
    return elements


def batch_answer_bytes(request_bytes: int, requests: int, lines: int) -> int:
    """What the answer of a BatchReserve can take at most, when no refusal names lines.

    Args:
        request_bytes: the length of the whole request.
        lines: of all its requests.
    """
    return LIST_ENVELOPE_BYTES + request_bytes + requests * _RESULT_BYTES + lines * _LINE_BYTES


def lines_at_most(request_bytes: int) -> int:
    """How many lines a request of that length can have: each takes a tag and a length at least."""
    return request_bytes // 2


def holds_bytes(holds: Iterable[tuple[int, int]]) -> int:
    """What reservations take in an answer at most; of each the number of lines and of characters in its texts."""
    return sum(
        _RESERVATION_BYTES + lines * _HELD_LINE_BYTES + characters * _CHARACTER_BYTES for lines, characters in holds
    )
