"""What commands beside the worker say of the settings that they find."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import run_command
from trio_worker.testing import WebBuddy, serve_webbuddy

COMMANDS = [
    pytest.param(["submit", "hello"], id="submit"),
    pytest.param(["stuck"], id="stuck"),
    pytest.param(["outbox"], id="outbox"),
    pytest.param(["once", "--query", "hello"], id="once"),
]


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_misspelt_variable_is_told(tmp_path: Path, command: list[str]) -> None:
    """With the one that was meant, never with its value; and it stops nothing. So for one of ``.env``."""
    (tmp_path / ".env").write_text("WORKER_STATE_DIRR=secret-place\n")
    async with serve_webbuddy(WebBuddy()) as url:
        ended = await run_command(tmp_path, *command, webbuddy_url=url, WEBBUDY_URL="http://secret")
    assert ended.code == 0
    assert "trio-worker: WEBBUDY_URL is not a setting: did you mean WEBBUDDY_URL?\n" in ended.err
    assert "trio-worker: WORKER_STATE_DIRR is not a setting: did you mean WORKER_STATE_DIR?\n" in ended.err
    assert "secret" not in ended.out + ended.err


@pytest.mark.parametrize("command", COMMANDS)
async def test_all_that_is_wrong_at_once(tmp_path: Path, command: list[str]) -> None:
    """What is misspelt, what can't be read of ``.env``, what is missing: exit 2, and nothing is asked."""
    needed = "WORKER_HANDLER" if command[0] == "once" else "WORKER_USERNAME"
    (tmp_path / ".env").write_text("NUM_WORKERS: 7\n")
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url:
        ended = await run_command(
            tmp_path, *command, webbuddy_url=url, **{needed: "", needed.replace("_", "__"): "x"}
        )
    assert (ended.code, ended.out, len(webbuddy.requests)) == (2, "", 0)
    said = ended.err.splitlines()
    assert len(said) == 3
    assert f"did you mean {needed}?" in said[0]
    assert ".env can't be read at line 1: expected NAME=value" in said[1]
    assert f"{needed} is missing" in said[2]


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_line_that_can_not_be_read_is_enough(tmp_path: Path, command: list[str]) -> None:
    """It may be what was to be set: exit 2, though all that is needed is there."""
    (tmp_path / ".env").write_text("WORKER_STATE_DIR: elsewhere\n")
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url:
        ended = await run_command(tmp_path, *command, webbuddy_url=url)
    assert (ended.code, len(webbuddy.requests)) == (2, 0)
    assert ".env can't be read at line 1: expected NAME=value" in ended.err
    assert len(ended.err.splitlines()) == 1
