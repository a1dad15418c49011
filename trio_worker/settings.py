"""What the operator sets: read from the environment, checked all at once, then frozen.

Each variable is declared once, at the field of `Settings` that it fills. The messages, the tables
of docs/settings.md and `.env.example` follow from that; a test compares the three.
"""

# ruff: noqa: RUF009 - `setting` gives an attrs.field, which attrs makes anew for each instance

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
import platformdirs

from trio_worker.bus_address import BusAddress
from trio_worker.credentials import Credentials
from trio_worker.setting_kinds import (
    BIND,
    BUS_URL,
    BUS_URL_FILE,
    CERTIFICATES,
    HANDLER,
    MASK,
    NAME,
    PASSWORD,
    PASSWORD_FILE,
    STATE_DIR,
    TOKEN,
    TOKEN_FILE,
    URL,
    USERNAME,
    one_of,
    seconds,
    shown_url,
    whole_number,
)
from trio_worker.variables import Variable, defaults_of, read_variables, setting, variables_of

__all__ = [
    "VARIABLES",
    "CaptureMode",
    "JournalSync",
    "LostClaims",
    "OnCrash",
    "Settings",
    "named_handler",
    "read_fields",
]

CaptureMode = Literal["off", "logging", "print"]
JournalSync = Literal["full", "normal"]
Language = Literal["en", "ru"]
LostClaims = Literal["requeue", "report"]
OnCrash = Literal["rerun", "requeue", "fail"]
LogFormat = Literal["auto", "pretty", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_DAY = 86_400


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
        ca_file: The certificates of who is trusted to vouch for WebBuddy and the bus; None: who usually is.
        num_workers: Consumers of the whole launch; `share_of` gives those of one process.
        worker_processes: How many processes share them, or None where only hypercorn knows.
        polling_interval: Between two ticks.
        handler: ``module:function``.
        processing_timeout: For one query.
        max_processing_time: Up to which a handler may extend that.
        request_timeout: For one call to WebBuddy.
        shutdown_grace: From the stop signal to the exit, all in all.
        bind: ``host:port``, ``[address]:port`` or ``unix:/path``; port 0 lets the system choose.
        push_token: What a push has to bring; None: nothing. Never in the ``repr``.
        push_token_file: Where it stood, or None.
        admin_token: What all else has to bring but ``/livez``; None: nothing. Never in the ``repr``.
        admin_token_file: Where it stood, or None.
        bus: The Redis over which workers on many machines share wake-ups; None: those of one machine do.
        bus_file: Where its URL stood, or None.
        name: Who claims, in the log.
        state_dir: Where the journal lies; absolute.
        journal_sync: ``full``: safe from a power cut; ``normal``: only from the death of the process.
        on_crash: What becomes of a query whose worker died in the middle.
        max_attempts: Deaths of which a query alone is to blame, after which it is failed.
        max_retries: How often a handler may put one query aside.
        watch_interval: Between two looks whether a running query is still ours; 0: never.
        lost_claims: What becomes of a query that was handed out in an answer that was lost.
        mask: Names of variables that hold secrets of the handler's.
        capture: What goes to a query's log beside what the handler writes there by ``ctx.log``.
        log_level: The least important level that is logged.
        log_format: ``auto`` is pretty on a terminal and JSON elsewhere.
        language: Of the sentences that WebBuddy's users read.
    """

    webbuddy_url: str = setting(
        "WEBBUDDY_URL",
        URL,
        "Where WebBuddy is. A path prefix and a trailing slash are fine.",
        default="http://localhost:8000",
        show=shown_url,
    )
    username: str = setting(
        "WORKER_USERNAME", USERNAME, "The worker's account at WebBuddy.", example="worker"
    )
    password: str = setting(
        "WORKER_PASSWORD",
        PASSWORD,
        "Its password. Never printed or logged. In `.env`, put it into single quotes.",
        example="'change-me'",
        secret=True,
        or_file="password_file",
    )
    password_file: Path | None = setting(
        "WORKER_PASSWORD_FILE",
        PASSWORD_FILE,
        "Instead of `WORKER_PASSWORD`: a mounted secret. Read again at each log-in.",
        words="none",
        example="/run/secrets/webbuddy-password",
        otherwise=None,
    )
    ca_file: Path | None = setting(
        "WORKER_CA_FILE",
        CERTIFICATES,
        "For a WebBuddy, and a `rediss://` bus, whose certificates are of an authority of your own: the file "
        "with that authority's.",
        words="none",
        example="/etc/ssl/our-authority.pem",
        otherwise=None,
    )
    num_workers: int = setting(
        "NUM_WORKERS",
        whole_number(1, 10_000),
        "Consumers of this launch, 1 to 10000. Several processes share them: 20 over 4 is 4 × 5, "
        "5 over 2 is 3 + 2 (under hypercorn 3 + 3: it does not number its processes).",
        default="5",
    )
    worker_processes: int | None = setting(
        "WORKER_PROCESSES",
        whole_number(1, 10_000),
        "How many processes share `NUM_WORKERS`.",
        words="`--processes`, hypercorn's `--workers`",
        example="1",
        otherwise=None,
    )
    polling_interval: float = setting(
        "POLLING_INTERVAL",
        seconds(_DAY),
        "Seconds between two looks for queries that no push announced, ± 10 %.",
        default="30",
    )
    handler: str = setting(
        "WORKER_HANDLER",
        HANDLER,
        "Your function, as `module:function`, `process:module:function` or `command:program …`.",
        example="trio_worker.handlers:echo",
    )
    processing_timeout: float = setting(
        "WORKER_PROCESSING_TIMEOUT",
        seconds(30 * _DAY),
        "Seconds for one query.",
        default="300",
    )
    max_processing_time: float = setting(
        "WORKER_MAX_PROCESSING_TIME",
        seconds(30 * _DAY),
        "Seconds up to which a handler may extend that (`ctx.extend`).",
        default="3600",
    )
    request_timeout: float = setting(
        "WORKER_REQUEST_TIMEOUT",
        seconds(3_600),
        "Seconds for one call to WebBuddy.",
        default="30",
    )
    shutdown_grace: float = setting(
        "WORKER_SHUTDOWN_GRACE",
        seconds(_DAY),
        "Seconds from the stop signal to the exit, all in all (Kubernetes gives 30). "
        "The last 5, at most a third, are for putting back, reporting and closing.",
        default="25",
    )
    bind: str = setting(
        "WORKER_BIND",
        BIND,
        "Where `trio-worker run` listens: `host:port` or `unix:/path`.",
        default="127.0.0.1:8001",
    )
    push_token: str | None = setting(
        "WORKER_PUSH_TOKEN",
        TOKEN,
        "What a push has to bring; WebBuddy's `FASTAPI_URL` is `http://push:TOKEN@host:8001` then.",
        words="none",
        example="change-me-0123456789",
        otherwise=None,
        secret=True,
        or_file="push_token_file",
    )
    push_token_file: Path | None = setting(
        "WORKER_PUSH_TOKEN_FILE",
        TOKEN_FILE,
        "Instead of `WORKER_PUSH_TOKEN`: a mounted secret. Read at the start.",
        words="none",
        example="/run/secrets/push-token",
        otherwise=None,
    )
    admin_token: str | None = setting(
        "WORKER_ADMIN_TOKEN",
        TOKEN,
        "What all other requests have to bring, but `GET /livez`.",
        words="none",
        example="change-me-9876543210",
        otherwise=None,
        secret=True,
        or_file="admin_token_file",
    )
    admin_token_file: Path | None = setting(
        "WORKER_ADMIN_TOKEN_FILE",
        TOKEN_FILE,
        "Instead of `WORKER_ADMIN_TOKEN`: a mounted secret. Read at the start.",
        words="none",
        example="/run/secrets/admin-token",
        otherwise=None,
    )
    bus: BusAddress | None = setting(
        "WORKER_BUS_URL",
        BUS_URL,
        "A Redis or Valkey over which the workers of many machines wake each other: "
        "`redis://user:password@host:6379/0`, `rediss://` with TLS (extra `[redis]`).",
        words="none",
        example="redis://localhost:6379/0",
        otherwise=None,
        secret=True,
        or_file="bus_file",
    )
    bus_file: Path | None = setting(
        "WORKER_BUS_URL_FILE",
        BUS_URL_FILE,
        "Instead of `WORKER_BUS_URL`: a mounted secret. Read at the start.",
        words="none",
        example="/run/secrets/bus-url",
        otherwise=None,
    )
    name: str = setting(
        "WORKER_NAME",
        NAME,
        "Who claimed a query, in the log.",
        words="host and process id",
        example="worker-1",
        otherwise=attrs.Factory(_own_name),
    )
    state_dir: Path = setting(
        "WORKER_STATE_DIR",
        STATE_DIR,
        "Where what the worker holds is kept over a crash: a folder on a local disk. In a container, mount a "
        "volume there.",
        words="`~/.local/state/trio-worker`, or your platform's",
        example="/var/lib/trio-worker",
        otherwise=attrs.Factory(_own_state_dir),
    )
    journal_sync: JournalSync = setting(
        "WORKER_JOURNAL_SYNC",
        one_of(get_args(JournalSync)),
        "`full`: what is held survives a power cut. `normal`: only the death of the process; faster.",
        default="full",
    )
    on_crash: OnCrash = setting(
        "WORKER_ON_CRASH",
        one_of(get_args(OnCrash)),
        "A query whose worker died in the middle: `rerun` it here, `requeue` it, or `fail` it.",
        default="rerun",
    )
    max_attempts: int = setting(
        "WORKER_MAX_ATTEMPTS",
        whole_number(1, 1_000),
        "A query that was alone at work in so many deaths of its worker is failed.",
        default="3",
    )
    max_retries: int = setting(
        "WORKER_MAX_RETRIES",
        whole_number(0, 10_000),
        "How often a handler may put one query aside by `RetryLater`.",
        default="10",
    )
    watch_interval: float = setting(
        "WORKER_WATCH_INTERVAL",
        seconds(_DAY, or_off=True),
        "Seconds between two looks whether a running query was ended, requeued or deleted meanwhile. 0: off.",
        default="30",
    )
    lost_claims: LostClaims = setting(
        "WORKER_LOST_CLAIMS",
        one_of(get_args(LostClaims)),
        "A query whose claim's answer was lost on the way: `requeue` it, or only `report` it.",
        default="requeue",
    )
    mask: tuple[str, ...] = setting(
        "WORKER_MASK",
        MASK,
        "Names of variables whose values never show: in logs and answers they are `[MASKED]`.",
        words="none",
        example="API_KEY,DB_PASSWORD",
        otherwise=(),
    )
    capture: CaptureMode = setting(
        "WORKER_CAPTURE",
        one_of(get_args(CaptureMode)),
        "What goes to a query's log beside `ctx.log`. `logging`: what its handler logs by `logging`. "
        "`print`: that, and what it prints.",
        default="off",
    )
    log_level: LogLevel = setting(
        "WORKER_LOG_LEVEL",
        one_of(get_args(LogLevel)),
        "`debug`, `info`, `warning` or `error`.",
        default="info",
    )
    log_format: LogFormat = setting(
        "WORKER_LOG_FORMAT",
        one_of(get_args(LogFormat)),
        "`pretty`, `json`, or `auto`: pretty on a terminal, JSON lines elsewhere.",
        default="auto",
    )
    language: Language = setting(
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
        return cls(**read_variables(_BY_FIELD, environ))

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


_BY_FIELD = variables_of(Settings)

VARIABLES: tuple[Variable, ...] = tuple(_BY_FIELD.values())
"""Every variable that is read, in the order of the table in docs/settings.md."""


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
    return defaults_of(Settings, *fields) | read_variables(_BY_FIELD, environ, fields)


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
