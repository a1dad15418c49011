"""`trio-worker status`: what people and programs read of the probes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import trio
from click import unstyle

from tests.commands import run_command
from tests.processes import TOO_LONG, start_worker
from trio_worker.cli.running_worker import Answers
from trio_worker.cli.status import screen
from trio_worker.probes import DRAINING, NOT_LOGGED_IN, STOPPING
from trio_worker.testing import WebBuddy, serve_webbuddy
from trio_worker.web.readiness import STARTING

BIND = "127.0.0.1:8001"

TOKEN = "a-token-of-the-operators"

BLOCKING = """
import pathlib, time

async def handle(query, ctx):
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
    return "at last"
"""


def drawn(width: int = 80, **answers: object) -> list[str]:
    lines = [unstyle(line) for line in screen(BIND, Answers(**answers), width)]  # type: ignore[arg-type]
    assert max(map(len, lines)) <= width
    return [line.replace("ok ", "✓  ", 1).replace("NO ", "✗  ", 1) for line in lines]


def test_a_worker_that_is_well() -> None:
    assert drawn() == [
        "   probe   part              127.0.0.1:8001",
        "✓  alive                     each loop goes on in time",
        "✓  ready                     it takes queries",
        "",
        "All is well.",
    ]


def test_ready_but_not_well() -> None:
    assert Answers(notes={"pushes": "pushes have stopped coming"}).is_well  # the exit code
    assert drawn(notes={"pushes": "pushes have stopped coming"})[2:] == [
        "✓  ready                     it takes queries",
        "!          pushes            pushes have stopped coming",
        "",
        "It takes queries, but not all is well.",
    ]


def test_what_is_wrong_and_what_to_do() -> None:
    """A line for each reason, wrapped within its column, and the advice for each once."""
    webbuddy = (
        "for 75 s no query can be claimed (POST /api/queries/claim_next/: no connection to http://webbuddy"
    )
    assert drawn(reasons={"webbuddy": webbuddy, "pause": "it is paused: nothing new is taken"}) == [
        "   probe   part              127.0.0.1:8001",
        "✓  alive                     each loop goes on in time",
        "✗  ready   webbuddy          for 75 s no query can be claimed (POST",
        "                             /api/queries/claim_next/: no connection to",
        "                             http://webbuddy",
        "✗  ready   pause             it is paused: nothing new is taken",
        "",
        "See whether WebBuddy runs, and WEBBUDDY_URL leads there: trio-worker check. It",
        "tries again.",
        "trio-worker resume has it take queries again.",
    ]


def test_the_password_is_in_question_only_after_a_refusal() -> None:
    """As long as nobody has looked at it, WebBuddy is; and that is said once, though it is two reasons."""
    waits = f"{NOT_LOGGED_IN}: POST /api/login/: no connection to http://webbuddy"
    webbuddy = "for 75 s no query can be claimed (POST /api/login/: no connection to http://webbuddy)"
    lines = drawn(120, reasons={"login": waits, "webbuddy": webbuddy})
    assert lines[lines.index("") + 1 :] == [
        "See whether WebBuddy runs, and WEBBUDDY_URL leads there: trio-worker check. It tries again."
    ]
    refused = "WebBuddy refused the log-in of user 'worker' (401): no active account"
    lines = drawn(120, reasons={"login": refused})
    assert lines[-1].startswith("See whether WORKER_USERNAME and WORKER_PASSWORD are right")


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (STARTING, "Nothing to do: it is just starting."),
        (DRAINING, "Nothing to do: it ends when its queries have."),
        (STOPPING, "Nothing to do: it is about to end."),
    ],
)
def test_what_passes_by_itself(reason: str, advice: str) -> None:
    assert drawn(reasons={"service": reason})[-1] == advice


def test_a_loop_that_is_late() -> None:
    lines = drawn(late={"journal writer": "it should have gone on 35 s ago"})
    assert lines[1] == "✗  alive   journal writer    it should have gone on 35 s ago"
    assert lines[4].startswith("Restart the worker: ")


@pytest.mark.parametrize(
    ("problem", "advice"),
    [
        (f"nothing listens at {BIND}", "Is the worker running"),
        (f"what listens at {BIND} does not answer within 3 s", "If that is the worker, something blocks"),
        (f"what listens at {BIND} wants another WORKER_ADMIN_TOKEN", "Set the one"),
        (f"what listens at {BIND} is no trio-worker", "WORKER_BIND has to be the worker's own"),
    ],
)
def test_no_answer(problem: str, advice: str) -> None:
    lines = drawn(problem=problem)
    blank = lines.index("")
    assert " ".join(lines[1:blank]).split() == ["✗", "alive", *problem.split()]
    assert lines[blank + 1].startswith(advice)


async def test_a_real_worker_and_one_whose_loop_is_blocked(tmp_path: Path) -> None:
    """Exit 0 and 1. A blocked loop can't answer `/livez` either, and the worker's log names the line."""
    webbuddy = WebBuddy()
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, handler=BLOCKING, WORKER_ADMIN_TOKEN=TOKEN) as worker,
    ):
        await worker.until(lambda line: "Running on" in line)
        bind = webbuddy.push_url = worker.url
        bind = bind.removeprefix("http://")
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: webbuddy.count("claim_next") >= 1)
        ended = await run_command(tmp_path, "status", webbuddy_url=url, WORKER_BIND=bind)
        assert ended.code == 1
        assert "wants another WORKER_ADMIN_TOKEN" in " ".join(ended.out.split())
        settings = {"WORKER_BIND": bind, "WORKER_ADMIN_TOKEN": TOKEN}
        ended = await run_command(tmp_path, "status", "--json", webbuddy_url=url, **settings)
        assert ended.code == 0, ended.out
        well = {
            "worker": bind,
            "problem": None,
            "live": True,
            "late": {},
            "ready": True,
            "reasons": {},
            "notes": {},
        }
        assert json.loads(ended.out) == well
        query = webbuddy.add_query("a question")
        await worker.until(lambda line: "the handler blocks the whole worker" in line)
        ended = await run_command(tmp_path, "status", webbuddy_url=url, **settings)
        assert ended.code == 1
        assert f"what listens at {bind} does not answer within 3 s" in " ".join(ended.out.split())
        assert "its log names the handler and the line" in " ".join(ended.out.split())
        (tmp_path / "go").touch()
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: query.status == "done")


async def test_watching(tmp_path: Path) -> None:
    """Again and again until Ctrl-C: a pause is seen, and so is its end."""
    webbuddy = WebBuddy()
    watch = ("-m", "trio_worker", "status", "--watch", "--json")
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url) as worker,
    ):
        await worker.until(lambda line: "Running on" in line)
        settings = {"WORKER_BIND": worker.url.removeprefix("http://")}
        mine = {"WORKER_USERNAME": "worker"}
        elsewhere = tmp_path / "watch"
        elsewhere.mkdir()
        async with start_worker(elsewhere, webbuddy_url=url, command=watch, **settings) as watcher:
            await watcher.until(lambda line: json.loads(line)["ready"] is True)
            assert (await run_command(tmp_path, "pause", webbuddy_url=url, **mine)).code == 0
            line = await watcher.until(lambda line: json.loads(line)["ready"] is False)
            assert [*json.loads(line)["reasons"]] == ["pause"]
            assert (await run_command(tmp_path, "resume", webbuddy_url=url, **mine)).code == 0
            paused = watcher.lines.index(line)
            await watcher.until(
                lambda line: '"ready": true' in "".join(watcher.lines[paused:]).replace("\n", "")
            )
            watcher.process.send_signal(signal.SIGINT)
            assert await watcher.wait() == 130, watcher.output
