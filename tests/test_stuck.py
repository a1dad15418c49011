"""`trio-worker stuck`: what is listed, what is changed, what is left alone; over real sockets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import click
import pytest
import trio

from tests import forerunner
from tests.commands import Ended, environment, run_command
from tests.processes import TOO_LONG
from trio_worker.cli.age import age_text, read_age
from trio_worker.held import Held
from trio_worker.journal import Journal, open_journal
from trio_worker.journal_file import Entry
from trio_worker.phrases import ENGLISH
from trio_worker.query import Query
from trio_worker.runners import open_thread
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import StoredQuery, WebBuddy, serve_webbuddy

HOUR, DAY = 3600.0, 86_400.0

Work = Callable[[WebBuddy], Awaitable[None]]


async def stuck(
    directory: Path, webbuddy: WebBuddy, *arguments: str, path: str = "", **environ: str
) -> Ended:
    async with serve_webbuddy(webbuddy) as url:
        ended = await run_command(
            directory,
            "stuck",
            *arguments,
            webbuddy_url=url + path,
            **({"WORKER_USERNAME": "worker"} | environ),
        )
    assert "Traceback" not in ended.out + ended.err
    return ended


def claimed(webbuddy: WebBuddy, text: str, *, age: float, project: int = 1, entries: int = 0) -> StoredQuery:
    """A query that was created and claimed so many seconds ago."""
    query = webbuddy.add_query(text, project=project)
    query.created = webbuddy.now() - age - 5
    webbuddy.claim(query, webbuddy.accounts[1])
    query.started = webbuddy.now() - age
    for number in range(entries):
        webbuddy.add_entry(query, project, f"entry {number}")
    return query


@pytest.fixture
def webbuddy() -> WebBuddy:
    """Three are in_progress, the oldest in the middle; and one of each other sort."""
    webbuddy = WebBuddy()
    claimed(webbuddy, "Проверить\n  авторизацию", age=2 * HOUR, entries=3)
    claimed(webbuddy, "the oldest one", age=3 * DAY, project=2)
    claimed(webbuddy, "young " * 40, age=200)
    for status in ("queued", "done", "failed"):
        webbuddy.add_query(f"a {status} one", status=status)
    return webbuddy


def rows(ended: Ended) -> list[list[str]]:
    return [line.split() for line in ended.out.splitlines()]


def statuses(webbuddy: WebBuddy) -> list[str]:
    return [query.status for query in webbuddy.queries.values()]


# --- The list ------------------------------------------------------------------------------------


async def test_the_list(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """What is in_progress, the oldest first, a line each; nothing is changed."""
    before = statuses(webbuddy)
    ended = await stuck(tmp_path, webbuddy)
    assert (ended.code, ended.err) == (0, "")
    head, *queries = rows(ended)
    assert head == ["query", "project", "since", "age", "log", "entries", "text"]
    assert [(row[0], row[1], row[4], row[5]) for row in queries] == [
        ("2", "Other", "3d", "0"),
        ("1", "Portal", "2h", "3"),
        ("3", "Portal", "3m", "0"),
    ]
    assert queries[1][6:] == ["Проверить", "авторизацию"]
    assert rows(ended)[3][-1].endswith("…")
    assert statuses(webbuddy) == before
    assert webbuddy.count("patch") == 0


async def test_only_what_is_old(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """--older-than leaves out what has been in_progress for a shorter time."""
    ended = await stuck(tmp_path, webbuddy, "--older-than", "1h")
    assert [row[0] for row in rows(ended)] == ["query", "2", "1"]


async def test_ages_go_by_webbuddys_clock(tmp_path: Path) -> None:
    """A machine whose clock is a day behind takes nothing for a day older."""
    webbuddy = WebBuddy()
    real = webbuddy.now
    webbuddy.now = lambda: real() + DAY
    claimed(webbuddy, "x", age=2 * HOUR)
    ended = await stuck(tmp_path, webbuddy)
    assert rows(ended)[1][4] in ("1h", "2h")


async def test_none_is_stuck(tmp_path: Path) -> None:
    """An empty list is said to be one; exit 0, also where something was to be done."""
    ended = await stuck(tmp_path, WebBuddy(), "--older-than", "90m", "--requeue")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == "no query is in_progress for more than 1h\n"


async def test_all_pages(tmp_path: Path) -> None:
    """More than WebBuddy shows at once."""
    webbuddy = WebBuddy()
    for _ in range(120):
        claimed(webbuddy, "x", age=HOUR)
    assert len(rows(await stuck(tmp_path, webbuddy))) == 121


async def test_without_the_time_of_the_claim(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """A WebBuddy that does not say since when: ages from the creation, and that is said."""
    webbuddy.shows_started = False
    webbuddy.queries[1].created -= 5 * DAY
    ended = await stuck(tmp_path, webbuddy, "--older-than", "1d")
    assert [(row[0], row[4]) for row in rows(ended)[1:]] == [("1", "5d"), ("2", "3d")]
    assert "does not say since when: the ages are counted from the creation" in ended.err


async def test_a_webbuddy_without_that_read(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """One sentence; exit 1."""
    webbuddy.missing = frozenset({"by_status"})
    ended = await stuck(tmp_path, webbuddy)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (1, "", 1)
    assert "can't be asked which queries are in_progress" in ended.err


async def test_what_a_terminal_would_obey(tmp_path: Path) -> None:
    """A query's text is one line of the list, whatever is in it."""
    webbuddy = WebBuddy()
    claimed(webbuddy, "one\r\ntwo\tthree", age=0)
    ended = await stuck(tmp_path, webbuddy)
    assert rows(ended)[1][6:] == ["one", "two", "three"]
    assert len(ended.out.splitlines()) == 2


# --- What goes wrong -----------------------------------------------------------------------------


async def test_wrong_settings(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """A sentence for each; nothing is sent; exit 2. A handler is not needed."""
    ended = await stuck(tmp_path, webbuddy, NUM_WORKERS="many", WORKER_HANDLER="", WORKER_USERNAME="")
    assert (ended.code, len(ended.err.splitlines())) == (2, 2)
    assert not webbuddy.requests


@pytest.mark.parametrize("arguments", [["--older-than", "1"], ["--older-than", "x"], ["--requeue", "--fail"]])
async def test_wrong_options(tmp_path: Path, webbuddy: WebBuddy, arguments: list[str]) -> None:
    """An age needs its unit, and only one thing can be done at once; exit 2."""
    ended = await stuck(tmp_path, webbuddy, *arguments)
    assert ended.code == 2
    assert "expected a number and its unit, as in 90m" in ended.err or "exclude each other" in ended.err
    assert not webbuddy.requests


async def test_the_log_in_is_refused(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """Said so; exit 3."""
    ended = await stuck(tmp_path, webbuddy, WORKER_PASSWORD="not-this-one")
    assert (ended.code, ended.out) == (3, "")
    assert "refused the log-in of user 'worker'" in ended.err


async def test_webbuddy_is_down(tmp_path: Path) -> None:
    """One sentence; exit 1."""
    ended = await stuck(tmp_path, WebBuddy(down=True), "--requeue", "--yes")
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (1, "", 1)
    assert "no connection to" in ended.err


# --- Doing something -----------------------------------------------------------------------------


async def test_requeue(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """Those listed go back into the queue, and nothing else is touched; --yes asks nothing."""
    ended = await stuck(tmp_path, webbuddy, "--older-than", "1h", "--requeue", "--yes")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-2:] == ["query 2 is queued", "query 1 is queued"]
    assert statuses(webbuddy) == ["queued", "queued", "in_progress", "queued", "done", "failed"]
    assert webbuddy.queries[1].answer_text == ""
    assert webbuddy.count("patch") == 2


async def test_fail(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """They fail, and their authors read why."""
    ended = await stuck(tmp_path, webbuddy, "--older-than", "1d", "--fail", "--yes", WORKER_LANGUAGE="en")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "query 2 is failed")
    assert statuses(webbuddy)[:3] == ["in_progress", "failed", "in_progress"]
    assert webbuddy.queries[2].answer_text == ENGLISH.given_up


async def ask(
    directory: Path, webbuddy: WebBuddy, *arguments: str, answer: bytes, meanwhile: Work | None = None
) -> Ended:
    """Run it with somebody who reads the question, lets something happen, and answers."""
    command = [sys.executable, "-m", "trio_worker", "stuck", *arguments]
    said = b""
    async with serve_webbuddy(webbuddy) as url:
        with trio.fail_after(TOO_LONG):
            process = await trio.lowlevel.open_process(
                command,
                cwd=directory,
                env=environment(url, WORKER_USERNAME="worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            async with process.stdin, process.stdout, process.stderr:
                while b"[y/N]" not in said:
                    said += await process.stderr.receive_some() or pytest.fail(said.decode())
                if meanwhile is not None:
                    await meanwhile(webbuddy)
                await process.stdin.send_all(answer)
                await process.stdin.aclose()
                out = b"".join([chunk async for chunk in process.stdout])
                said += b"".join([chunk async for chunk in process.stderr])
                code = await process.wait()
    assert b"Traceback" not in said
    return Ended(code, out.decode(), said.decode())


async def test_it_asks_first(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """With the list before the question; a yes does it."""
    ended = await ask(tmp_path, webbuddy, "--requeue", "--older-than", "1h", answer=b"y\n")
    assert ended.code == 0
    assert "Put back 2 queries?" in ended.err
    assert statuses(webbuddy)[:3] == ["queued", "queued", "in_progress"]


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 0), (b"\n", 0), (b"", 1)])
async def test_without_a_yes_nothing_happens(
    tmp_path: Path, webbuddy: WebBuddy, answer: bytes, code: int
) -> None:
    """A no, and a mere Enter, are obeyed; where nobody can answer that is said, exit 1."""
    ended = await ask(tmp_path, webbuddy, "--fail", answer=answer)
    assert ended.code == code
    assert statuses(webbuddy)[:3] == ["in_progress"] * 3
    assert ("With --yes there is no question" in ended.err) == (code == 1)


async def test_another_look_at_each(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """What has changed since the list was made is left alone, and said so; the rest is done; exit 0."""
    claimed(webbuddy, "deleted", age=HOUR)
    claimed(webbuddy, "of a new database", age=HOUR)

    async def meanwhile(webbuddy: WebBuddy) -> None:
        await trio.lowlevel.checkpoint()
        webbuddy.set_status(webbuddy.queries[1], "done", webbuddy.accounts[1])
        webbuddy.requeue(2)
        webbuddy.claim(webbuddy.queries[2], webbuddy.accounts[1])
        webbuddy.delete_query(7)
        webbuddy.queries[8].created += 1

    ended = await ask(tmp_path, webbuddy, "--requeue", answer=b"y\n", meanwhile=meanwhile)
    assert ended.code == 0
    assert sorted(ended.out.splitlines()[-5:]) == [
        "query 1 is left alone: it is done by now",
        "query 2 is left alone: it was claimed again",
        "query 3 is queued",
        "query 7 is left alone: it was deleted",
        "query 8 is left alone: its number is another query's now",
    ]
    assert [webbuddy.queries[number].status for number in (1, 2, 3)] == ["done", "in_progress", "queued"]
    assert webbuddy.count("patch") == 1


async def test_a_webbuddy_that_shows_no_single_query(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """Without another look nothing is changed; exit 1."""
    webbuddy.missing = frozenset({"read"})
    ended = await stuck(tmp_path, webbuddy, "--requeue", "--yes")
    assert (ended.code, webbuddy.count("patch")) == (1, 0)
    assert ended.err.count("this WebBuddy does not show single queries") == 3


async def test_one_that_webbuddy_refuses(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """It is said, the others are done; exit 1."""
    webbuddy.fail_next(
        400, endpoint="patch", headers={"Content-Type": "application/json"}, body=b'{"status": ["no"]}'
    )
    ended = await stuck(tmp_path, webbuddy, "--requeue", "--yes")
    assert (ended.code, statuses(webbuddy)[:3]) == (1, ["queued", "in_progress", "queued"])
    assert "query 2: PATCH /api/queries/2/: WebBuddy answered 400: status: no" in ended.err


async def test_webbuddy_goes_away_in_the_middle(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """The rest is left alone; exit 1."""
    webbuddy.fail_next(503, endpoint="patch")
    ended = await stuck(tmp_path, webbuddy, "--requeue", "--yes")
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert statuses(webbuddy)[:3] == ["in_progress"] * 3


# --- What the workers of this machine hold --------------------------------------------------------


async def hold(directory: Path, webbuddy: WebBuddy, query: StoredQuery, work: Work, **address: str) -> None:
    """Have a living process that holds a query."""
    whose = Address(address.get("url", webbuddy.url), address.get("account", "worker"))
    async with (
        open_thread("journal") as runner,
        open_journal(StateFolder(directory / "state", whose), runner=runner) as journal,
    ):
        _, receipt = Held.claimed(journal, shown(webbuddy, query), "poll", ENGLISH)
        await receipt.durable()
        await work(webbuddy)
        forget_all(journal)


def shown(webbuddy: WebBuddy, query: StoredQuery) -> Query:
    times = {"query_created": query.created, "query_started": query.started}
    return Query.from_json(
        {"id": query.id} | {name: webbuddy.timestamp(at) for name, at in times.items() if at is not None}
    )


def forget_all(journal: Journal) -> None:
    for entry in list(journal.entries.values()):
        journal.forget(entry)


@pytest.mark.parametrize("address", [{}, {"url": "http://by-another-name:8000", "account": "other"}])
async def test_held_here(tmp_path: Path, webbuddy: WebBuddy, address: dict[str, str]) -> None:
    """What a living worker of this machine holds is marked and left alone, whatever its address."""
    ends: list[Ended] = []

    async def work(webbuddy: WebBuddy) -> None:
        ends.append(
            await run_command(tmp_path, *command, webbuddy_url=webbuddy.url, WORKER_USERNAME="worker")
        )

    command = ["stuck", "--requeue", "--yes"]
    async with serve_webbuddy(webbuddy):
        await hold(tmp_path, webbuddy, webbuddy.queries[2], work, **address)
    queries = rows(ends[0])[1:]
    assert [(row[0], "held" in row) for row in queries[:3]] == [("2", True), ("1", False), ("3", False)]
    assert statuses(webbuddy)[:3] == ["queued", "in_progress", "queued"]
    assert ends[0].code == 0
    assert "left alone" not in ends[0].out  # the list has said it


async def test_held_by_the_time_of_the_answer(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """A worker that has taken a query up since the list was made keeps it."""
    query = webbuddy.queries[2]
    done = trio.Event()

    async with trio.open_nursery() as nursery:

        async def meanwhile(webbuddy: WebBuddy) -> None:
            holds = trio.Event()

            async def work(webbuddy: WebBuddy) -> None:
                holds.set()
                await done.wait()

            nursery.start_soon(partial(hold, tmp_path, webbuddy, query, work))
            await holds.wait()

        ended = await ask(
            tmp_path, webbuddy, "--requeue", "--older-than", "1d", answer=b"y\n", meanwhile=meanwhile
        )
        done.set()
    assert ended.out.splitlines()[-1] == "query 2 is left alone: a worker of this machine holds it now"
    assert query.status == "in_progress"


async def test_all_that_are_listed_are_held(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """It is said that nothing was changed; exit 0."""
    ends: list[Ended] = []
    command = ["stuck", "--requeue", "--yes", "--older-than", "1d"]

    async def work(webbuddy: WebBuddy) -> None:
        ends.append(
            await run_command(tmp_path, *command, webbuddy_url=webbuddy.url, WORKER_USERNAME="worker")
        )

    async with serve_webbuddy(webbuddy):
        await hold(tmp_path, webbuddy, webbuddy.queries[2], work)
    assert (ends[0].code, ends[0].err) == (0, "")
    assert ends[0].out.splitlines()[-1] == "1 query is held here: nothing changed"
    assert webbuddy.count("patch") == 0


def leave_behind(
    directory: Path, webbuddy: WebBuddy, *numbers: int, account: str = "worker", dead: str | None = None
) -> None:
    """Let a worker be killed in the middle of these queries."""
    entries = [
        Entry(
            id=f"entry-{number}",
            query=shown(webbuddy, webbuddy.queries[number]),
            source="poll",
            claimed_at=0.0,
            running=True,
            dead=dead,
        )
        for number in numbers
    ]
    forerunner.leave_behind(directory / "state", webbuddy, entries, account=account)


@pytest.mark.parametrize("account", ["worker", "other"])
async def test_what_the_dead_have_left(tmp_path: Path, webbuddy: WebBuddy, account: str) -> None:
    """Marked, and not changed: the next worker judges it. Only who lets go of it may put it back."""
    async with serve_webbuddy(webbuddy) as url:
        leave_behind(tmp_path, webbuddy, 1, 2, account=account)
        command = partial(run_command, tmp_path, webbuddy_url=url)
        requeue = partial(command, "stuck", "--requeue", "--yes", "--older-than", "1h")
        kept = await requeue(WORKER_USERNAME="worker")
        assert webbuddy.count("patch") == 0
        assert (await command("outbox", "--drop", "2", "--yes", WORKER_USERNAME=account)).code == 0
        put_back = await requeue(WORKER_USERNAME="worker")
    assert kept.code == 0
    assert [" cut off here " in text for text in kept.out.splitlines()] == [False, True, True, False]
    assert kept.out.splitlines()[-1] == "2 queries are held here: nothing changed"
    assert "2 queries were left here by a dead worker" in kept.err
    assert "trio-worker outbox --drop 2 1, then this command again" in kept.err
    assert (f"WEBBUDDY_URL={url} WORKER_USERNAME=other trio-worker outbox" in kept.err) == (
        account == "other"
    )
    assert put_back.code == 0
    assert put_back.out.splitlines()[-1] == "query 2 is queued"
    assert "takes it up" in put_back.err
    assert statuses(webbuddy)[:3] == ["in_progress", "queued", "in_progress"]


async def test_left_by_the_time_of_the_answer(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """A worker that has taken a query up since the list was made, and died, keeps it too."""

    async def meanwhile(webbuddy: WebBuddy) -> None:
        await trio.lowlevel.checkpoint()
        leave_behind(tmp_path, webbuddy, 2)

    ended = await ask(
        tmp_path, webbuddy, "--requeue", "--older-than", "1d", answer=b"y\n", meanwhile=meanwhile
    )
    assert ended.out.splitlines()[-1] == "query 2 is left alone: a worker of this machine has left it now"
    assert webbuddy.count("patch") == 0


async def test_a_dead_letter(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """Named as one, left alone, and no worker is said to take it up."""
    async with serve_webbuddy(webbuddy) as url:
        leave_behind(tmp_path, webbuddy, 2, dead="refused")
        ended = await run_command(
            tmp_path,
            "stuck",
            "--fail",
            "--yes",
            "--older-than",
            "1d",
            webbuddy_url=url,
            WORKER_USERNAME="worker",
        )
    assert " dead letter here " in ended.out.splitlines()[1]
    assert ended.err == "trio-worker: 1 dead letter is kept here: see trio-worker outbox\n"
    assert webbuddy.count("patch") == 0


async def test_a_journal_that_cannot_be_read(tmp_path: Path, webbuddy: WebBuddy) -> None:
    """The list is shown with a warning; nothing is changed without knowing what is held here."""
    async with serve_webbuddy(webbuddy) as url:
        folder = StateFolder(tmp_path / "state", Address(url, "worker"))
        folder.make()
        lock = folder.new()
        lock.path.write_bytes(b"no journal" * 1000)
        command = partial(run_command, tmp_path, "stuck", webbuddy_url=url, WORKER_USERNAME="worker")
        listed = await command()
        acted = await run_command(
            tmp_path, "stuck", "--requeue", "--yes", webbuddy_url=url, WORKER_USERNAME="worker"
        )
        lock.remove()
    assert (listed.code, len(rows(listed))) == (0, 4)
    assert "What the workers of this machine hold is not marked" in listed.err
    assert (acted.code, acted.out) == (1, "")
    assert webbuddy.count("patch") == 0


# --- Ages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90m", 5400), ("1.5h", 5400), ("1d", 86_400), (" 2 D ", 172_800)]
)
def test_an_age(text: str, seconds: float) -> None:
    """A number and its unit."""
    assert read_age(None, None, text) == seconds


@pytest.mark.parametrize("text", ["", "1", "d", "-1d", "1w", "1d2h", "1e3s", "١d"])
def test_no_age(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(click.BadParameter, match="as in 90m"):
        read_age(None, None, text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.9, "59s"), (60, "1m"), (7199, "1h"), (86_400, "1d"), (1e7, "115d")]
)
def test_an_age_in_words(seconds: float, text: str) -> None:
    """In its greatest unit, cut."""
    assert age_text(seconds) == text
