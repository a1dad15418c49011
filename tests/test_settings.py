"""Settings: every variable is read, checked and described in one place."""

from __future__ import annotations

import os
import re
import textwrap
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import trio
import trustme

from trio_worker.bus_address import BusAddress
from trio_worker.chat_settings import CHAT_VARIABLES
from trio_worker.credentials import Credentials
from trio_worker.environment import read_environment, unreadable_lines
from trio_worker.errors import SettingsError
from trio_worker.setting_kinds import split_handler_path
from trio_worker.settings import VARIABLES, Settings
from trio_worker.variables import Variable

ROOT = Path(__file__).parent.parent
REQUIRED = {"WORKER_USERNAME": "worker", "WORKER_PASSWORD": "hush-hush", "WORKER_HANDLER": "handler:handle"}


def read(**environ: str) -> Settings:
    return Settings.from_environ(REQUIRED | environ)


def problems(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(environ)
    return caught.value.problems


def problem(**environ: str) -> str:
    (only,) = problems(REQUIRED | environ)
    return only


# --- What is read --------------------------------------------------------------------------------


def test_defaults() -> None:
    """With only the required variables, all others have the documented defaults."""
    settings = read()
    assert settings == Settings(
        webbuddy_url="http://localhost:8000",
        username="worker",
        password="hush-hush",
        password_file=None,
        num_workers=5,
        worker_processes=None,
        polling_interval=30.0,
        handler="handler:handle",
        processing_timeout=300.0,
        request_timeout=30.0,
        shutdown_grace=25.0,
        bind="127.0.0.1:8001",
        name=settings.name,
        log_level="info",
        log_format="auto",
        language="en",
    )
    assert settings.name.endswith(f":{os.getpid()}")


GOOD = [
    ("WEBBUDDY_URL", "https://webbuddy.example/", "webbuddy_url", "https://webbuddy.example"),
    ("WEBBUDDY_URL", "http://10.0.0.1:8000/buddy//", "webbuddy_url", "http://10.0.0.1:8000/buddy"),
    ("WEBBUDDY_URL", "HTTP://WebBuddy:8000", "webbuddy_url", "http://webbuddy:8000"),
    ("WEBBUDDY_URL", "http://[::1]:8000", "webbuddy_url", "http://[::1]:8000"),
    ("WEBBUDDY_URL", "  http://a  ", "webbuddy_url", "http://a"),
    ("WORKER_USERNAME", " worker@example.org ", "username", "worker@example.org"),
    ("WORKER_PASSWORD", " two blanks ", "password", " two blanks "),
    ("WORKER_PASSWORD", "from-windows\r", "password", "from-windows"),
    ("NUM_WORKERS", "1", "num_workers", 1),
    ("NUM_WORKERS", " 10000\n", "num_workers", 10_000),
    ("WORKER_PROCESSES", "4", "worker_processes", 4),
    ("POLLING_INTERVAL", "0.5", "polling_interval", 0.5),
    ("POLLING_INTERVAL", "86400", "polling_interval", 86_400.0),
    ("WORKER_HANDLER", "package.module:Class.method", "handler", "package.module:Class.method"),
    ("WORKER_PROCESSING_TIMEOUT", "30.5", "processing_timeout", 30.5),
    ("WORKER_REQUEST_TIMEOUT", "3600", "request_timeout", 3600.0),
    ("WORKER_SHUTDOWN_GRACE", "0.001", "shutdown_grace", 0.001),
    ("WORKER_BIND", "0.0.0.0:0", "bind", "0.0.0.0:0"),
    ("WORKER_BIND", "[::1]:65535", "bind", "[::1]:65535"),
    ("WORKER_BIND", "worker-1.example:8001", "bind", "worker-1.example:8001"),
    ("WORKER_BIND", "unix:/run/worker.sock", "bind", "unix:/run/worker.sock"),
    ("WORKER_BUS_URL", "redis://redis", "bus", BusAddress("redis", 6379)),
    ("WORKER_BUS_URL", " rediss://:p%40ss@[::1]:1/7\n", "bus", BusAddress("::1", 1, True, 7, None, "p@ss")),
    ("WORKER_BUS_URL", "redis://joe:pass@a.b/", "bus", BusAddress("a.b", username="joe", password="pass")),
    ("WORKER_NAME", "Рабочий 1", "name", "Рабочий 1"),
    ("WORKER_LOG_LEVEL", "DEBUG", "log_level", "debug"),
    ("WORKER_LOG_FORMAT", "json", "log_format", "json"),
    ("WORKER_LANGUAGE", "ru", "language", "ru"),
]


@pytest.mark.parametrize(("name", "text", "field", "value"), GOOD)
def test_values_that_are_taken(name: str, text: str, field: str, value: object) -> None:
    """Each kind of value is read, with blanks at its ends ignored (but for the password)."""
    assert getattr(read(**{name: text}), field) == value


BAD = [
    *[
        ("WEBBUDDY_URL", url, "http:// or https://")
        for url in (
            "localhost:8000",
            "http://a..b",
            "http://.a",
            f"http://{'a' * 64}.example",
            "ftp://host",
            "http://",
            "http://:8000",
            "http:/host",
            "http://host:0",
            "http://host:65536",
            "http://host:port",
            "http://a host",
            "http://ho\tst",
            "http://[::1",
            "http://host\\path",
        )
    ],
    *[
        ("NUM_WORKERS", number, "a whole number from 1 to 10000")
        for number in ("0", "-1", "10001", "5.0", "+5", "1_0", "٣", "five", "9" * 5_000)
    ],
    *[
        ("POLLING_INTERVAL", number, "more than 0 and at most 86400")
        for number in ("0", "0.0", "-1", "nan", "inf", "1e3", "30s", "86401", ".", "1.")
    ],
    ("WORKER_PROCESSES", "0", "a whole number from 1"),
    ("WORKER_PROCESSING_TIMEOUT", "0", "seconds"),
    ("WORKER_REQUEST_TIMEOUT", "3601", "at most 3600"),
    ("WORKER_SHUTDOWN_GRACE", "-0.5", "seconds"),
    *[
        ("WORKER_HANDLER", path, "module:function")
        for path in ("handler", "a:b:c", ":handle", "handler:", "a..b:c", "a:b.", "my-module:f", "./a:b")
    ],
    *[
        ("WORKER_BIND", bind, "host:port")
        for bind in (
            "8001",
            ":8001",
            "localhost",
            "localhost:",
            "localhost:65536",
            "localhost:http",
            "::1:8001",
            "[::x]:8001",
            "[::1]",
            "http://localhost:8001",
            "unix:worker.sock",
            "unix:/run/",
            "unix:/" + "x" * 103,
        )
    ],
    ("WORKER_NAME", "two\nlines", "printable"),
    ("WORKER_NAME", "x" * 101, "100"),
    ("WORKER_USERNAME", "wor\0ker", "the name of the worker's account"),
    ("WORKER_LOG_LEVEL", "loud", "debug, info, warning or error"),
    ("WORKER_LOG_FORMAT", "xml", "auto, pretty or json"),
    ("WORKER_LANGUAGE", "de", "en or ru"),
    ("WORKER_NAME", "not UTF-8: \udcff", "printable"),
]


@pytest.mark.parametrize(("name", "text", "expected"), BAD)
def test_values_that_are_refused(name: str, text: str, expected: str) -> None:
    """A wrong value is told with the variable's name, the value itself, and what is expected."""
    said = problem(**{name: text})
    assert said.startswith(f"{name} is {text[:20]!r}"[:-1])
    assert expected in said.partition(": expected ")[2]
    assert len(said) < 400


@pytest.mark.parametrize("name", [variable.name for variable in VARIABLES if not variable.required])
@pytest.mark.parametrize("blank", ["", " \t"])
def test_empty_is_not_set(name: str, blank: str) -> None:
    """A variable that is set to nothing has its default, whatever it is for."""
    assert read(**{name: blank}) == read()


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("blank", ["", " \t"])
def test_what_is_required_can_not_be_empty(name: str, blank: str) -> None:
    """It is told as what it is, so that nobody looks for a missing line."""
    assert problem(**{name: blank}).startswith(f"{name} is empty: expected ")


def test_all_problems_at_once() -> None:
    """Whoever has five variables wrong learns it in one start."""
    wrong = {
        "WEBBUDDY_URL": "nowhere",
        "NUM_WORKERS": "many",
        "WORKER_BIND": "8001",
        "WORKER_LANGUAGE": "de",
        "WORKER_PASSWORD_FILE": "/nonexistent/secret",
    }
    named = {said.split()[0] for said in problems(wrong)}
    assert named == {*wrong, "WORKER_USERNAME", "WORKER_HANDLER"}


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_is_called_missing(name: str) -> None:
    """What is required and not set is named, with what it is for."""
    (said,) = problems({other: value for other, value in REQUIRED.items() if other != name})
    assert said.startswith(f"{name} is missing: expected ")


def test_error_is_readable_as_text() -> None:
    """Printed as it is, the error has one problem a line."""
    with pytest.raises(
        SettingsError, match=r"(?m)^WORKER_USERNAME is missing.*\n^WORKER_PASSWORD is missing"
    ):
        Settings.from_environ({})


def test_split_handler_path() -> None:
    """A handler's path is a module and a name in it."""
    assert split_handler_path("a.b:C.d") == ("a.b", "C.d")


# --- Secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://:hush-hush@host",
        "redis://",
        "redis://:hush-hush@",
        "redis://host:0",
        "redis://host:65536",
        "redis://a..b",
        "redis://:hush-hush@host/name",
        "redis://host/0/1",
        "redis://host?db=1",
        "redis://:hush/hush@host",
        "redis://:hush#hush@host",
        "redis://[::1",
        "redis://ho st",
    ],
)
def test_a_bus_that_is_none(url: str) -> None:
    """Refused, and not repeated: a password may be in it."""
    said = problem(WORKER_BUS_URL=url)
    assert said.startswith("WORKER_BUS_URL is set (its value is not shown): expected redis:// or rediss://")
    assert "hush" not in said


def test_the_bus_shows_no_password(tmp_path: Path) -> None:
    """Neither where it is shown as a URL, nor in any repr; from a file it is the same."""
    url = "rediss://joe:hush@[::1]:6380/2"
    (tmp_path / "url").write_text(url + "\n")
    settings = read(WORKER_BUS_URL_FILE=str(tmp_path / "url"))
    assert settings.bus == read(WORKER_BUS_URL=url).bus
    assert str(settings.bus) == "rediss://[::1]:6380/2"
    assert "hush" not in repr(settings) + repr(settings.bus) + str(settings.bus)


def test_password_is_in_no_repr() -> None:
    """Neither the settings nor the credentials show the password when they are printed."""
    settings = read()
    assert "hush" not in repr(settings) + str(settings) + repr(settings.credentials())


@pytest.mark.parametrize(
    "url",
    [
        "http://bob:hush@host",
        "https://bob:hu@sh/hush@host/",
        "bob:hush@host",
        "http://hush@host",
        "http://h/?key=hush",
        "http://h/#hush",
    ],
)
def test_secrets_in_the_url_are_not_repeated(url: str) -> None:
    """A URL with a password, a query or a fragment is refused, for we would log it; so is it here."""
    said = problem(WEBBUDDY_URL=url)
    assert said.startswith("WEBBUDDY_URL is '")
    assert "***" in said
    assert "hush" not in said


def test_password_that_is_refused_is_not_shown() -> None:
    """Even a password that can't be sent is not repeated."""
    said = problem(WORKER_PASSWORD="hush\udcff")
    assert "not shown" in said
    assert "hush" not in said


def test_parsers_error_is_not_shown() -> None:
    """A parser's own words, which may hold a part of the secret, are in no part of the traceback."""
    (variable,) = (variable for variable in VARIABLES if variable.name == "WEBBUDDY_URL")
    url = "http://bob:hush" + "/hush@host"
    with pytest.raises(ValueError, match=r"\*\*\*@host") as caught:
        variable.read(url)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


# --- The password's file -------------------------------------------------------------------------

WITH_FILE = {"WORKER_USERNAME": "worker", "WORKER_HANDLER": "handler:handle"}


@pytest.mark.parametrize("content", ["hush", "hush\n", "hush\r\n"])
def test_password_file(tmp_path: Path, content: str) -> None:
    """The file's text is the password, without the newline that editors add."""
    (tmp_path / "secret").write_text(content, newline="")
    settings = Settings.from_environ(WITH_FILE | {"WORKER_PASSWORD_FILE": str(tmp_path / "secret")})
    assert settings.password == "hush"
    assert settings.password_file == tmp_path / "secret"


def test_password_file_stays_the_same_file_after_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is meant from where the worker was started."""
    (tmp_path / "secret").write_text("hush")
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environ(WITH_FILE | {"WORKER_PASSWORD_FILE": "secret"})
    assert settings.password_file == tmp_path / "secret"


def test_password_and_file_are_one_too_many(tmp_path: Path) -> None:
    """Which of two passwords is meant can't be guessed."""
    (tmp_path / "secret").write_text("hush")
    said = problem(WORKER_PASSWORD_FILE=str(tmp_path / "secret"))
    assert said == "WORKER_PASSWORD and WORKER_PASSWORD_FILE are both set: expected one of them"


def test_an_empty_password_is_no_second_one(tmp_path: Path) -> None:
    """docker-compose passes both, one of them empty: the other counts; with neither, one is missing."""
    (tmp_path / "secret").write_text("hush")
    from_file = {"WORKER_PASSWORD": "", "WORKER_PASSWORD_FILE": str(tmp_path / "secret")}
    assert Settings.from_environ(WITH_FILE | from_file).password == "hush"
    from_variable = {"WORKER_PASSWORD": "hush-hush", "WORKER_PASSWORD_FILE": ""}
    assert Settings.from_environ(WITH_FILE | from_variable).password == "hush-hush"
    (said,) = problems(WITH_FILE | {"WORKER_PASSWORD_FILE": ""})
    assert said.startswith("WORKER_PASSWORD is missing")


def _missing(path: Path) -> str:
    return "can't be read (No such file or directory)"


def _directory(path: Path) -> str:
    path.mkdir()
    return "is a directory, a pipe or a device"


def _pipe(path: Path) -> str:
    os.mkfifo(path)
    return "is a directory, a pipe or a device"


def _empty(path: Path) -> str:
    path.write_text("\n")
    return "is empty"


def _latin1(path: Path) -> str:
    path.write_bytes(b"hush\xff")
    return "is not UTF-8"


@pytest.mark.parametrize("make", [_missing, _directory, _pipe, _empty, _latin1])
def test_password_file_that_gives_no_password(tmp_path: Path, make: Callable[[Path], str]) -> None:
    """The file's path and its fault are told, its text never. A pipe does not block the start."""
    secret = tmp_path / "secret"
    fault = make(secret)
    (said,) = problems(WITH_FILE | {"WORKER_PASSWORD_FILE": str(secret)})
    assert said.startswith(f"WORKER_PASSWORD_FILE is '{secret}', and that file {fault}: expected ")
    assert "hush" not in said


@pytest.mark.parametrize("make", [_missing, _directory, _pipe, _empty, _latin1])
def test_certificates_that_are_none(tmp_path: Path, make: Callable[[Path], str]) -> None:
    """Told at the start, not by the first call."""
    file = tmp_path / "authority.pem"
    make(file)
    expected = "expected the path of a readable file that holds certificates (PEM)"
    assert problem(WORKER_CA_FILE=str(file)) == f"WORKER_CA_FILE is '{file}': {expected}"


def test_certificates(tmp_path: Path) -> None:
    """By an absolute path, whatever the working directory is later."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "authority.pem")
    settings = Settings.from_environ(
        REQUIRED | {"WORKER_CA_FILE": os.path.relpath(tmp_path / "authority.pem")}
    )
    assert settings.ca_file is not None
    assert settings.ca_file.is_absolute()
    assert settings.ca_file.samefile(tmp_path / "authority.pem")


# --- The password, again at each log-in ----------------------------------------------------------


async def test_credentials_without_a_file() -> None:
    """The password of the environment stays the password; reading it is a checkpoint all the same."""
    with trio.testing.assert_checkpoints():
        assert await read().credentials().read() == ("worker", "hush-hush")


async def test_credentials_follow_the_file(tmp_path: Path) -> None:
    """A password that was replaced in its file is used at the next log-in."""
    secret = tmp_path / "secret"
    secret.write_text("new\n")
    assert await Credentials("worker", "old", secret).read() == ("worker", "new")


async def test_credentials_keep_the_last_password_known(tmp_path: Path) -> None:
    """While the file can't be read, the newest password is used, not that of the start; the log says so."""
    secret = tmp_path / "secret"
    secret.write_text("new\n")
    credentials = Credentials("worker", "old", secret)
    await credentials.read()
    secret.unlink()
    with structlog.testing.capture_logs() as events:
        assert await credentials.read() == ("worker", "new")
    (event,) = events
    assert event["log_level"] == "warning"
    assert "No such file" in event["reason"]
    assert event["file"] == str(secret)


async def test_credentials_can_be_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log-in whose time is over does not wait for a mounted secret whose file system hangs."""
    secret = tmp_path / "secret"
    secret.write_text("new\n")
    hangs, mended, waited = threading.Event(), threading.Event(), []

    def read_text(path: Path, encoding: str) -> str:
        hangs.set()
        waited.append(mended.wait(10))
        return "new"

    monkeypatch.setattr(Path, "read_text", read_text)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Credentials("worker", "old", secret).read)
        await trio.to_thread.run_sync(hangs.wait, 10)
        nursery.cancel_scope.cancel()
    assert waited == []
    mended.set()


# --- The share of a process ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "processes", "shares"),
    [(20, 4, [5, 5, 5, 5]), (5, 1, [5]), (5, 2, [3, 2]), (7, 3, [3, 2, 2]), (2, 4, [1, 1, 1, 1])],
)
def test_share_of_processes_that_know_their_index(asked: int, processes: int, shares: list[int]) -> None:
    """Together the processes have what was asked, and each has one consumer at least."""
    settings = read(NUM_WORKERS=str(asked))
    assert [settings.share_of(processes, index) for index in range(processes)] == shares


@pytest.mark.parametrize(
    ("asked", "processes", "share"), [(20, 4, 5), (5, 2, 3), (7, 3, 3), (2, 4, 1), (5, 1, 5)]
)
def test_share_of_a_process_that_does_not_know_its_index(asked: int, processes: int, share: int) -> None:
    """Rounded up: never fewer in total than asked."""
    assert read(NUM_WORKERS=str(asked)).share_of(processes) == share


@pytest.mark.parametrize(("grace", "reserve"), [("25", 5.0), ("15", 5.0), ("9", 3.0), ("0.3", 0.1)])
def test_shutdown_reserve(grace: str, reserve: float) -> None:
    """The last five seconds of the grace, and at most a third of it."""
    assert read(WORKER_SHUTDOWN_GRACE=grace).shutdown_reserve == pytest.approx(reserve)


# --- Where it is read from -----------------------------------------------------------------------


def test_environment_wins_over_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.env` fills in what the environment of the process does not have."""
    (tmp_path / ".env").write_text("NUM_WORKERS=7\nPOLLING_INTERVAL=9\n")
    monkeypatch.setenv("NUM_WORKERS", "3")
    monkeypatch.delenv("POLLING_INTERVAL", raising=False)
    environ = read_environment(tmp_path)
    assert (environ["NUM_WORKERS"], environ["POLLING_INTERVAL"]) == ("3", "9")


def test_dotenv_is_taken_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dollar sign in a password is a dollar sign; an editor's byte order mark is nothing."""
    for name in ("WORKER_USERNAME", "WORKER_PASSWORD", "WORKER_NAME", "WORKER_HANDLER"):
        monkeypatch.delenv(name, raising=False)
    lines = [
        "\ufeffWORKER_USERNAME=Вася",
        "WORKER_PASSWORD='a${HOME}$b #c'",
        "export WORKER_NAME=n # said",
        "WORKER_HANDLER",
    ]
    (tmp_path / ".env").write_text("\r\n".join(lines), encoding="utf-8", newline="")
    environ = read_environment(tmp_path)
    assert environ["WORKER_USERNAME"] == "Вася"
    assert environ["WORKER_PASSWORD"] == "a${HOME}$b #c"
    assert environ["WORKER_NAME"] == "n"
    assert environ["WORKER_HANDLER"] == ""


def test_no_dotenv_is_fine(tmp_path: Path) -> None:
    """Without a `.env`, the environment is all there is; a parent's `.env` is not ours."""
    (tmp_path / ".env").write_text("WORKER_NAME=parent")
    (tmp_path / "below").mkdir()
    assert read_environment(tmp_path / "below") == dict(os.environ)


def test_dotenv_that_is_not_text(tmp_path: Path) -> None:
    """A `.env` in another encoding is a problem with a sentence, not a traceback."""
    (tmp_path / ".env").write_bytes(b"WORKER_NAME=\xff\xfe")
    with pytest.raises(SettingsError, match=r"\.env is not UTF-8"):
        read_environment(tmp_path)


def test_dotenv_that_cannot_be_read(tmp_path: Path) -> None:
    """A `.env` that is there but can't be read is a problem with a sentence, not passed over."""
    (tmp_path / ".env").mkdir()
    with pytest.raises(SettingsError, match=r"\.env can't be read \(Is a directory\)"):
        read_environment(tmp_path)


def test_a_blank_variable_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker-compose passes variables that it does not have as empty ones: `.env` applies all the same."""
    (tmp_path / ".env").write_text("NUM_WORKERS=7\nWORKER_PASSWORD=hush\n")
    monkeypatch.setenv("NUM_WORKERS", "")
    monkeypatch.setenv("WORKER_PASSWORD", " ")
    environ = read_environment(tmp_path)
    assert (environ["NUM_WORKERS"], environ["WORKER_PASSWORD"]) == ("7", "hush")


def test_lines_of_dotenv_that_can_not_be_read(tmp_path: Path) -> None:
    """Each is told by its number, and never with its text; the others are read."""
    lines = [
        "# ours",
        "",
        "",
        "NUM_WORKERS: hush",
        "WORKER_NAME=n",
        "  hush hush",
        "export A=1 # x",
        "B='hush",
    ]
    (tmp_path / ".env").write_text("\n".join(lines))
    said = unreadable_lines(tmp_path)
    assert [re.findall(r"\.env can't be read at line (\d+): expected NAME=value", each) for each in said] == [
        ["4"],
        ["6"],
        ["8"],
    ]
    assert "hush" not in "".join(said)
    assert read_environment(tmp_path)["A"] == "1"


def test_a_dotenv_that_can_be_read(tmp_path: Path) -> None:
    """`.env.example` and no file at all: there is nothing to say."""
    assert unreadable_lines(tmp_path) == []
    (tmp_path / ".env").write_bytes((ROOT / ".env.example").read_bytes())
    assert unreadable_lines(tmp_path) == []


# --- docs/settings.md, .env.example and Settings -------------------------------------------------


def _row(variable: Variable) -> str:
    literal = variable.default == variable.example
    default = f"`{variable.default}`" if literal else variable.default
    return f"| `{variable.name}` | {default} | {variable.meaning} |"


CHAT_HEADLINE = "# --- For WORKER_HANDLER=trio_worker.handlers.chat:handler ---"


def _block(variable: Variable, *, commented: bool = False) -> str:
    meaning = textwrap.fill(
        variable.meaning, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
    return (
        f"{meaning}\n{'' if variable.required and not commented else '# '}{variable.name}={variable.example}"
    )


def test_page_env_example_and_settings_are_the_same() -> None:
    """docs/settings.md and `.env.example` say of each variable what Settings does, in its order."""
    rows = re.findall(r"(?m)^\| `[A-Z_]+` \|.*$", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"))
    expected = [_row(variable) for variable in (*VARIABLES, *CHAT_VARIABLES)]
    assert rows == expected, "the table's rows should be:\n" + "\n".join(expected)
    blocks = (ROOT / ".env.example").read_text(encoding="utf-8").rstrip().split("\n\n")[1:]
    # Those of the model are no part of a complete `.env`.
    of_chat = [_block(variable, commented=True) for variable in CHAT_VARIABLES]
    expected = [*(_block(variable) for variable in VARIABLES), CHAT_HEADLINE, *of_chat]
    assert blocks == expected, "the file's blocks should be:\n" + "\n\n".join(expected)


def test_env_example_works_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copied `.env.example` is a complete `.env`, and uncommenting a default changes nothing."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    copied = Settings.from_environ(read_environment(tmp_path))
    assert (copied.username, copied.password) == ("worker", "change-me")
    defaults = {
        variable.name: variable.example for variable in VARIABLES if variable.default == variable.example
    }
    assert Settings.from_environ(read_environment(tmp_path) | defaults) == copied
