"""One JSON object per log line, on standard error, with the ids of the call it belongs to.

The ids are those of `begin_call` and `note_call`, or, where even collecting them for every call would cost too much,
of a function in `call_details`, which is only asked when a line is written.
"""

import asyncio
import atexit
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec
import structlog
from structlog.typing import EventDict, Processor

call_details: ContextVar[Callable[[], Mapping[str, object]] | None] = ContextVar("call_details", default=None)
"""Tells, when a line is written, which call it belongs to; what the line itself says comes first."""

_encode = msgspec.json.Encoder(enc_hook=repr).encode


class _Details(dict[str, object]):
    def __call__(self) -> Mapping[str, object]:
        return self


def begin_call(**details: object) -> None:
    """From here on the lines of this task, and of tasks that it starts, say this and what is noted later."""
    call_details.set(_Details(details))


def note_call(**details: object) -> None:
    """Let the lines of the call that has begun here say this, too."""
    known = call_details.get()
    if isinstance(known, _Details):
        known.update(details)


@contextmanager
def call_lines(**details: object) -> Iterator[None]:
    """`begin_call` for the time of a `with`."""
    before = call_details.set(_Details(details))
    try:
        yield
    finally:
        call_details.reset(before)


def configure_logging(service: str, level: str = "INFO", *, human: bool = False) -> None:
    """Send structlog's and the standard library's records to standard error.

    Args:
        service: stands in every line as `service`.
        level: the least severe level that is written.
        human: coloured text for a terminal instead of JSON.
    """

    def add_service(_logger: object, _name: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: tuple[Processor, ...] = (
        _add_call_details,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        add_service,
    )
    renderers: tuple[Processor, ...] = (structlog.processors.format_exc_info, _to_json)
    if human:
        renderers = (structlog.dev.ConsoleRenderer(),)
    # Our own lines don't pass through the standard library: that would cost several times as much.
    structlog.configure(
        processors=[_add_logger_name, *shared, *renderers],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class _Output:
    """Writes to standard error; what one turn of the event loop logs goes out at its end, in one system call."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._lock = threading.Lock()
        self._flushing: asyncio.AbstractEventLoop | None = None
        atexit.register(self.flush)

    def write(self, line: str) -> None:
        """Write a line, at once where no event loop runs."""
        with self._lock:
            self._waiting.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if self._flushing is not loop:
            self._flushing = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            self._flushing = None
            if self._waiting:
                sys.stderr.write("\n".join((*self._waiting, "")))
                sys.stderr.flush()
                self._waiting.clear()


_output = _Output()


class _Lines:
    """What structlog hands its lines to."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        _output.write(line)

    def urgent(self, line: str) -> None:
        """What may be the last words is not kept waiting."""
        _output.write(line)
        _output.flush()

    debug = info = log = msg
    warning = warn = error = exception = critical = fatal = urgent


def _add_logger_name(logger: _Lines, _name: str, event: EventDict) -> EventDict:
    event["logger"] = logger.name
    return event


def _add_call_details(_logger: object, _name: str, event: EventDict) -> EventDict:
    describe = call_details.get()
    return event if describe is None else {**describe(), **event}


def _to_json(_logger: object, _name: str, event: EventDict) -> str:
    return _encode(event).decode()
