"""From the environment to a worker that can run: what is said when it can't, and when it has crashed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from trio_worker.errors import AccessDenied, SettingsError
from trio_worker.launch import BUG, LOGIN_REFUSED, WRONG_SETTINGS, Launch, explain

Prepare = Callable[..., tuple[str, ...]]

GOOD = {
    "WORKER_USERNAME": "worker",
    "WORKER_PASSWORD": "the-secret",
    "WORKER_HANDLER": "trio_worker.handlers:echo",
}


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """What `Launch.prepare` says of an environment."""
    for name in list(os.environ):
        if name.startswith(("WORKER_", "NUM_", "POLLING_", "WEBBUDDY_")):
            monkeypatch.delenv(name)

    def of(environ: dict[str, str]) -> tuple[str, ...]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.syspath_prepend(tmp_path)  # so that what `prepare` adds is taken away again
        with pytest.raises(SettingsError) as caught:
            Launch.prepare(tmp_path)
        return caught.value.problems

    return of


@pytest.mark.parametrize("misspelt", ["WORKER_PASSWORD_", "WORKER_PASSWORT"])
def test_a_misspelt_variable_is_named_beside_the_missing_one(problems: Prepare, misspelt: str) -> None:
    """The log has not begun yet, so its warning would come too late; and never the value."""
    environ = {name: value for name, value in GOOD.items() if name != "WORKER_PASSWORD"}
    missing, unknown = problems(environ | {misspelt: "the-secret"})
    assert missing.startswith("WORKER_PASSWORD is missing")
    assert unknown == f"{misspelt} is not a setting: did you mean WORKER_PASSWORD?"


def test_a_wrong_setting_does_not_hide_a_wrong_handler(problems: Prepare) -> None:
    """All that is wrong is said at once, so that nobody has to start twice to learn it."""
    setting, handler = problems(GOOD | {"NUM_WORKERS": "0", "WORKER_HANDLER": "no_such_module:handle"})
    assert setting.startswith("NUM_WORKERS is '0'")
    assert "there is no module no_such_module" in handler


def test_a_handler_that_is_fine_is_no_problem(problems: Prepare) -> None:
    """Where only a setting is wrong, only that is said."""
    (setting,) = problems(GOOD | {"NUM_WORKERS": "0"})
    assert setting.startswith("NUM_WORKERS is '0'")


def test_a_handlers_path_of_a_wrong_shape_is_one_problem(problems: Prepare) -> None:
    """It is a wrong setting; what can't be found by it is not said as well."""
    (setting,) = problems(GOOD | {"WORKER_HANDLER": "no_such_module"})
    assert "expected module:function" in setting


def test_a_wrong_handler_alone(problems: Prepare) -> None:
    """With good settings its problem is said just so, and misspelt variables with it."""
    handler, unknown = problems(GOOD | {"WORKER_HANDLER": "no_such_module:handle", "WORKER_NAMES": "x"})
    assert "there is no module no_such_module" in handler
    assert unknown.startswith("WORKER_NAMES is not a setting")


def test_a_line_of_dotenv_that_can_not_be_read(problems: Prepare, tmp_path: Path) -> None:
    """The worker does not start on half of its settings; what else is wrong is said with it."""
    (tmp_path / ".env").write_text("NUM_WORKERS: 7\n")
    (line,) = problems(GOOD)
    assert ".env can't be read at line 1" in line
    line, setting, misspelt = problems(GOOD | {"WORKER_BIND": "8001", "POLING_INTERVAL": "5"})
    assert ".env can't be read at line 1" in line
    assert setting.startswith("WORKER_BIND is '8001'")
    assert misspelt == "POLING_INTERVAL is not a setting: did you mean POLLING_INTERVAL?"


# --- What a crash was ----------------------------------------------------------------------------


def refused() -> AccessDenied:
    return AccessDenied("WebBuddy refused the log-in of user 'worker'", status=401)


async def cancelled() -> BaseException:
    """Trio's own Cancelled, which nobody else can make."""
    caught: BaseException
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            caught = error
            raise
    return caught


async def test_a_refused_login_is_said_once() -> None:
    """However many tasks met it, however deep, and whoever was cancelled for it."""
    inner = BaseExceptionGroup("", [refused(), await cancelled()])
    sentences, code = explain(BaseExceptionGroup("", [inner, refused()]))
    assert code == LOGIN_REFUSED
    assert sentences == [
        "WebBuddy refused the log-in of user 'worker'. Check WORKER_USERNAME and WORKER_PASSWORD."
    ]


def test_wrong_settings_are_said_as_they_are() -> None:
    """A port that is taken is found out only while the service runs."""
    crash = ExceptionGroup("", [SettingsError(["one", "two"])])
    assert explain(crash) == (["one", "two"], WRONG_SETTINGS)


def test_all_that_the_operator_has_to_mend_is_said() -> None:
    """A taken port and a refused log-in at the same time: both, and the settings come first."""
    sentences, code = explain(ExceptionGroup("", [refused(), SettingsError(["the port"])]))
    assert len(sentences) == 2
    assert code == WRONG_SETTINGS


@pytest.mark.parametrize("problem", [refused(), SettingsError(["the port"])])
@pytest.mark.parametrize("first", [True, False])
def test_a_bug_is_never_hidden(problem: Exception, first: bool) -> None:
    """Neither by a refused log-in nor by a wrong setting, wherever in the group it stands."""
    bug = ExceptionGroup("", [ZeroDivisionError()])
    crash = ExceptionGroup("", [bug, problem] if first else [problem, bug])
    assert explain(crash) == ([], BUG)
