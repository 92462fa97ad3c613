"""What the benchmark and its load generator say to each other: one JSON line per command, one per answer."""

from typing import Literal

import msgspec

WorkName = Literal[
    "reserve-hot",
    "reserve-spread",
    "reserve-sold-out",
    "batch-reserve",
    "commit",
    "cancel",
    "check-stock",
    "order",
    "order-queued",
    "order-refused",
]


class PrepareHolds(msgspec.Struct, frozen=True, tag="prepare"):
    """Take holds on one product until `holds` ids are kept for the next round of `work`."""

    target: str
    """host:port of the server."""
    work: WorkName
    holds: int


class Round(msgspec.Struct, frozen=True, tag="round"):
    """Keep `callers` calls in flight, each caller sending its next request when it has its answer."""

    target: str
    """host:port of the server."""
    work: WorkName
    callers: int
    warm_up_seconds: float
    """Calls that end in this time are made, but not counted."""
    seconds: float
    """How long calls are counted after that."""


class HoldsPrepared(msgspec.Struct, frozen=True, tag="prepared"):
    """The answer to PrepareHolds."""

    holds: int


class RoundResult(msgspec.Struct, frozen=True, tag="result"):
    """The answer to Round. Latencies are those of the calls counted."""

    seconds: float
    """Length of the counted time; shorter than asked for if the prepared holds ran out."""
    per_second: float
    """What the work is about, per second: reservations of BatchReserve, refusals of a sold-out product, else calls."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    calls: int
    """Calls answered in the counted time."""
    calls_in_all: int
    """Calls answered, those of the warm-up and of the end included."""
    statuses: dict[str, int]
    """How the calls of the counted time ended, by gRPC or HTTP status."""
    unexpected: int
    """Calls of the whole round that ended otherwise than the work expects."""
    first_unexpected: str
    """What the first of them said; empty if there was none."""
    slowest_ms: float = 0.0
    """Of all calls of the round, those of the warm-up and of the end included."""


class GeneratorFailed(msgspec.Struct, frozen=True, tag="failed"):
    """The answer to a command that could not be carried out."""

    message: str


Command = PrepareHolds | Round
Answer = HoldsPrepared | RoundResult | GeneratorFailed
