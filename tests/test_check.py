"""`trio-worker check`: each outcome with its line and its exit code, over real sockets."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest
import trio

from tests.commands import Ended, environment, run_command
from tests.processes import TOO_LONG, start_worker
from trio_worker.disk_kind import disk_warning, read_mounts
from trio_worker.journal_file import Entry, JournalFile
from trio_worker.orders import pause
from trio_worker.query import Query
from trio_worker.state_folder import Address, StateFolder
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


def good(folder: Path) -> str:
    """The sign of a good state folder in this one; in a container, the tests' own is worth a warning."""
    return "✓" if disk_warning(folder.resolve(), read_mounts()) is None else "!"


async def test_all_is_well(tmp_path: Path) -> None:
    """A line with ✓ for each check, no colour without a terminal, exit 0."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        bind = f"127.0.0.1:{found.getsockname()[1]}"
    ended = await check(tmp_path, WebBuddy(), WORKER_BIND=bind)
    assert (ended.code, ended.err) == (0, "")
    what = ("settings", "handler", "WebBuddy", "log-in", "account", "clock", "push endpoint")
    assert [line(ended, name)[0] for name in what] == ["✓"] * 7
    assert line(ended, "state folder")[0] == good(tmp_path)
    assert len(ended.out.splitlines()) == 8
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
    assert "! settings WORKER_NAEM is not a setting: did you mean WORKER_NAME?" in " ".join(ended.out.split())
    assert line(ended, "handler").startswith("✓ ")
    assert line(ended, "WebBuddy").startswith("- ")
    assert not webbuddy.requests


async def test_an_unreadable_dotenv(tmp_path: Path) -> None:
    """A .env that can't be read is a sentence, exit 2."""
    (tmp_path / ".env").write_bytes(b"WORKER_NAME=\xff")
    ended = await check(tmp_path, WebBuddy())
    assert ended.code == 2
    assert ".env is not UTF-8" in line(ended, "settings")


async def test_typos(tmp_path: Path) -> None:
    """A line of .env that can't be read, and names that are nearly a setting's: each is told; exit 2."""
    (tmp_path / ".env").write_text("NUM_WORKER=7\nNUM_WORKERS: 7\nMAX_WORKERS=7\n")
    ended = await check(tmp_path, WebBuddy(), POLING_INTERVAL="5")
    found = " ".join(ended.out.split())
    assert ended.code == 2
    assert f"✗ settings {tmp_path}/.env can't be read at line 2: expected NAME=value" in found
    assert "! settings NUM_WORKER is not a setting: did you mean NUM_WORKERS?" in found
    assert "! settings POLING_INTERVAL is not a setting: did you mean POLLING_INTERVAL?" in found
    assert "MAX_WORKERS" not in found


async def test_a_proxy_and_certificates_that_can_not_be_used(tmp_path: Path) -> None:
    """The variable that names them, in a sentence without the proxy's password; exit 2."""
    proxy = "http://me:secret@127.0.0.1:notaport"
    ended = await check(tmp_path, WebBuddy(), HTTP_PROXY=proxy, http_proxy=proxy, NO_PROXY="", no_proxy="")
    assert ended.code == 2
    assert line(ended, "WebBuddy").startswith("✗ WebBuddy http_proxy is 'http://***@127.0.0.1:notaport': exp")
    ended = await run_command(
        tmp_path, "check", webbuddy_url="https://127.0.0.1:1", SSL_CERT_FILE="nowhere.pem"
    )
    assert ended.code == 2
    assert line(ended, "WebBuddy").startswith("✗ WebBuddy SSL_CERT_FILE is 'nowhere.pem': expected the path")
    assert "Traceback" not in ended.out + ended.err
    ended = await run_command(
        tmp_path, "submit", "x", webbuddy_url="https://127.0.0.1:1", SSL_CERT_FILE="nowhere.pem"
    )
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("trio-worker: SSL_CERT_FILE is 'nowhere.pem': expected the path")


async def test_a_wrong_handler(tmp_path: Path) -> None:
    """A handler that can't be imported: why, and the rest is checked all the same; exit 2."""
    (tmp_path / "agent.py").write_text("import nowhere_to_be_found\n")
    ended = await check(tmp_path, WebBuddy(), WORKER_HANDLER="agent:handle")
    assert ended.code == 2
    assert "imports nowhere_to_be_found" in line(ended, "handler")
    assert line(ended, "log-in") == "✓ log-in as 'member'"


LOOKS = """\
from trio_worker import Say, checked_by

async def check(say: Say) -> None:
    say("fine", "model", "is loaded")
    say("problem", "disk", "is full: delete something")
    raise OSError("no more")

@checked_by(check)
async def handle(query, ctx):
    return ""
"""


async def test_a_handler_looks_for_itself(tmp_path: Path) -> None:
    """What it finds are lines as all others, and what its check raises is one, too."""
    (tmp_path / "agent.py").write_text(LOOKS)
    ended = await check(tmp_path, WebBuddy(), WORKER_HANDLER="agent:handle")
    assert ended.code == 1
    assert line(ended, "model") == "✓ model is loaded"
    assert line(ended, "disk") == "✗ disk is full: delete something"
    assert "✗ handler its check raised OSError: no more" in " ".join(ended.out.split())


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
    """An account without a project that sees no query may be a good one: what it means for each; exit 0."""
    webbuddy = WebBuddy()
    webbuddy.add_query("there, but not for everybody", status="done")
    ended = await check(tmp_path, webbuddy, WORKER_USERNAME="stranger")
    assert ended.code == 0
    assert line(ended, "account").startswith("! ")
    assert "sees no query yet: fine for a service account" in line(ended, "account")
    assert "An ordinary user needs a project" in line(ended, "account")


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
    said = f"✗ push endpoint WORKER_BIND is '{bind}': something listens there already: choose another"
    assert said in line(ended, "push endpoint")


async def test_the_port_is_a_web_servers(tmp_path: Path) -> None:
    """Something that answers, but is no worker, even where it answers with JSON; exit 1."""
    async with serve_webbuddy(WebBuddy()) as other:
        ended = await check(tmp_path, WebBuddy(), WORKER_BIND=other.removeprefix("http://"))
    assert ended.code == 1
    assert "something listens there already" in line(ended, "push endpoint")


async def test_the_worker_runs_already(tmp_path: Path) -> None:
    """Beside a running worker, on TCP and on a unix socket, all is well; one that is not ready says why."""
    webbuddy = WebBuddy()
    (tmp_path / "unix").mkdir()
    unix = f"unix:{tmp_path}/w"
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url) as worker,
        start_worker(tmp_path / "unix", webbuddy_url=url, WORKER_BIND=unix) as second,
    ):
        for each in (worker, second):
            await each.until(lambda line: "Running on" in line)
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: webbuddy.count("claim_next") >= 2)
        for bind in (worker.url.removeprefix("http://"), unix):
            ended = await run_command(tmp_path, "check", webbuddy_url=url, WORKER_BIND=bind)
            assert ended.code == 0, ended.out
            said = f"✓ push endpoint {bind} has a worker that runs already, and is ready"
            assert line(ended, "push endpoint").startswith(said)
        bind = worker.url.removeprefix("http://")
        pause(StateFolder(tmp_path / "state", Address(url, "worker")))
        await worker.until(lambda line: "paused" in line)
        ended = await run_command(tmp_path, "check", webbuddy_url=url, WORKER_BIND=bind)
    assert ended.code == 0, ended.out
    assert line(ended, "push endpoint").startswith(f"! push endpoint {bind} has a worker that runs already,")
    assert line(ended, "push endpoint").endswith("and is not ready: it is paused: nothing new is taken")


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


# --- The state folder -------------------------------------------------------------------------------


def hold(tmp_path: Path, url: str, account: str, *numbers: int, dead: str | None = None) -> Path:
    """Leave queries on disk, as a worker does that was killed; returns the folder."""
    folder = StateFolder(tmp_path / "state", Address(url, account))
    folder.make()
    lock = folder.new()
    file = JournalFile(lock.path)
    for number in numbers:
        entry = Entry(id=f"{number}", query=Query(id=number), source="push", claimed_at=0.0, dead=dead)
        file.apply(
            [
                *entry.insertion(),
                ("INSERT OR REPLACE INTO facts VALUES ('url', ?), ('account', ?)", (url, account)),
            ]
        )
    file.close()
    lock.release()
    return folder.path


async def test_a_new_state_folder(tmp_path: Path) -> None:
    """A folder that is not there yet is tried out, and nothing of that is left; exit 0."""
    ended = await check(tmp_path, WebBuddy(), WORKER_STATE_DIR=f"{tmp_path}/new/state")
    assert ended.code == 0
    assert line(ended, "state folder").startswith(f"{good(tmp_path)} state folder")
    assert f"{tmp_path}/new/state" in line(ended, "state folder")
    assert line(ended, "state folder").endswith("Nothing is held there.")
    assert not (tmp_path / "new").exists()


async def test_what_is_held(tmp_path: Path) -> None:
    """How many queries are held, dead letters and those of others too; no journal is made or changed."""
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url:
        path = hold(tmp_path, url, "member", 1, 2)
        hold(tmp_path, url, "member", 3, dead="refused")
        hold(tmp_path, "http://old:8000", "member", 1)
        before = {file: file.read_bytes() for file in path.parent.glob("*/*.journal")}
        ended = await run_command(tmp_path, "check", webbuddy_url=url)
        assert {file: file.read_bytes() for file in path.parent.glob("*/*.journal")} == before
    assert ended.code == 0
    found = [" ".join(text.split()) for text in ended.out.splitlines() if "state folder" in text]
    assert found[0].endswith("3 queries are held there, with 1 dead letter (trio-worker outbox).")
    assert found[1].startswith("! state folder 1 query is held beside it for 'member' at http://old:8000")
    assert found[1].endswith("WEBBUDDY_URL=http://old:8000 WORKER_USERNAME=member trio-worker run")
    assert len(found) == 2


async def test_what_is_held_for_others_only(tmp_path: Path) -> None:
    """After a change of WEBBUDDY_URL: for whom nothing is held, so that it does not sound like nothing."""
    hold(tmp_path, "http://old:8000", "member", 1, 2)
    webbuddy = WebBuddy()
    ended = await check(tmp_path, webbuddy)
    assert line(ended, "state folder").endswith(f"Nothing is held for 'member' at {webbuddy.url}.")
    assert "! state folder 2 queries are held beside it" in " ".join(ended.out.split())


async def test_what_others_hold_who_live(tmp_path: Path) -> None:
    """A worker of another account that runs beside it is no matter of this one's."""
    place = StateFolder(tmp_path / "state", Address("http://old:8000", "member"))
    hold(tmp_path, "http://old:8000", "member", 1)
    (lock,) = place.take_free()
    ended = await check(tmp_path, WebBuddy())
    lock.release()
    assert "for 'member' at http://old:8000, by a worker that lives" in " ".join(ended.out.split())
    assert "trio-worker run" not in ended.out


async def test_a_state_folder_that_can_not_be_used(tmp_path: Path) -> None:
    """A file in its place: what is wrong, and what for it is needed; exit 1."""
    (tmp_path / "state").touch()
    ended = await check(tmp_path, WebBuddy())
    assert ended.code == 1
    assert line(ended, "state folder").startswith(
        f"✗ state folder WORKER_STATE_DIR is '{tmp_path}/state': it is a file: expected a folder"
    )
    assert line(ended, "state folder").endswith("a crash would lose what it holds.")
    assert line(ended, "log-in").startswith("✓ ")


@pytest.mark.parametrize("blocks", [0, 16, 128])  # of 512 bytes: nothing, not a journal, not a query in it
async def test_a_state_folder_that_takes_too_little(tmp_path: Path, blocks: int) -> None:
    """A journal is made in earnest: that folders and small files can be made is not enough; exit 1."""
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url:
        no_data = ["sh", "-c", f'ulimit -f {blocks} && exec "$@"', "sh"]
        ended = await trio.run_process(
            [*no_data, sys.executable, "-m", "trio_worker", "check"],
            cwd=tmp_path,
            env=environment(url),
            capture_stdout=True,
            check=False,
        )
    assert ended.returncode == 1
    said = line(Ended(1, ended.stdout.decode(), ""), "state folder")
    assert said.startswith("✗ state folder the journal ")
    assert re.search("the disk (is full|gives an error)", said)
    assert not (tmp_path / "state").exists()


async def test_a_state_folder_in_memory(tmp_path: Path) -> None:
    """A folder that does not outlive the machine: what is lost then; a word of warning only, exit 0."""
    memory = next(
        (mount.point for mount in read_mounts() if mount.kind == "tmpfs" and writable(mount.point)), None
    )
    if memory is None:
        pytest.skip("no memory disk here that this user may write to")
    ended = await check(tmp_path, WebBuddy(), WORKER_STATE_DIR=f"{memory}/{tmp_path.name}-state")
    assert ended.code == 0
    assert line(ended, "state folder").startswith("! ")
    assert "results that waited are lost" in line(ended, "state folder")
    assert not (memory / f"{tmp_path.name}-state").exists()


def writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


async def test_a_journal_that_can_not_be_read(tmp_path: Path) -> None:
    """A damaged journal, for which the worker would not start: which one; exit 1."""
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url:
        bad = hold(tmp_path, url, "member") / "bad.journal"
        bad.write_text("no journal\n" * 100)
        ended = await run_command(tmp_path, "check", webbuddy_url=url)
    assert ended.code == 1
    assert f"✗ state folder the journal {bad} can't be used: it is not a journal" in line(
        ended, "state folder"
    )
    assert bad.exists()


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
