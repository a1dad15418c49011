"""The operator's log: one way out for structlog's events and for the standard library's."""

from __future__ import annotations

import copy
import io
import json
import logging
import logging.handlers
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import hypercorn.logging
import pytest
import structlog
import trio
from hypercorn.config import Config

from trio_worker import event_log
from trio_worker.settings import LogFormat, LogLevel

FOREIGN = ("hypercorn.error", "hypercorn.access", "httpx", "httpcore", "hpack")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.level, root.handlers[:] = before
    for logger in map(logging.getLogger, FOREIGN):
        logger.setLevel(logging.NOTSET)
        logger.handlers.clear()
        logger.filters.clear()
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def configured(
    format: LogFormat = "json", level: LogLevel = "info", *, terminal: bool = False
) -> io.StringIO:
    stream = Terminal() if terminal else io.StringIO()
    # pytest's own handlers, which it adds for each test, raise on what can't be printed.
    root = logging.getLogger()
    root.handlers[:] = [other for other in root.handlers if not type(other).__module__.startswith("_pytest")]
    event_log.configure(level, format, stream)
    return stream


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def event(stream: io.StringIO) -> dict[str, Any]:
    (only,) = events(stream)
    return only


# --- Who hears of it ------------------------------------------------------------------------------


def test_other_handlers_hear_of_our_events() -> None:
    """One on the root, or on a logger of ours: it gets a record, as from any library; so does ours."""
    for name in ("", "trio_worker"):
        stream = configured()
        other = logging.handlers.BufferingHandler(10)
        logging.getLogger(name).addHandler(other)
        try:
            structlog.get_logger("trio_worker.consumer").warning("query failed", query=123)
        finally:
            logging.getLogger(name).removeHandler(other)
        (record,) = other.buffer
        assert (record.name, record.levelno) == ("trio_worker.consumer", logging.WARNING)
        assert event(stream)["query"] == 123


def test_a_logger_that_is_filtered_or_kept_from_the_root() -> None:
    """What the operator has set for a logger of `logging` holds for our events, too."""
    stream = configured()
    logger = logging.getLogger("trio_worker.consumer")
    logger.addFilter(never := lambda _record: False)
    structlog.get_logger(logger.name).warning("filtered")
    logger.removeFilter(never)
    logger.propagate = False
    structlog.get_logger(logger.name).warning("kept")
    logger.propagate = True
    assert events(stream) == []


@pytest.mark.parametrize("switch", ["level", "disabled", "logging.disable", "root", "handler"])
def test_what_is_switched_off_in_logging(switch: str) -> None:
    """As for any library's lines; what is more important still comes."""
    stream = configured()
    root, logger = logging.getLogger(), logging.getLogger("trio_worker.consumer")
    try:
        match switch:
            case "level":
                logger.setLevel(logging.ERROR)
            case "disabled":
                logger.disabled = True
            case "logging.disable":
                logging.disable(logging.WARNING)
            case "root":
                root.setLevel(logging.ERROR)
            case "handler":
                root.handlers[0].setLevel(logging.ERROR)
        structlog.get_logger(logger.name).warning("switched off")
        assert events(stream) == []
        structlog.get_logger(logger.name).error("serious")
        assert len(events(stream)) == (0 if switch == "disabled" else 1)
    finally:
        logger.setLevel(logging.NOTSET)
        logger.disabled = False
        logging.disable(logging.NOTSET)


def test_an_error_tracker_hears_of_our_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that put themselves in the place of `Logger.callHandlers`, as Sentry's does."""
    stream = configured()
    heard = []
    call_handlers = logging.Logger.callHandlers

    def listen(logger: logging.Logger, record: logging.LogRecord) -> None:
        heard.append(record)
        call_handlers(logger, record)

    monkeypatch.setattr(logging.Logger, "callHandlers", listen)
    structlog.get_logger("trio_worker.consumer").error("the handler raised", query=123)
    assert [record.levelno for record in heard] == [logging.ERROR]
    assert event(stream)["query"] == 123


def test_a_logger_can_be_copied() -> None:
    """With whatever of a handler's holds one."""
    stream = configured()
    bound = structlog.get_logger("agent").bind(step=1)
    for copied in (copy.copy(bound), copy.deepcopy(bound)):
        copied.warning("copied")
    assert [(said["event"], said["logger"], said["step"]) for said in events(stream)] == [
        ("copied", "agent", 1)
    ] * 2
    assert not hasattr(bound._logger, "no_such_level")


def test_a_stream_that_can_not_be_written_to(capsys: pytest.CaptureFixture[str]) -> None:
    """Like `logging`: it is said on stderr, and nobody who logs comes to harm."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError("No space left on device")

    event_log.configure("info", "json", Full())
    structlog.get_logger("trio_worker").info("started")
    assert "No space left on device" in capsys.readouterr().err


# --- What is on a line ---------------------------------------------------------------------------


def test_json_line() -> None:
    """An event is one JSON object: when, how important, what, of which query, by whom, and what else."""
    stream = configured()
    structlog.get_logger("trio_worker.consumer").info("query claimed", source="push", query=123)
    said = event(stream)
    assert list(said) == ["timestamp", "level", "event", "query", "logger", "source"]
    when = datetime.fromisoformat(said.pop("timestamp"))
    assert when.utcoffset() == timedelta(0)
    assert said == {
        "level": "info",
        "event": "query claimed",
        "logger": "trio_worker.consumer",
        "query": 123,
        "source": "push",
    }


def test_logging_goes_the_same_way() -> None:
    """A line of the standard library's logging has the same form, its arguments and `extra` included."""
    stream = configured()
    logging.getLogger("somebody").warning("%d of %d", 1, 2, extra={"page": 7})
    said = event(stream)
    assert (said["event"], said["level"], said["logger"], said["page"]) == (
        "1 of 2",
        "warning",
        "somebody",
        7,
    )
    assert datetime.fromisoformat(said["timestamp"]).utcoffset() == timedelta(0)


async def test_bound_context_is_on_lines_of_both() -> None:
    """What is bound while a handler runs is on its lines, whichever way it logs, in a thread too."""
    stream = configured()
    with structlog.contextvars.bound_contextvars(query=42):
        structlog.get_logger().info("ours")
        logging.getLogger("theirs").info("theirs")
        await trio.to_thread.run_sync(logging.getLogger("theirs").info, "in a thread")
    structlog.get_logger().info("after")
    assert [said.get("query") for said in events(stream)] == [42, 42, 42, None]


def test_cyrillic_is_readable() -> None:
    """The language of half of our users is not escaped."""
    stream = configured()
    structlog.get_logger().info("привет", text="Протестировать авторизацию")
    assert "привет" in stream.getvalue()
    assert "Протестировать авторизацию" in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "pretty"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(object(), id="object"),
        pytest.param(Unprintable(), id="unprintable"),
        pytest.param([Unprintable()], id="unprintable within"),
        pytest.param({(1, 2): 3}, id="keys that JSON has not"),
        pytest.param(float("nan"), id="nan"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param({1, 2}, id="set"),
        pytest.param("\udcff", id="lone surrogate"),
    ],
)
@pytest.mark.parametrize("logged", ["structlog", "logging"])
def test_no_value_loses_the_line(
    format: LogFormat, value: object, logged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is logged, the line comes, it is valid UTF-8 JSON, and nothing is raised or reported."""
    stream = configured(format)
    if logged == "structlog":
        structlog.get_logger().info("something happened", value=value)
    else:
        logging.getLogger("somebody").info("something happened", extra={"value": value})
    assert stream.getvalue().count("something happened") == 1
    if format == "json":
        stream.getvalue().encode()
        json.loads(stream.getvalue(), parse_constant=pytest.fail)
    assert capsys.readouterr().err == ""


def test_circular_value() -> None:
    """A list that holds itself is shown as far as Python shows it."""
    circular: list[object] = []
    circular.append(circular)
    stream = configured()
    structlog.get_logger().info("round", value=circular)
    assert event(stream)["value"] == "[[...]]"


# --- Exceptions ----------------------------------------------------------------------------------


def fail_with_a_secret() -> None:
    password = "hush-" + "hush"
    raise ExceptionGroup("all of it", [ValueError(f"{len(password)} letters"), KeyError("имя")])


@pytest.mark.parametrize("format", ["json", "pretty"])
@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("logged", ["structlog", "logging", "exc_info"])
def test_traceback_without_locals(format: LogFormat, terminal: bool, logged: str) -> None:
    """The whole traceback is there, groups and notes too, but never a local variable's value."""
    stream = configured(format, terminal=terminal)
    try:
        fail_with_a_secret()
    except ExceptionGroup as error:
        error.add_note("a note")
        if logged == "structlog":
            structlog.get_logger().exception("it broke")
        elif logged == "logging":
            logging.getLogger("somebody").exception("it broke")
        else:
            structlog.get_logger().error("it broke", exc_info=error)
    text = event(stream)["exception"] if format == "json" else stream.getvalue()
    for part in ("fail_with_a_secret", "ValueError: 9 letters", "KeyError: 'имя'", "a note"):
        assert part in text
    assert "hush-hush" not in stream.getvalue()


# --- Formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "terminal", "is_json", "colours"),
    [
        ("auto", True, False, True),
        ("auto", False, True, False),
        ("pretty", True, False, True),
        ("pretty", False, False, False),
        ("json", True, True, False),
        ("json", False, True, False),
    ],
)
def test_format(format: LogFormat, terminal: bool, is_json: bool, colours: bool) -> None:
    """`auto` is pretty on a terminal and JSON elsewhere; colours are for terminals alone."""
    stream = configured(format, terminal=terminal)
    structlog.get_logger().info("query claimed", query=123)
    text = stream.getvalue()
    assert text.startswith("{") == is_json
    assert ("\x1b[" in text) == colours
    assert "query claimed" in text


def test_pretty_escapes_what_controls_a_terminal() -> None:
    """A value from outside can't colour, clear or forge the operator's screen."""
    stream = configured("pretty")
    structlog.get_logger().info("pushed", url="http://\x1b[2Jx", text="Привет\nfaked line")
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1
    assert "Привет" in stream.getvalue()


def test_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """The log is on stderr, as that is at the moment of the call; stdout is for results."""
    event_log.configure("info", "json")
    structlog.get_logger().info("here")
    captured = capsys.readouterr()
    assert json.loads(captured.err)["event"] == "here"
    assert captured.out == ""


# --- Levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(level: LogLevel, shown: list[str]) -> None:
    """Nothing below the level is printed, whichever way it is logged, by nobody's own level."""
    stream = configured(level=level)
    own = logging.getLogger("hypercorn.error")
    own.setLevel(logging.DEBUG)
    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger(), name)("event")
        getattr(logging.getLogger("somebody"), name)("event")
        getattr(own, name)("event")
    assert [said["level"] for said in events(stream)] == [name for name in shown for _ in range(3)]


@pytest.mark.parametrize("name", ["httpx", "httpcore.connection", "hpack.hpack", "hypercorn.access"])
def test_chatty_libraries_are_quiet(name: str) -> None:
    """A line per request is nobody's news, not even at `debug`; their warnings are."""
    stream = configured(level="debug")
    logging.getLogger(name).info("HTTP Request: GET http://…")
    logging.getLogger(name).warning("odd")
    assert event(stream)["event"] == "odd"


# --- Others --------------------------------------------------------------------------------------


def test_second_call_replaces_the_first() -> None:
    """Configured twice, each line still comes once, where and as the second call says."""
    first = configured("json", "info")
    log = structlog.get_logger()
    log.info("one")
    second = configured("pretty", "debug")
    log.info("two")
    log.debug("three")
    logging.getLogger("somebody").debug("four")
    assert event(first)["event"] == "one"
    assert second.getvalue().count("\n") == 3


def test_handlers_of_others_stay() -> None:
    """Whoever put a handler on the root logger (Sentry, a test) keeps it."""
    theirs = logging.NullHandler()
    logging.getLogger().addHandler(theirs)
    configured()
    configured()
    assert theirs in logging.getLogger().handlers


def test_handlers_of_others_leave_no_trace() -> None:
    """What another handler writes on a record while it formats it is not on our line."""
    theirs = logging.StreamHandler(io.StringIO())
    theirs.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(theirs)
    stream = configured()
    logging.getLogger("somebody").info("once")
    assert event(stream).keys() == {"timestamp", "level", "event", "logger"}


async def test_hypercorn_lines_come_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypercorn's own handler, given to its logger after our start, does not print the line again."""
    stream, theirs = configured(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", theirs)
    log = hypercorn.logging.Logger(Config())
    await log.info("Running on http://127.0.0.1:8001")
    await log.error("bad")
    assert [said["event"] for said in events(stream)] == ["Running on http://127.0.0.1:8001", "bad"]
    assert theirs.getvalue() == ""


async def test_hypercorn_error_file_stays(tmp_path: Any) -> None:
    """A file that the operator asked Hypercorn for gets its lines."""
    stream = configured()
    config = Config()
    config.errorlog = str(tmp_path / "errors")
    log = hypercorn.logging.Logger(config)
    await log.info("Running")
    for handler in logging.getLogger("hypercorn.error").handlers:
        handler.close()
    assert "Running" in (tmp_path / "errors").read_text()
    assert event(stream)["event"] == "Running"


def test_python_warnings_are_logged() -> None:
    """A warning of a library is a line like others, not text between JSON lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = configured()
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "DeprecationWarning: soon gone" in event(stream)["event"]
