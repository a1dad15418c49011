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

import difflib
import io
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import attrs
import dotenv
import httpx
import platformdirs
import structlog
import trio

from trio_worker.errors import SettingsError

__all__ = [
    "VARIABLES",
    "Credentials",
    "JournalSync",
    "LostClaims",
    "OnCrash",
    "Settings",
    "Variable",
    "named_handler",
    "read_environment",
    "read_fields",
    "split_handler_path",
    "unknown_variables",
]

JournalSync = Literal["full", "normal"]
Language = Literal["en", "ru"]
LostClaims = Literal["requeue", "report"]
OnCrash = Literal["rerun", "requeue", "fail"]
LogFormat = Literal["auto", "pretty", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_log = structlog.stdlib.get_logger(__name__)

_DAY = 86_400
_LONGEST_SHOWN = 100
# The system's limit for the path of a Unix socket, without its final NUL: 103 bytes on macOS, 107 on Linux.
_LONGEST_SOCKET_PATH = 103


# --- How a value is read -------------------------------------------------------------------------


@attrs.frozen
class _Kind:
    """A sort of value: how it is read, and what to say when it can't be.

    A reader raises ValueError with any text: the operator is told what is expected, not which
    step of the reading went wrong.
    """

    read: Callable[[str], Any]
    expected: str


def _reject(_value: object = None) -> NoReturn:
    raise ValueError


def _whole(low: int, high: int) -> _Kind:
    def read(text: str) -> int:
        # int() alone would also take "1_0", "+5", other alphabets' digits, and balk at 5 000 digits.
        value = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else _reject()
        return value if low <= value <= high else _reject()

    return _Kind(read, f"a whole number from {low} to {high}")


def _seconds(high: int, *, or_off: bool = False) -> _Kind:
    def read(text: str) -> float:
        # float() alone would also take "nan", "inf" and "1e3".
        value = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else _reject()
        return value if 0 < value <= high or (or_off and value == 0) else _reject()

    low = "0 (off) or more" if or_off else "more than 0"
    return _Kind(read, f"seconds, such as 30 or 0.5: {low} and at most {high}")


def _one_of(choices: Iterable[str]) -> _Kind:
    allowed = tuple(choices)
    return _Kind(
        lambda text: text.lower() if text.lower() in allowed else _reject(),
        ", ".join(allowed[:-1]) + " or " + allowed[-1],
    )


def _text(expected: str, *, longest: int = 1_000) -> _Kind:
    return _Kind(lambda text: text if text.isprintable() and len(text) <= longest else _reject(), expected)


def _read_url(text: str) -> str:
    if not text.isprintable() or re.search(r"[\s?#\\]", text):
        _reject()
    try:
        # The parser that will be used on it in the end: what it refuses, or reads differently from
        # urllib, must be known here and not at the first call.
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError from error
    if url.scheme not in ("http", "https") or not url.host.strip(".") or url.userinfo:
        _reject()
    if url.port is not None and not 1 <= url.port <= 65_535:
        _reject()
    return str(url).rstrip("/")


def _read_bind(text: str) -> str:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        long = len(os.fsencode(path)) > _LONGEST_SOCKET_PATH
        return _reject() if long or not path.startswith("/") or path.endswith("/") else text
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        _reject()
    if host.startswith("[") and host.endswith("]"):
        ipaddress.IPv6Address(host[1:-1])
    elif not re.fullmatch(r"[A-Za-z0-9_.-]+", host):
        _reject()
    return text


def split_handler_path(text: str) -> tuple[str, str]:
    """Split ``module:function`` at its colon.

    Returns:
        The dotted name of the module and the (perhaps dotted) name within it.

    Raises:
        ValueError: When it is not two dotted names with one colon between them.
    """
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError("module:function expected")
    return module, name


def _read_handler_path(text: str) -> str:
    split_handler_path(text)
    return text


def _read_path(text: str) -> Path:
    # Absolute from the start: the file is read again at each log-in, and a handler may call chdir.
    return Path(text).absolute() if "\0" not in text else _reject()


def _read_folder(text: str) -> Path:
    # "~" is not the shell's here: it may come from `.env`, or from a unit file.
    return _read_path(os.path.expanduser(text))


def _shown_url(text: str) -> str:
    """A URL without what may be a secret: a user and password, a query, a fragment."""
    text = re.sub(r"^([a-z]+://)?.*@", r"\1***@", text, flags=re.DOTALL | re.IGNORECASE)
    return _shown(re.sub(r"([?#]).*", r"\1***", text, flags=re.DOTALL))


def _shown_nothing(_text: str) -> str:
    return "set (its value is not shown)"


def _shown(text: str) -> str:
    short = text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
    return repr(short)


_BIND = _Kind(
    _read_bind,
    "host:port such as 127.0.0.1:8001, [::1]:8001 or 0.0.0.0:8001 (every interface), "
    f"or unix:/path with a path of at most {_LONGEST_SOCKET_PATH} bytes",
)
_HANDLER = _Kind(_read_handler_path, "module:function, such as trio_worker.handlers:echo")
_NAME = _text("a name of at most 100 printable characters", longest=100)
_PASSWORD = _Kind(
    lambda text: text.rstrip("\r\n"), "the password of the account, or WORKER_PASSWORD_FILE in its stead"
)
_PASSWORD_FILE = _Kind(_read_path, "the path of a readable file that holds the password and nothing else")
_STATE_DIR = _Kind(_read_folder, "the path of a folder on a local disk")
_URL = _Kind(
    _read_url,
    "http:// or https://, a host, perhaps a port and a path; no user, no password, no ? and no #",
)
_USERNAME = _text("the name of the worker's account at WebBuddy")


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
        if not stripped:
            raise self.problem("empty")
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
    kind: _Kind,
    meaning: str,
    *,
    default: str | None = None,
    words: str = "required",
    example: str = "",
    otherwise: Any = attrs.NOTHING,
    show: Callable[[str], str] = _shown,
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
        show=_shown_nothing if secret else show,
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
        log_level: The least important level that is logged.
        log_format: ``auto`` is pretty on a terminal and JSON elsewhere.
        language: Of the sentences that WebBuddy's users read.
    """

    webbuddy_url: str = _from(
        "WEBBUDDY_URL",
        _URL,
        "Where WebBuddy is. A path prefix and a trailing slash are fine.",
        default="http://localhost:8000",
        show=_shown_url,
    )
    username: str = _from("WORKER_USERNAME", _USERNAME, "The worker's account at WebBuddy.", example="worker")
    password: str = _from(
        "WORKER_PASSWORD",
        _PASSWORD,
        "Its password. Never printed or logged. In `.env`, put it into single quotes.",
        example="'change-me'",
        secret=True,
    )
    password_file: Path | None = _from(
        "WORKER_PASSWORD_FILE",
        _PASSWORD_FILE,
        "Instead of `WORKER_PASSWORD`: a mounted secret. Read again at each log-in.",
        words="none",
        example="/run/secrets/webbuddy-password",
        otherwise=None,
    )
    num_workers: int = _from(
        "NUM_WORKERS",
        _whole(1, 10_000),
        "Consumers of this launch, 1 to 10000. Several processes share them, "
        "rounded up where it does not divide evenly: 20 over 4 is 4 × 5, 5 over 2 is 3 + 3.",
        default="5",
    )
    worker_processes: int | None = _from(
        "WORKER_PROCESSES",
        _whole(1, 10_000),
        "How many processes share `NUM_WORKERS`.",
        words="hypercorn's `--workers`",
        example="1",
        otherwise=None,
    )
    polling_interval: float = _from(
        "POLLING_INTERVAL",
        _seconds(_DAY),
        "Seconds between two looks for queries that no push announced, ± 10 %.",
        default="30",
    )
    handler: str = _from(
        "WORKER_HANDLER",
        _HANDLER,
        "Your function, as `module:function`. The working directory is importable.",
        example="trio_worker.handlers:echo",
    )
    processing_timeout: float = _from(
        "WORKER_PROCESSING_TIMEOUT",
        _seconds(30 * _DAY),
        "Seconds for one query.",
        default="300",
    )
    request_timeout: float = _from(
        "WORKER_REQUEST_TIMEOUT",
        _seconds(3_600),
        "Seconds for one call to WebBuddy.",
        default="30",
    )
    shutdown_grace: float = _from(
        "WORKER_SHUTDOWN_GRACE",
        _seconds(_DAY),
        "Seconds from the stop signal to the exit, all in all (Kubernetes gives 30). "
        "The last 5, at most a third, are for putting back and reporting.",
        default="25",
    )
    bind: str = _from(
        "WORKER_BIND",
        _BIND,
        "Where `trio-worker run` listens: `host:port` or `unix:/path`.",
        default="127.0.0.1:8001",
    )
    name: str = _from(
        "WORKER_NAME",
        _NAME,
        "Who claimed a query, in the log.",
        words="host and process id",
        example="worker-1",
        otherwise=attrs.Factory(_own_name),
    )
    state_dir: Path = _from(
        "WORKER_STATE_DIR",
        _STATE_DIR,
        "Where what the worker holds is kept over a crash: a folder on a local disk. In a container, mount a "
        "volume there.",
        words="`~/.local/state/trio-worker`, or your platform's",
        example="/var/lib/trio-worker",
        otherwise=attrs.Factory(_own_state_dir),
    )
    journal_sync: JournalSync = _from(
        "WORKER_JOURNAL_SYNC",
        _one_of(get_args(JournalSync)),
        "`full`: what is held survives a power cut. `normal`: only the death of the process; faster.",
        default="full",
    )
    on_crash: OnCrash = _from(
        "WORKER_ON_CRASH",
        _one_of(get_args(OnCrash)),
        "A query whose worker died in the middle: `rerun` it here, `requeue` it, or `fail` it.",
        default="rerun",
    )
    max_attempts: int = _from(
        "WORKER_MAX_ATTEMPTS",
        _whole(1, 1_000),
        "A query that was alone at work in so many deaths of its worker is failed.",
        default="3",
    )
    max_retries: int = _from(
        "WORKER_MAX_RETRIES",
        _whole(0, 10_000),
        "How often a handler may put one query aside by `RetryLater`.",
        default="10",
    )
    watch_interval: float = _from(
        "WORKER_WATCH_INTERVAL",
        _seconds(_DAY, or_off=True),
        "Seconds between two looks whether a running query was ended, requeued or deleted meanwhile. 0: off.",
        default="30",
    )
    lost_claims: LostClaims = _from(
        "WORKER_LOST_CLAIMS",
        _one_of(get_args(LostClaims)),
        "A query whose claim's answer was lost on the way: `requeue` it, or only `report` it.",
        default="requeue",
    )
    log_level: LogLevel = _from(
        "WORKER_LOG_LEVEL",
        _one_of(get_args(LogLevel)),
        "`debug`, `info`, `warning` or `error`.",
        default="info",
    )
    log_format: LogFormat = _from(
        "WORKER_LOG_FORMAT",
        _one_of(get_args(LogFormat)),
        "`pretty`, `json`, or `auto`: pretty on a terminal, JSON lines elsewhere.",
        default="auto",
    )
    language: Language = _from(
        "WORKER_LANGUAGE",
        _one_of(get_args(Language)),
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
        """Seconds at the end of the grace that are kept for putting back and reporting."""
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
    if variable.name in environ:
        return {field: variable.read(environ[variable.name])}
    if variable.required:
        raise ValueError(f"{variable.name} is missing: expected {variable.expected}")
    return {}


def _found_password(environ: Mapping[str, str]) -> dict[str, str]:
    """The password, from whichever of its two variables is set."""
    password, file = _BY_FIELD["password"], _BY_FIELD["password_file"]
    if password.name not in environ and file.name not in environ:
        raise ValueError(f"{password.name} is missing: expected {password.expected}")
    if password.name not in environ:
        return _password_of_file(file, environ[file.name])
    if file.name in environ:
        raise ValueError(f"{password.name} and {file.name} are both set: expected one of them")
    return {"password": password.read(environ[password.name])}


def _password_of_file(variable: Variable, text: str) -> dict[str, str]:
    try:
        path = variable.read(text)
    except ValueError:
        return {}  # said by the field password_file
    try:
        return {"password": _read_password(path)}
    except (OSError, ValueError) as error:
        raise variable.problem(f"{_shown(text.strip())}, and {_reason(error)}") from None


def _read_password(path: Path) -> str:
    """Read a password's file; blocks.

    Raises:
        OSError: When it can't be read.
        ValueError: When there is no password in it; never quotes what there is.
    """
    # A pipe (bash's `<(…)`) would be empty at the next log-in, and one without a writer never ends.
    if path.exists() and not path.is_file():
        raise ValueError("that file is a directory, a pipe or a device")
    try:
        # The newline is the editor's. Blanks are the password's.
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("that file is not UTF-8") from None
    if not password.strip():
        raise ValueError("that file is empty")
    return password


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"that file can't be read ({error.strerror})"
    return str(error)


# --- The password, again at each log-in ----------------------------------------------------------


@attrs.define
class Credentials:
    """What the worker logs in with. The password is never in the ``repr``.

    Args:
        username: The account.
        password: The password so far.
        password_file: Where a newer one may stand, or None.
    """

    username: str
    _password: str = attrs.field(repr=False)
    password_file: Path | None = None

    async def read(self) -> tuple[str, str]:
        """Give the name and the password as they are now, for one log-in.

        A file that can't be read at this moment, or is empty (a secret that is just being
        replaced), is a warning in the log, and the last password known is given: WebBuddy decides.

        Cancellation leaves at most a thread behind that ends with its read, and the last password
        known as it was.

        Returns:
            The name and the password.
        """
        if self.password_file is None:
            await trio.lowlevel.checkpoint()
            return self.username, self._password
        try:
            # abandon_on_cancel: a mounted secret can hang with its file system, a log-in must not.
            self._password = await trio.to_thread.run_sync(
                _read_password, self.password_file, abandon_on_cancel=True
            )
        except (OSError, ValueError) as error:
            _log.warning(
                "password file can't be read, the last password known is used",
                file=str(self.password_file),
                reason=_reason(error),
            )
        return self.username, self._password


# --- The environment -----------------------------------------------------------------------------


def read_environment(directory: Path) -> dict[str, str]:
    """Lay the environment of the process over the ``.env`` of a directory.

    ``.env`` is taken literally: no ``$VARIABLE`` in it is replaced, since a password may have a
    dollar sign. A missing ``.env`` is an empty one.

    Args:
        directory: Where ``.env`` is looked for; its parents are not searched.

    Raises:
        SettingsError: When there is a ``.env`` that can't be read.
    """
    # A line without "=" is a name without a value: told as "empty" rather than passed over.
    return {name: value or "" for name, value in _dotenv(directory / ".env").items()} | dict(os.environ)


def _dotenv(path: Path) -> Mapping[str, str | None]:
    try:
        # Read here, since python-dotenv takes a directory for a missing file. utf-8-sig: to
        # python-dotenv before 1.2 an editor's byte order mark is part of the first name.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError([f"{path} can't be read ({error.strerror}): expected a readable file"]) from error
    except UnicodeDecodeError:
        raise SettingsError([f"{path} is not UTF-8: expected a UTF-8 text file"]) from None
    return dotenv.dotenv_values(stream=io.StringIO(text), interpolate=False)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Name the ``WORKER_…`` variables that mean nothing to the worker.

    Returns:
        One sentence for each, with the nearest variable that there is.
    """
    known = [variable.name for variable in VARIABLES]
    unknown = sorted(name for name in environ if name.startswith("WORKER_") and name not in known)
    return [
        f"{name} is not a variable of trio-worker: did you mean {_nearest(name, known)}?" for name in unknown
    ]


def _nearest(name: str, known: list[str]) -> str:
    # cutoff=0: all of them begin with WORKER_, so that one is always near enough to be named.
    return difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
