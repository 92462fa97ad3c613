"""One JSON object per log line, on standard error, with the ids of the call it belongs to.

The ids come from structlog's context variables, or, where binding them for every call would cost too much, from
`call_details`, which is only asked when a line is written.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar

import msgspec
import structlog
from structlog.typing import EventDict, Processor

call_details: ContextVar[Callable[[], Mapping[str, str]] | None] = ContextVar("call_details", default=None)
"""Tells, when a line is written, which call it belongs to; what the line itself says comes first."""

_write_lock = threading.Lock()
_encode = msgspec.json.Encoder(enc_hook=repr).encode


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
        structlog.contextvars.merge_contextvars,
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


class _Lines:
    """Writes lines to standard error, each in one piece."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        with _write_lock:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = warning = warn = error = exception = critical = fatal = log = msg


def _add_logger_name(logger: _Lines, _name: str, event: EventDict) -> EventDict:
    event["logger"] = logger.name
    return event


def _add_call_details(_logger: object, _name: str, event: EventDict) -> EventDict:
    describe = call_details.get()
    if describe is not None:
        for name, value in describe().items():
            event.setdefault(name, value)
    return event


def _to_json(_logger: object, _name: str, event: EventDict) -> str:
    return _encode(event).decode()
