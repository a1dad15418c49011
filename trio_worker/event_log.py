"""The operator's log: one event a line, for a person at a terminal or for a program.

Events are short English sentences in lower case, and what varies stands beside them::

    log = structlog.get_logger()
    log.info("query claimed", query=123, source="push")

The same handler prints what goes through the standard library's `logging`: Hypercorn's and Quart's
lines, and those of the user's own handler. Whatever is bound by `structlog.contextvars` (the query's
id, while a handler runs) is on the lines of both.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from trio_worker.masks import masks
from trio_worker.settings import LogFormat, LogLevel

__all__ = ["configure", "printed"]

# httpx logs each request's URL at INFO; httpcore and hpack each step at DEBUG, which costs a fifth of
# a request's time. hypercorn.access prints only when Hypercorn was asked to, by a handler of its own.
_QUIET = ("httpx", "httpcore", "hpack", "hypercorn.access")

# What goes wrong with Redis the bus says itself, once, and without what coredis' tracebacks may hold.
_SILENT = ("coredis",)

_FIRST_KEYS = ("timestamp", "level", "event", "process", "query", "attempt", "logger")


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be told from others when `configure` is called again.

    Not a QueueHandler with a thread of its own: the last lines before a crash are those that matter,
    and a queue would lose them.

    Args:
        stream: Where to.
        render: Makes a line of one of our own events.
    """

    def __init__(self, stream: TextIO, render: Callable[[str, EventDict], str]) -> None:
        super().__init__(stream)
        self._render = render

    def print(self, name: str, method: str, event: EventDict) -> None:
        """Print one of our own events, without the record that `logging` makes for others' handlers."""
        try:
            with self.lock or nullcontext():
                self.stream.write(self._render(method, event) + self.terminator)
                self.flush()
        except Exception:  # noqa: BLE001 - as any handler of `logging` does
            level = logging.getLevelNamesMapping()[method.upper()]
            self.handleError(logging.LogRecord(name, level, "", 0, str(event.get("event")), (), None))


_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
}
"""What structlog calls a logger for."""

_CALL_HANDLERS = logging.Logger.callHandlers


class _Logger:
    """What structlog hands our events to: `logging`, or the handler itself where no other one listens.

    A record costs as much as the line: `logging` looks for the caller, and copies it for the formatter.

    Args:
        *name: The logger's; without it, the caller's module.
    """

    _find = structlog.stdlib.LoggerFactory(ignore_frame_names=[__name__])

    def __init__(self, *name: str) -> None:
        self._logger: logging.Logger = self._find(*name)
        self.name = self._logger.name

    def __getattr__(self, method: str) -> Callable[..., None]:
        if method not in _LEVELS:
            raise AttributeError(method)
        return partial(self._log, method)

    def __reduce__(self) -> tuple[type[_Logger], tuple[str]]:
        return _Logger, (self.name,)

    def _log(self, method: str, event: EventDict, **record: Any) -> None:
        handler = self._only_handler()
        if handler is None:
            getattr(self._logger, method)(event, **record)
        elif _LEVELS[method] >= handler.level and self._is_enabled_for(_LEVELS[method]):
            handler.print(self.name, "error" if method == "exception" else method, event)

    def _is_enabled_for(self, level: int) -> bool:
        return not self._logger.disabled and self._logger.isEnabledFor(level)

    def _only_handler(self) -> _Handler | None:
        if logging.Logger.callHandlers is not _CALL_HANDLERS:
            return None  # replaced by an error tracker, which wants to hear of everything
        found: list[logging.Handler] = []
        logger: logging.Logger | None = self._logger
        while logger is not None:
            found += logger.handlers
            if logger.filters or not (logger.propagate or logger.parent is None):
                return None
            logger = logger.parent
        only = found[0] if len(found) == 1 else None
        return only if isinstance(only, _Handler) and not only.filters else None


@cache
def _named_logger(name: str) -> _Logger:
    return _Logger(name)


def _logger(*name: str) -> _Logger:
    # structlog asks anew for each line, and `logging` takes its lock to find what it knows by name.
    return _named_logger(*name) if name else _Logger()


def configure(
    level: LogLevel, format: LogFormat, stream: TextIO | None = None, *, process: int | None = None
) -> None:
    """Send all logging of this process to one stream. A second call replaces the first.

    Handlers that others put on the root logger stay.

    Args:
        level: The least important level that is printed.
        format: ``pretty`` for people, ``json`` for one JSON object a line, ``auto`` for pretty when
            the stream is a terminal.
        stream: Where to; None is ``sys.stderr`` as it is now, since ``stdout`` belongs to the
            commands' results.
        process: The number of this process, on each line; None: there are no others.
    """
    stream = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]
    common = _common(process)
    _configure_structlog(number, common)
    terminal = stream.isatty()
    pretty = format == "pretty" or (format == "auto" and terminal)
    last = _last_steps(_pretty_renderer(colors=terminal) if pretty else _render_json)
    _configure_logging(number, common, last, stream)


@contextmanager
def printed() -> Iterator[None]:
    """In a test, print our own log to stdout while the body runs: masked, with plain tracebacks.

    Does nothing where structlog is configured already. The standard library's `logging` is left to the test.
    """
    if structlog.is_configured():
        yield
        return
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _loggable,
            _masked(_pretty_renderer(colors=False)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    try:
        yield
    finally:
        structlog.reset_defaults()


def _configure_structlog(level: int, common: Sequence[Processor]) -> None:
    structlog.configure(
        processors=[*common, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_logger,
        # A cached logger would keep the first configuration, in a test for instance.
        cache_logger_on_first_use=False,
    )


def _configure_logging(
    level: int, common: Sequence[Processor], last: Sequence[Processor], stream: TextIO
) -> None:
    def render(method: str, event: EventDict) -> str:
        line: Any = event
        for step in last:
            line = step(None, method, line)
        return str(line)

    handler = _Handler(stream, render)
    handler.setFormatter(_formatter(common, last))
    # On the handler too: the root logger's level does not hold for a logger with a level of its own.
    handler.setLevel(level)
    root = logging.getLogger()
    for other in [other for other in root.handlers if isinstance(other, _Handler)]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.getLogger("hypercorn.error").addFilter(_without_own_handlers)
    logging.captureWarnings(True)


def _without_own_handlers(record: logging.LogRecord) -> bool:
    """Keep Hypercorn from printing each of its lines a second time, in its own format.

    Hypercorn gives its error logger a handler at its first line, which is after our start; so this
    takes it away when a line comes, before it is handed to any handler. A file that the operator
    asked for (`--error-logfile`) is a handler of another type, and stays.
    """
    logger = logging.getLogger(record.name)
    logger.handlers = [other for other in logger.handlers if type(other) is not logging.StreamHandler]
    return True


def _common(process: int | None) -> list[Processor]:
    """What is added to each event, whichever way it came."""

    def number(_logger: object, _method: str, event: EventDict) -> EventDict:
        event.setdefault("process", process)
        return event

    return [
        # Not by a context variable: threads that others start have none of ours.
        *([] if process is None else [number]),
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _last_steps(render: Processor) -> list[Processor]:
    """What is done to each event at the end, whichever way it came."""
    return [
        # The plain traceback in both formats, not rich's: rich can show local variables, and those
        # hold passwords and tokens; its frames can neither be searched for nor pasted.
        structlog.processors.format_exc_info,
        _loggable,
        _masked(render),
    ]


def _formatter(common: Sequence[Processor], last: Sequence[Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        # ExtraAdder: what a handler's author gives as logging's `extra=`.
        foreign_pre_chain=[*common, structlog.stdlib.ExtraAdder(), _without_traces],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _without_traces(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Drop what another handler's formatter has written on the record, which looks like an `extra`."""
    for trace in ("message", "asctime"):
        event.pop(trace, None)
    return event


def _masked(render: Processor) -> Processor:
    """As the last step: so that nothing is missed in a traceback, a `repr`, or what a handler logs."""

    def render_and_hide(logger: Any, method: str, event: EventDict) -> str:
        return masks.hide(str(render(logger, method, event)))

    return render_and_hide


def _pretty_renderer(*, colors: bool) -> Processor:
    console = structlog.dev.ConsoleRenderer(
        colors=colors,
        sort_keys=False,
        # By repr: a value that came from outside may hold a terminal's escape sequences.
        repr_native_str=True,
        # The traceback is text by now; but with any other formatter structlog 24 and 25 warn of that.
        exception_formatter=structlog.dev.plain_traceback,
    )

    def render(logger: Any, method: str, event: EventDict) -> str:
        # Of which query it is, first; it is bound, and stands behind all else.
        first = {"query": event.pop("query")} if "query" in event else {}
        return console(logger, method, first | dict(event))

    return render


# Made once: `json.dumps` makes one for each call.
_encode = json.JSONEncoder(ensure_ascii=False, default=repr).encode


def _render_json(_logger: object, _method: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in _FIRST_KEYS if key in event}
    line = _encode(first | dict(event))
    # A lone surrogate can't be written as UTF-8; its escape is the same in JSON.
    return line.encode(errors="backslashreplace").decode()


def _loggable(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {key: _loggable_value(value) for key, value in event.items()}


def _loggable_value(value: Any) -> Any:
    """The value itself if it can be printed, else what can be said of it."""
    if value is None or isinstance(value, str | int) or (type(value) is float and math.isfinite(value)):
        return value
    try:
        json.dumps(value, default=repr, allow_nan=False)
        return value
    except Exception:  # noqa: BLE001 - any __repr__ may raise anything, and no event is lost for that
        return _safe_repr(value)


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - as above
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
