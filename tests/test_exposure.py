"""What the start says of what others on the network can read or ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from trio_worker.errors import SettingsError
from trio_worker.exposure import exposures, open_doors
from trio_worker.handlers.child_environment import child_environment
from trio_worker.launch import Launch
from trio_worker.masks import MASK, masks
from trio_worker.settings import Settings

REQUIRED = {
    "WORKER_USERNAME": "worker",
    "WORKER_PASSWORD": "the-secret",
    "WORKER_HANDLER": "trio_worker.handlers:echo",
}
TOKEN = "token-0123456789"
TOKENS = {"WORKER_PUSH_TOKEN": TOKEN, "WORKER_ADMIN_TOKEN": "admin-0123456789"}


def settings(**environ: str) -> Settings:
    return Settings.from_environ(REQUIRED | environ)


def test_by_default_nobody_else_can_ask() -> None:
    """It listens on this machine alone, and there is nothing to warn of."""
    assert settings().bind == "127.0.0.1:8001"
    assert (exposures(settings()), open_doors(settings(), [settings().bind])) == ([], [])


@pytest.mark.parametrize(
    "bind", ["127.0.0.2:1", "localhost:8001", "[::1]:8001", "unix:/run/x", "localhost", "fd://3"]
)
def test_what_only_this_machine_reaches(bind: str) -> None:
    """No token is needed there."""
    assert open_doors(settings(), [bind]) == []


@pytest.mark.parametrize("bind", ["0.0.0.0:8001", "[::]:8001", "worker.example:80", "10.0.0.1:8001", "host"])
def test_an_open_door_without_a_token_is_a_warning(bind: str) -> None:
    """Of each token that is missing, with the address; none when both are there."""
    (warning,) = open_doors(settings(), ["127.0.0.1:8001", bind])
    assert f"listens on {bind}, " in warning
    assert "WORKER_PUSH_TOKEN" in warning
    assert "WORKER_ADMIN_TOKEN" in warning
    (warning,) = open_doors(settings(WORKER_PUSH_TOKEN=TOKEN), [bind])
    assert "WORKER_PUSH_TOKEN" not in warning
    assert open_doors(settings(**TOKENS), [bind]) == []


@pytest.mark.parametrize(
    ("url", "number"),
    [
        ("http://webbuddy.example:8000", 1),
        ("http://10.0.0.1", 1),
        ("https://webbuddy.example", 0),
        ("http://localhost:8000", 0),
        ("http://[::1]:8000", 0),
        ("http://127.0.0.1", 0),
    ],
)
def test_a_password_in_the_clear_is_a_warning(url: str, number: int) -> None:
    """Plain http to another host."""
    assert len(exposures(settings(WEBBUDDY_URL=url))) == number


@pytest.mark.parametrize(
    "token", ["short", "with a blank 0123456789", "é" * 20, "at@0123456789abcdef", "x" * 201]
)
def test_a_token_that_does_not_fit_into_a_url(token: str) -> None:
    """It is refused, and not shown."""
    with pytest.raises(SettingsError) as caught:
        settings(WORKER_PUSH_TOKEN=token)
    (problem,) = caught.value.problems
    assert problem.startswith("WORKER_PUSH_TOKEN is set (its value is not shown): expected 16 to 200 letters")


def test_a_token_may_be_in_a_file(tmp_path: Path) -> None:
    """As the password may; and what is wrong with what stands there is said of the variable."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert settings(WORKER_ADMIN_TOKEN_FILE=str(file)).admin_token == TOKEN
    with pytest.raises(SettingsError, match="WORKER_PUSH_TOKEN_FILE are both set"):
        settings(WORKER_PUSH_TOKEN_FILE=str(file), WORKER_PUSH_TOKEN=TOKEN)
    file.write_text("short")
    with pytest.raises(SettingsError, match="WORKER_ADMIN_TOKEN is set"):
        settings(WORKER_ADMIN_TOKEN_FILE=str(file))


def test_tokens_are_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a `repr`, nor in a log, nor to a handler's program under whichever name."""
    for name, value in (REQUIRED | TOKENS | {"WORKER_BIND": "0.0.0.0:8001"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(tmp_path)
    launch = Launch.prepare(tmp_path)
    try:
        assert TOKEN not in repr(launch)
        assert masks.hide(f"http://push:{TOKEN}@worker") == f"http://push:{MASK}@worker"
        others = {"PATH": "/bin", "FASTAPI_URL": f"http://push:{TOKEN}@worker"}
        assert child_environment(others | TOKENS) == {"PATH": "/bin"}
    finally:
        masks.forget("own tokens")
