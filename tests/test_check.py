"""`trio-worker check`: each outcome with its line and its exit code, over real sockets."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.commands import Ended, run_command
from trio_worker.testing import WebBuddy, serve_webbuddy


async def check(directory: Path, webbuddy: WebBuddy, path: str = "", **environ: str) -> Ended:
    async with serve_webbuddy(webbuddy) as url:
        ended = await run_command(directory, "check", webbuddy_url=url + path, **environ)
    # Whatever it found:
    assert "Traceback" not in ended.out + ended.err
    assert "secret" not in ended.out + ended.err
    assert not webbuddy.count("claim_next")
    assert not webbuddy.count("create") + webbuddy.count("patch") + webbuddy.count("logs")
    return ended


def line(ended: Ended, what: str) -> str:
    """The line about this, its sign first and single blanks throughout."""
    return next(" ".join(line.split()) for line in ended.out.splitlines() if line[2:].startswith(what))


async def test_all_is_well(tmp_path: Path) -> None:
    """A line with ✓ for each check, no colour without a terminal, exit 0."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        bind = f"127.0.0.1:{found.getsockname()[1]}"
    ended = await check(tmp_path, WebBuddy(), WORKER_BIND=bind)
    assert (ended.code, ended.err) == (0, "")
    what = ("settings", "handler", "WebBuddy", "log-in", "account", "clock", "push endpoint")
    assert [line(ended, name)[0] for name in what] == ["✓"] * 7
    assert len(ended.out.splitlines()) == 7
    assert "trio_worker.handlers:echo, an async function" in line(ended, "handler")
    assert line(ended, "account").endswith("sees project 1")
    assert f"{bind} is free" in line(ended, "push endpoint")
    assert "\x1b" not in ended.out


async def test_wrong_settings(tmp_path: Path) -> None:
    """Wrong settings: each is named, WebBuddy is not asked, the handler is looked at all the same; exit 2."""
    webbuddy = WebBuddy()
    ended = await check(tmp_path, webbuddy, NUM_WORKERS="many", POLLING_INTERVAL="-1", WORKER_NAEM="x")
    assert ended.code == 2
    assert "✗ settings NUM_WORKERS is 'many': expected" in " ".join(ended.out.split())
    assert "✗ settings POLLING_INTERVAL is '-1': expected" in " ".join(ended.out.split())
    assert "! settings WORKER_NAEM is not a variable" in " ".join(ended.out.split())
    assert line(ended, "handler").startswith("✓ ")
    assert line(ended, "WebBuddy").startswith("- ")
    assert not webbuddy.requests


async def test_an_unreadable_dotenv(tmp_path: Path) -> None:
    """A .env that can't be read is a sentence, exit 2."""
    (tmp_path / ".env").write_bytes(b"WORKER_NAME=\xff")
    ended = await check(tmp_path, WebBuddy())
    assert ended.code == 2
    assert ".env is not UTF-8" in line(ended, "settings")


async def test_a_wrong_handler(tmp_path: Path) -> None:
    """A handler that can't be imported: why, and the rest is checked all the same; exit 2."""
    (tmp_path / "agent.py").write_text("import nowhere_to_be_found\n")
    ended = await check(tmp_path, WebBuddy(), WORKER_HANDLER="agent:handle")
    assert ended.code == 2
    assert "imports nowhere_to_be_found" in line(ended, "handler")
    assert line(ended, "log-in") == "✓ log-in as 'member'"


async def test_no_handler(tmp_path: Path) -> None:
    """Without WORKER_HANDLER that is said once; exit 2."""
    ended = await check(tmp_path, WebBuddy(), WORKER_HANDLER="")
    assert ended.code == 2
    assert line(ended, "settings").startswith("✗ settings WORKER_HANDLER is missing")
    assert line(ended, "handler").startswith("- ")


async def test_a_handler_whose_import_does_not_end(tmp_path: Path) -> None:
    """A module that blocks for ever does not hold the command up; exit 2."""
    # The alarm that the command has set for the import is brought forward.
    (tmp_path / "agent.py").write_text("import signal, time\nsignal.alarm(1)\ntime.sleep(3600)\n")
    ended = await check(tmp_path, WebBuddy(), WORKER_HANDLER="agent:handle")
    assert ended.code == 2
    assert "importing agent:handle takes longer than" in line(ended, "handler")


async def test_webbuddy_is_down(tmp_path: Path) -> None:
    """WebBuddy not reachable: what to look at, no log-in tried, the port is checked; exit 1."""
    ended = await check(tmp_path, WebBuddy(down=True))
    assert ended.code == 1
    assert line(ended, "WebBuddy").startswith("✗ ")
    assert "Is it running, and is WEBBUDDY_URL right?" in line(ended, "WebBuddy")
    assert line(ended, "log-in") == "- log-in not tried"
    assert line(ended, "push endpoint").startswith("✓ ")


async def test_webbuddy_is_not_well(tmp_path: Path) -> None:
    """WebBuddy answers 503: it is there, but not well; exit 1."""
    webbuddy = WebBuddy()
    webbuddy.fail_next(503)
    ended = await check(tmp_path, webbuddy)
    assert ended.code == 1
    assert "WebBuddy answered 503" in line(ended, "WebBuddy")
    assert "not well" in line(ended, "WebBuddy")


async def test_webbuddy_does_not_answer(tmp_path: Path) -> None:
    """A WebBuddy that takes the call and never answers is given up; exit 1."""
    webbuddy = WebBuddy()
    webbuddy.hang_next()
    ended = await check(tmp_path, webbuddy, WORKER_REQUEST_TIMEOUT="0.5")
    assert ended.code == 1
    assert "no answer within 0.5 s" in line(ended, "WebBuddy")


async def test_something_else_than_webbuddy(tmp_path: Path) -> None:
    """A URL where something answers, but no WebBuddy: no log-in is claimed to have worked; exit 1."""
    ended = await check(tmp_path, WebBuddy(), path="/elsewhere")
    assert ended.code == 1
    assert line(ended, "WebBuddy").startswith("✗ ")
    assert "is WEBBUDDY_URL right?" in line(ended, "WebBuddy")
    assert line(ended, "log-in") == "- log-in not tried"


async def test_the_log_in_is_refused(tmp_path: Path) -> None:
    """A wrong password: WebBuddy answers, the log-in is refused, the password is not shown; exit 3."""
    ended = await check(tmp_path, WebBuddy(), WORKER_PASSWORD="not-this-one")
    assert ended.code == 3
    assert line(ended, "WebBuddy").startswith("✓ ")
    assert "refused the log-in of user 'member'" in line(ended, "log-in")
    assert "Check WORKER_USERNAME and WORKER_PASSWORD." in line(ended, "log-in")
    assert "not-this-one" not in ended.out


async def test_an_account_without_a_project(tmp_path: Path) -> None:
    """An account without a project that sees no query is told what that may mean; exit 0."""
    webbuddy = WebBuddy()
    webbuddy.add_query("there, but not for everybody", status="done")
    ended = await check(tmp_path, webbuddy, WORKER_USERNAME="stranger")
    assert ended.code == 0
    assert line(ended, "account").startswith("! ")
    assert "an empty queue for ever" in line(ended, "account")


async def test_a_service_account(tmp_path: Path) -> None:
    """An account without a project that sees queries is a service account; exit 0."""
    webbuddy = WebBuddy()
    webbuddy.add_query("there for a service account", status="done")
    ended = await check(tmp_path, webbuddy, WORKER_USERNAME="worker")
    assert ended.code == 0
    assert "a service account" in line(ended, "account")


async def test_an_account_that_is_not_shown(tmp_path: Path) -> None:
    """A WebBuddy without users/me: the account can't be checked, and that is no problem; exit 0."""
    webbuddy = WebBuddy()
    webbuddy.fail_next(404, endpoint="me")
    ended = await check(tmp_path, webbuddy)
    assert ended.code == 0
    assert line(ended, "account") == "- account can't be checked: this WebBuddy does not show it"


async def test_an_account_that_can_not_be_read(tmp_path: Path) -> None:
    """A WebBuddy that fails after the log-in: how far it went, and where it failed; exit 1."""
    webbuddy = WebBuddy()
    webbuddy.fail_next(502, endpoint="me")
    ended = await check(tmp_path, webbuddy)
    assert ended.code == 1
    assert line(ended, "log-in").startswith("✓ ")
    assert "can't be read" in line(ended, "account")


@pytest.mark.parametrize(("seconds", "side"), [(3600, "behind"), (-3600, "ahead of")])
async def test_the_clocks_differ(tmp_path: Path, seconds: int, side: str) -> None:
    """Clocks an hour apart: by how much and to which side; a word of warning only, exit 0."""
    ended = await check(tmp_path, WebBuddy(now=lambda: time.time() + seconds))
    assert ended.code == 0
    assert line(ended, "clock").startswith("! ")
    assert f"s {side} WebBuddy's" in line(ended, "clock")


async def test_the_port_is_taken(tmp_path: Path) -> None:
    """A push endpoint whose port is in use; exit 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await check(tmp_path, WebBuddy(), WORKER_BIND=bind)
    assert ended.code == 1
    assert f"✗ push endpoint WORKER_BIND is '{bind}': something listens there" in line(ended, "push endpoint")


async def test_the_port_is_webbuddys_own(tmp_path: Path) -> None:
    """WORKER_BIND where WEBBUDDY_URL is, under another of the host's names: said so; exit 1."""
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url:
        port = url.rpartition(":")[2]
        bind = f"0.0.0.0:{port}"
        ended = await run_command(
            tmp_path, "check", webbuddy_url=f"http://localhost:{port}", WORKER_BIND=bind
        )
    assert ended.code == 1
    assert "that is where WEBBUDDY_URL says WebBuddy is" in line(ended, "push endpoint")


async def test_an_address_of_another_machine(tmp_path: Path) -> None:
    """WORKER_BIND with an address that this machine does not have; exit 1."""
    ended = await check(tmp_path, WebBuddy(), WORKER_BIND="192.0.2.1:8001")
    assert ended.code == 1
    assert "this machine has no such address" in line(ended, "push endpoint")


async def test_a_loopback_endpoint_for_a_distant_webbuddy(tmp_path: Path) -> None:
    """No push can come from another machine to 127.0.0.1: a word of warning."""
    ended = await run_command(
        tmp_path, "check", webbuddy_url="http://webbuddy.invalid", WORKER_REQUEST_TIMEOUT="5"
    )
    assert ended.code == 1  # there is no such host
    assert line(ended, "push endpoint").startswith("! ")
    assert "only this machine reaches it" in line(ended, "push endpoint")


async def test_a_unix_socket(tmp_path: Path) -> None:
    """A free path, one that was left over and one that is in use; nothing is left or taken away."""
    path = tmp_path / "w"
    bind = f"unix:{path}"
    free = await check(tmp_path, WebBuddy(), WORKER_BIND=bind)
    assert (free.code, path.exists()) == (0, False)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        used = await check(tmp_path, WebBuddy(), WORKER_BIND=bind)
        assert (used.code, path.is_socket()) == (1, True)
    left_over = await check(tmp_path, WebBuddy(), WORKER_BIND=bind)
    assert (left_over.code, path.is_socket()) == (0, True)
    assert "something listens there" in line(used, "push endpoint")


async def test_a_unix_socket_that_can_not_be(tmp_path: Path) -> None:
    """A file in the socket's place, and a directory that is not there; exit 1."""
    (tmp_path / "file").touch()
    file = await check(tmp_path, WebBuddy(), WORKER_BIND=f"unix:{tmp_path}/file")
    assert (file.code, (tmp_path / "file").exists()) == (1, True)
    assert "not a socket" in line(file, "push endpoint")
    nowhere = await check(tmp_path, WebBuddy(), WORKER_BIND=f"unix:{tmp_path}/no/w")
    assert nowhere.code == 1
    assert "No such file or directory" in line(nowhere, "push endpoint")


async def test_a_terminal_without_the_signs(tmp_path: Path) -> None:
    """Where ✓ can't be printed there are words, and no crash over a handler's file either."""
    (tmp_path / "агент.py").write_text("def ответь(query, ctx): ...\n", encoding="utf-8")
    ended = await check(
        tmp_path, WebBuddy(), WORKER_HANDLER="агент:ответь", PYTHONIOENCODING="latin-1", PYTHONUTF8="1"
    )
    assert ended.code == 0
    assert "ok handler" in ended.out
    assert "?????:??????, a plain function" in ended.out


async def test_the_worst_decides(tmp_path: Path) -> None:
    """A wrong handler, a refused log-in and a wrong port together are a wrong setting; exit 2."""
    ended = await check(
        tmp_path,
        WebBuddy(),
        WORKER_HANDLER="nowhere:handle",
        WORKER_PASSWORD="wrong",
        WORKER_BIND="192.0.2.1:8001",
    )
    assert ended.code == 2
    assert [line(ended, name)[0] for name in ("handler", "log-in", "push endpoint")] == ["✗"] * 3
