"""What the operator sets: read from the environment, checked all at once, then frozen.

Each variable is declared once, at the field of `Settings` that it fills: its name, its default,
what it means, how it is read. The messages here, the README's table and `.env.example` follow from
that; a test compares the three.
"""

# Why not typed-settings or environ-config. environ-config stops at the first bad variable and does
# not name it. typed-settings gathers the errors, but words them as its converters do ("invalid
# literal for int()"), does not tell "empty" from "missing", and masks a secret only where it is
# declared with a type of its own, which then travels through the whole code. The messages are what
# an operator sees of us first, so this is attrs and one description per variable.

# ruff: noqa: RUF009 - `_from` gives an attrs.field, which attrs makes anew for each instance

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
import platformdirs

from trio_worker.credentials import Credentials, read_password, why_unreadable
from trio_worker.errors import SettingsError
from trio_worker.setting_kinds import (
    BIND,
    HANDLER,
    MASK,
    NAME,
    PASSWORD,
    PASSWORD_FILE,
    STATE_DIR,
    URL,
    USERNAME,
    Kind,
    one_of,
    seconds,
    shown,
    shown_nothing,
    shown_url,
    whole_number,
)

__all__ = [
    "VARIABLES",
    "JournalSync",
    "LostClaims",
    "OnCrash",
    "Settings",
    "Variable",
    "named_handler",
    "read_fields",
]

JournalSync = Literal["full", "normal"]
Language = Literal["en", "ru"]
LostClaims = Literal["requeue", "report"]
OnCrash = Literal["rerun", "requeue", "fail"]
LogFormat = Literal["auto", "pretty", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_DAY = 86_400


# --- The variables -------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Variable:
    """All there is to say of one variable of the environment.

    Attributes:
        name: Its name in the environment.
        default: What the README's table shows as its default: a value, ``required``, or words.
        example: What `.env.example` shows: the default, where that is a value.
        meaning: One line for the README's table and `.env.example`, in Markdown.
        expected: What is said to be expected when its value can't be used.
        required: Whether Settings can't be made without it.
    """

    name: str
    default: str
    example: str
    meaning: str
    expected: str
    required: bool
    _read: Callable[[str], Any]
    _show: Callable[[str], str]
    _strip: bool

    def read(self, text: str) -> Any:
        """Read the variable's value.

        Raises:
            ValueError: With the sentence for the operator.
        """
        stripped = text.strip()
        try:
            # An environment that is not UTF-8 arrives as lone surrogates, which no JSON can carry.
            text.encode()
            return self._read(stripped if self._strip else text)
        except ValueError:
            # Not chained: what a parser says may repeat a value that must not be shown.
            raise self.problem(self._show(stripped)) from None

    def problem(self, state: str) -> ValueError:
        """The error that says what stands there, and what is expected."""
        return ValueError(f"{self.name} is {state}: expected {self.expected}")


_VARIABLE = "trio_worker variable"


def _from(
    name: str,
    kind: Kind,
    meaning: str,
    *,
    default: str | None = None,
    words: str = "required",
    example: str = "",
    otherwise: Any = attrs.NOTHING,
    show: Callable[[str], str] = shown,
    secret: bool = False,
) -> Any:
    """Declare the field that a variable fills.

    Args:
        name: The variable.
        kind: How it is read.
        meaning: As in `Variable`.
        default: The value when it is not set, written as in the environment.
        words: The default in words, where it is no value.
        example: The value for `.env.example`, where there is no default.
        otherwise: The field's default, where ``default`` can't say it: a value or an attrs.Factory.
        show: How a wrong value is shown to the operator.
        secret: Whether the value is kept out of ``repr`` and messages, and taken with its blanks.
    """
    variable = Variable(
        name=name,
        default=words if default is None else default,
        example=example if default is None else default,
        meaning=meaning,
        expected=kind.expected,
        required=default is None and words == "required",
        read=kind.read,
        show=shown_nothing if secret else show,
        strip=not secret,
    )
    value = otherwise if default is None else kind.read(default)
    return attrs.field(default=value, repr=not secret, metadata={_VARIABLE: variable})


def _own_state_dir() -> Path:
    return platformdirs.user_state_path("trio-worker")


def _own_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


@attrs.frozen(kw_only=True)
class Settings:
    """What the operator has set, checked.

    Built by `from_environ`; tests may call the constructor, which checks nothing. Times are seconds.

    Attributes:
        webbuddy_url: Without a trailing slash.
        username: The account of the worker.
        password: Its password; with ``password_file`` what stood in the file at the start. Never
            in the ``repr``. To log in, use `credentials`.
        password_file: Where the password is read from again at each log-in, or None.
        num_workers: Consumers of the whole launch; `share_of` gives those of one process.
        worker_processes: How many processes share them, or None where only hypercorn knows.
        polling_interval: Between two ticks.
        handler: ``module:function``.
        processing_timeout: For one query.
        max_processing_time: Up to which a handler may extend that.
        request_timeout: For one call to WebBuddy.
        shutdown_grace: From the stop signal to the exit, all in all.
        bind: ``host:port``, ``[address]:port`` or ``unix:/path``; port 0 lets the system choose.
        name: Who claims, in the log.
        state_dir: Where the journal lies; absolute.
        journal_sync: ``full``: safe from a power cut; ``normal``: only from the death of the process.
        on_crash: What becomes of a query whose worker died in the middle.
        max_attempts: Deaths of which a query alone is to blame, after which it is failed.
        max_retries: How often a handler may put one query aside.
        watch_interval: Between two looks whether a running query is still ours; 0: never.
        lost_claims: What becomes of a query that was handed out in an answer that was lost.
        mask: Names of variables that hold secrets of the handler's.
        log_level: The least important level that is logged.
        log_format: ``auto`` is pretty on a terminal and JSON elsewhere.
        language: Of the sentences that WebBuddy's users read.
    """

    webbuddy_url: str = _from(
        "WEBBUDDY_URL",
        URL,
        "Where WebBuddy is. A path prefix and a trailing slash are fine.",
        default="http://localhost:8000",
        show=shown_url,
    )
    username: str = _from("WORKER_USERNAME", USERNAME, "The worker's account at WebBuddy.", example="worker")
    password: str = _from(
        "WORKER_PASSWORD",
        PASSWORD,
        "Its password. Never printed or logged. In `.env`, put it into single quotes.",
        example="'change-me'",
        secret=True,
    )
    password_file: Path | None = _from(
        "WORKER_PASSWORD_FILE",
        PASSWORD_FILE,
        "Instead of `WORKER_PASSWORD`: a mounted secret. Read again at each log-in.",
        words="none",
        example="/run/secrets/webbuddy-password",
        otherwise=None,
    )
    num_workers: int = _from(
        "NUM_WORKERS",
        whole_number(1, 10_000),
        "Consumers of this launch, 1 to 10000. Several processes share them, "
        "rounded up where it does not divide evenly: 20 over 4 is 4 × 5, 5 over 2 is 3 + 3.",
        default="5",
    )
    worker_processes: int | None = _from(
        "WORKER_PROCESSES",
        whole_number(1, 10_000),
        "How many processes share `NUM_WORKERS`.",
        words="hypercorn's `--workers`",
        example="1",
        otherwise=None,
    )
    polling_interval: float = _from(
        "POLLING_INTERVAL",
        seconds(_DAY),
        "Seconds between two looks for queries that no push announced, ± 10 %.",
        default="30",
    )
    handler: str = _from(
        "WORKER_HANDLER",
        HANDLER,
        "Your function, as `module:function`, `process:module:function` or `command:program …`.",
        example="trio_worker.handlers:echo",
    )
    processing_timeout: float = _from(
        "WORKER_PROCESSING_TIMEOUT",
        seconds(30 * _DAY),
        "Seconds for one query.",
        default="300",
    )
    max_processing_time: float = _from(
        "WORKER_MAX_PROCESSING_TIME",
        seconds(30 * _DAY),
        "Seconds up to which a handler may extend that (`ctx.extend`).",
        default="3600",
    )
    request_timeout: float = _from(
        "WORKER_REQUEST_TIMEOUT",
        seconds(3_600),
        "Seconds for one call to WebBuddy.",
        default="30",
    )
    shutdown_grace: float = _from(
        "WORKER_SHUTDOWN_GRACE",
        seconds(_DAY),
        "Seconds from the stop signal to the exit, all in all (Kubernetes gives 30). "
        "The last 5, at most a third, are for putting back, reporting and closing.",
        default="25",
    )
    bind: str = _from(
        "WORKER_BIND",
        BIND,
        "Where `trio-worker run` listens: `host:port` or `unix:/path`.",
        default="127.0.0.1:8001",
    )
    name: str = _from(
        "WORKER_NAME",
        NAME,
        "Who claimed a query, in the log.",
        words="host and process id",
        example="worker-1",
        otherwise=attrs.Factory(_own_name),
    )
    state_dir: Path = _from(
        "WORKER_STATE_DIR",
        STATE_DIR,
        "Where what the worker holds is kept over a crash: a folder on a local disk. In a container, mount a "
        "volume there.",
        words="`~/.local/state/trio-worker`, or your platform's",
        example="/var/lib/trio-worker",
        otherwise=attrs.Factory(_own_state_dir),
    )
    journal_sync: JournalSync = _from(
        "WORKER_JOURNAL_SYNC",
        one_of(get_args(JournalSync)),
        "`full`: what is held survives a power cut. `normal`: only the death of the process; faster.",
        default="full",
    )
    on_crash: OnCrash = _from(
        "WORKER_ON_CRASH",
        one_of(get_args(OnCrash)),
        "A query whose worker died in the middle: `rerun` it here, `requeue` it, or `fail` it.",
        default="rerun",
    )
    max_attempts: int = _from(
        "WORKER_MAX_ATTEMPTS",
        whole_number(1, 1_000),
        "A query that was alone at work in so many deaths of its worker is failed.",
        default="3",
    )
    max_retries: int = _from(
        "WORKER_MAX_RETRIES",
        whole_number(0, 10_000),
        "How often a handler may put one query aside by `RetryLater`.",
        default="10",
    )
    watch_interval: float = _from(
        "WORKER_WATCH_INTERVAL",
        seconds(_DAY, or_off=True),
        "Seconds between two looks whether a running query was ended, requeued or deleted meanwhile. 0: off.",
        default="30",
    )
    lost_claims: LostClaims = _from(
        "WORKER_LOST_CLAIMS",
        one_of(get_args(LostClaims)),
        "A query whose claim's answer was lost on the way: `requeue` it, or only `report` it.",
        default="requeue",
    )
    mask: tuple[str, ...] = _from(
        "WORKER_MASK",
        MASK,
        "Names of variables whose values never show: in logs and answers they are `[MASKED]`.",
        words="none",
        example="API_KEY,DB_PASSWORD",
        otherwise=(),
    )
    log_level: LogLevel = _from(
        "WORKER_LOG_LEVEL",
        one_of(get_args(LogLevel)),
        "`debug`, `info`, `warning` or `error`.",
        default="info",
    )
    log_format: LogFormat = _from(
        "WORKER_LOG_FORMAT",
        one_of(get_args(LogFormat)),
        "`pretty`, `json`, or `auto`: pretty on a terminal, JSON lines elsewhere.",
        default="auto",
    )
    language: Language = _from(
        "WORKER_LANGUAGE",
        one_of(get_args(Language)),
        "`en` or `ru`: the sentences that WebBuddy's users read in logs and failures.",
        default="en",
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from a mapping such as `read_environment` gives.

        Reads ``WORKER_PASSWORD_FILE`` too, and blocks while it does: call it before Trio runs.

        Raises:
            SettingsError: With everything that is wrong, one sentence each.
        """
        return cls(**_read(environ, _BY_FIELD))

    @property
    def shutdown_reserve(self) -> float:
        """Seconds at the end of the grace that are kept for putting back, reporting and closing."""
        return min(5.0, self.shutdown_grace / 3)

    def credentials(self) -> Credentials:
        """What the worker logs in with."""
        return Credentials(self.username, self.password, self.password_file)

    def share_of(self, processes: int, index: int | None = None) -> int:
        """How many of the ``num_workers`` consumers run in one of several processes.

        Rounded so that all processes together never have fewer than asked, and each has one at
        least: 5 over 2 is 3 + 2 where the processes know their index, 3 + 3 where they do not
        (hypercorn does not number its processes).

        Args:
            processes: How many processes share them; at least 1.
            index: Which of them this is, from 0; None when it does not know.
        """
        whole, rest = divmod(self.num_workers, processes)
        first = rest if index is None else rest - index
        return max(1, whole + (first > 0))


def _declared(cls: type[Settings]) -> list[tuple[str, Variable]]:
    return [(field.name, field.metadata[_VARIABLE]) for field in attrs.fields(cls)]


VARIABLES: tuple[Variable, ...] = tuple(variable for _, variable in _declared(Settings))
"""Every variable that is read, in the order of the README's table."""

_BY_FIELD = dict(_declared(Settings))


def read_fields(environ: Mapping[str, str], *fields: str) -> dict[str, Any]:
    """Read some of the settings, for a command that needs no others: the rest may be missing, or wrong.

    Args:
        environ: As `read_environment` gives it.
        *fields: Attributes of `Settings`.

    Returns:
        Their values by name.

    Raises:
        SettingsError: With everything that is wrong, one sentence each.
    """
    found = _read(environ, fields)
    return {field: found[field] if field in found else _default(field) for field in fields}


def _read(environ: Mapping[str, str], fields: Iterable[str]) -> dict[str, Any]:
    """The values of those fields that the environment has."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in fields:
        try:
            values |= _found(field, _BY_FIELD[field], environ)
        except ValueError as problem:
            problems.append(str(problem))
    if problems:
        raise SettingsError(problems)
    return values


def _default(field: str) -> Any:
    default = getattr(attrs.fields(Settings), field).default
    factory = getattr(default, "factory", None)  # attrs.Factory is no class to mypy
    return default if factory is None else factory()


def named_handler(environ: Mapping[str, str]) -> str | None:
    """Give the handler that an environment names, whatever else is wrong with that environment.

    Args:
        environ: As `read_environment` gives it.

    Returns:
        ``module:function``, or None when there is nothing of that shape.
    """
    variable = _BY_FIELD["handler"]
    try:
        return str(variable.read(environ.get(variable.name, "")))
    except ValueError:
        return None


def _found(field: str, variable: Variable, environ: Mapping[str, str]) -> dict[str, Any]:
    """The value of one field, if the environment has it."""
    if field == "password":
        return _found_password(environ)
    if _is_set(variable, environ):
        return {field: variable.read(environ[variable.name])}
    if variable.required:
        raise variable.problem(_lack(variable, environ))
    return {}


def _is_set(variable: Variable, environ: Mapping[str, str]) -> bool:
    """Whether there is a value; docker-compose passes a blank one for what it does not have."""
    return bool(environ.get(variable.name, "").strip())


def _lack(variable: Variable, environ: Mapping[str, str]) -> str:
    return "empty" if variable.name in environ else "missing"


def _found_password(environ: Mapping[str, str]) -> dict[str, str]:
    """The password, from whichever of its two variables is set."""
    password, file = _BY_FIELD["password"], _BY_FIELD["password_file"]
    if _is_set(password, environ) and _is_set(file, environ):
        raise ValueError(f"{password.name} and {file.name} are both set: expected one of them")
    if _is_set(file, environ):
        return _password_of_file(file, environ[file.name])
    if not _is_set(password, environ):
        raise password.problem(_lack(password, environ))
    return {"password": password.read(environ[password.name])}


def _password_of_file(variable: Variable, text: str) -> dict[str, str]:
    try:
        path = variable.read(text)
    except ValueError:
        return {}  # said by the field password_file
    try:
        return {"password": read_password(path)}
    except (OSError, ValueError) as error:
        raise variable.problem(f"{shown(text.strip())}, and {why_unreadable(error)}") from None
