"""`trio-worker outbox`: real journals, and the real command beside them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.commands import Ended, environment, run_command
from tests.processes import TOO_LONG
from trio_worker import clock
from trio_worker.cli.outbox_journals import Change, change_letters, let_go
from trio_worker.context import Context
from trio_worker.errors import JournalError
from trio_worker.holdings import look_into
from trio_worker.journal import Journal, open_journal
from trio_worker.journal_file import Entry, HeldLine, JournalFile
from trio_worker.journal_rows import fact
from trio_worker.query import Done, Failed, Query, Released
from trio_worker.runners import inline, open_thread
from trio_worker.state_folder import Address, LockedFile, StateFolder, kept_from_takers
from trio_worker.takeover import OwnJournal
from trio_worker.testing import WebBuddy, open_worker, trio_time

URL = "http://webbuddy:8000"
WHY = "PATCH /api/queries/12/: WebBuddy answered 400: answer_text: too long for this WebBuddy"


@attrs.frozen
class Kept:
    """A journal on disk, locked by this test: to the command, its process lives."""

    lock: LockedFile
    file: JournalFile

    @property
    def path(self) -> Path:
        return self.lock.path

    def die(self) -> None:
        """Let its process be dead."""
        self.file.close()
        self.lock.release()

    def numbers(self) -> dict[int, str | None]:
        """The queries in it, and why they are dead letters."""
        return {entry.query.id: entry.dead for entry in self.file.load().entries}


def folder(tmp_path: Path, *, url: str = URL, account: str = "member") -> StateFolder:
    return StateFolder(tmp_path / "state", Address(url, account))


@contextmanager
def journal(tmp_path: Path, *entries: Entry, url: str = URL, account: str = "member") -> Iterator[Kept]:
    """Keep a journal with these entries."""
    place = folder(tmp_path, url=url, account=account)
    place.make()
    lock = place.new()
    file = JournalFile(lock.path)
    statements = [statement for entry in entries for statement in entry.insertion()]
    file.apply([fact("url", url), fact("account", account), *statements])
    kept = Kept(lock, file)
    try:
        yield kept
    finally:
        kept.die()


def entry(number: int, age: float = 0.0, **fields: object) -> Entry:
    """An entry that is this old, in seconds."""
    values = {"source": "push", "claimed_at": clock.now() - age, "attempts": 1}
    return Entry(id=f"entry {number}", query=Query(id=number, query_text="hello"), **(values | fields))  # type: ignore[arg-type]


def dead_letter(number: int, answer: str = "the answer", **fields: object) -> Entry:
    return entry(number, outcome=Done(answer), ended_at=clock.now(), **({"dead": WHY} | fields))


async def outbox(tmp_path: Path, *arguments: str, **environ: str) -> Ended:
    ended = await run_command(tmp_path, "outbox", *arguments, webbuddy_url=URL, **environ)
    # Whatever it found:
    assert "Traceback" not in ended.out + ended.err
    assert "secret" not in ended.out + ended.err
    return ended


async def answering(tmp_path: Path, answer: str, *arguments: str) -> Ended:
    """Run the command, and type an answer to its question."""
    with trio.fail_after(TOO_LONG):
        ended = await trio.run_process(
            [sys.executable, "-m", "trio_worker", "outbox", *arguments],
            stdin=answer.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=tmp_path,
            env=environment(URL),
        )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def line(ended: Ended, number: int) -> str:
    """A query's line, with single blanks throughout."""
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    return next(line for line in lines if line.startswith(f"{number} "))


# --- What is shown ----------------------------------------------------------------------------------


async def test_nothing_is_held(tmp_path: Path) -> None:
    """One sentence, exit 0; no folder is made."""
    ended = await outbox(tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"Nothing is held for 'member' at {URL} in {tmp_path}/state.\n"
    assert not (tmp_path / "state").exists()


async def test_what_a_living_worker_holds(tmp_path: Path) -> None:
    """Each query with how it stands, its attempts, its age and the first words of its outcome."""
    entries = [
        entry(1, running=True),
        entry(2, age=300, due=clock.now() + 86_400, attempts=4),
        entry(3, age=7300, outcome=Done("All  is\nwell."), attempts=2),
        entry(4, outcome=Failed("It is down.", "said_so"), reported=True),
        entry(5, outcome=Released("a stop"), attempts=0),
        entry(6, attempts=0),
    ]
    with journal(tmp_path, *entries) as kept:
        ended = await outbox(tmp_path)
        assert kept.file.load().entries == sorted(entries, key=lambda entry: entry.claimed_at)
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"1 running 1 \d+s", line(ended, 1))
    assert re.fullmatch(r"2 put aside until [-0-9]{10} [:0-9]{5} 4 5m", line(ended, 2))
    assert line(ended, 3) == "3 result waits 2 2h done: All is well."
    assert re.fullmatch(r"4 log waits 1 \d+s failed: It is down\.", line(ended, 4))
    assert re.fullmatch(r"5 result waits 0 \d+s put back: a stop", line(ended, 5))
    assert re.fullmatch(r"6 waits to be run 0 \d+s", line(ended, 6))
    assert "no worker that lives" not in ended.out
    assert "dead letter" not in ended.out


async def test_what_a_dead_worker_has_left(tmp_path: Path) -> None:
    """What its handlers were at work on is cut off, and it is said who takes it up."""
    with journal(tmp_path, entry(1, running=True), dead_letter(2)) as kept:
        kept.die()
        ended = await outbox(tmp_path)
    assert ended.code == 0
    assert line(ended, 1).startswith("1 cut off 1 ")
    said = " ".join(ended.out.split())
    assert "1 query is held by no worker that lives: the next that starts takes it up" in said
    assert "To let go of it instead: trio-worker outbox --drop ID." in said


async def test_a_dead_letter(tmp_path: Path) -> None:
    """Why WebBuddy will not take it stands below it, and what can be done."""
    with journal(tmp_path, dead_letter(12)):
        ended = await outbox(tmp_path)
    assert line(ended, 12).startswith("12 dead letter 1 ")
    shown = " ".join(ended.out.split())
    assert WHY in shown
    assert "trio-worker outbox --retry ID, --export FILE, or --drop ID" in shown


async def test_eighty_columns(tmp_path: Path) -> None:
    """No line is longer than 80 cells, whatever the letters; what a terminal would obey is replaced."""
    with journal(
        tmp_path,
        dead_letter(1_234_567, "\a\x9bвсё " * 100, dead="why not " * 50),
        entry(2, due=clock.now() + 86_400),
        entry(3, outcome=Done("登录页面" * 3)),
    ):
        ended = await outbox(tmp_path)
    table = [text for text in ended.out.splitlines() if not text.startswith("in /")]
    cells = [len(text) + len(re.findall(r"[登录页面]", text)) for text in table]
    assert 70 < max(cells) <= 80
    assert "\ufffd\ufffdвсё" in line(ended, 1_234_567)
    assert not {"\a", "\x9b"} & set(ended.out)
    assert ended.out.count("why not") == 50


async def test_several_workers(tmp_path: Path) -> None:
    """All journals of the folder are shown together, the oldest claim first."""
    with (
        journal(tmp_path, entry(1, age=10), entry(3, age=30)),
        journal(tmp_path, entry(2, age=20)) as neighbour,
    ):
        neighbour.die()
        ended = await outbox(tmp_path)
    assert re.findall(r"(?m)^ +(\d) ", ended.out) == ["3", "2", "1"]


async def test_other_addresses(tmp_path: Path) -> None:
    """What is held for another WebBuddy or account is counted and named, and never touched."""
    with (
        journal(tmp_path, dead_letter(1), entry(2), url="http://old:8000") as old,
        journal(tmp_path, dead_letter(3), account="somebody-else") as other,
    ):
        shown = await outbox(tmp_path)
        retried = await outbox(tmp_path, "--retry", "--all")
        dropped = await outbox(tmp_path, "--drop", "1", "3", "--yes")
        assert (old.numbers(), other.numbers()) == ({1: WHY, 2: None}, {3: WHY})
    assert shown.code == 0
    assert "2 queries: 'member' at http://old:8000\n" in shown.out
    assert f"1 query: 'somebody-else' at {URL}\n" in shown.out
    assert (retried.code, retried.err) == (1, "trio-worker: there is no dead letter\n")
    assert (dropped.code, dropped.err.count("is not held here")) == (1, 2)
    assert "no worker that lives" not in shown.out  # they wait for nobody


async def test_other_addresses_of_the_dead(tmp_path: Path) -> None:
    """What no worker takes up with these settings: with which others it does, as a shell takes them."""
    with journal(tmp_path, entry(1), entry(2), url="http://old:8000", account="o'hara") as old:
        old.die()
        ended = await outbox(tmp_path)
    said = " ".join(ended.out.split())
    assert "2 queries are held by no worker that lives. Only one with the same settings takes them up" in said
    assert """WEBBUDDY_URL=http://old:8000 WORKER_USERNAME='o'"'"'hara' trio-worker run""" in said


# --- One query in full ------------------------------------------------------------------------------


async def test_one_in_full(tmp_path: Path) -> None:
    """How it stands, since when, why, its texts as they are, and how much of its log is unsent."""
    letter = dead_letter(
        12,
        "line one\n\x1b[31mline two",
        attempts=3,
        deaths=2,
        blamed=1,
        entries=4,
        lines=[HeldLine(1, "+0.1s", "claimed")],
        age=7300,
    )
    with journal(tmp_path, letter, dead_letter(13)) as kept:
        ended = await outbox(tmp_path, "12")
    assert (ended.code, ended.err) == (0, "")
    lines = [" ".join(text.split()) for text in ended.out.splitlines()]
    assert lines[:2] == ["Query 12", "state dead letter (held by a worker that lives)"]
    for expected in (
        f"why {WHY}",
        "attempts 3",
        "deaths 2 of its worker, 1 of them while it was alone at work",
        "log 4 entries sent to WebBuddy, 1 line unsent",
        f"journal {kept.path}",
        "line one",
        "\ufffd[31mline two",
    ):
        assert expected in lines
    assert re.search(r"claimed .* \(2h ago\)", ended.out)
    assert lines[lines.index("text") + 1] == "hello"
    assert "Query 13" not in ended.out


async def test_several_in_full(tmp_path: Path) -> None:
    """Each, long texts cut; one that is not held is named, exit 1; nothing is changed."""
    failed = entry(2, outcome=Failed("x" * 2500, "said_so"), retries=2)
    with journal(tmp_path, entry(1, running=True, age=5), failed) as kept:
        kept.die()
        ended = await outbox(tmp_path, "2", "1", "9")
    assert (ended.code, ended.err) == (1, "trio-worker: query 9 is not held here\n")
    said = " ".join(ended.out.split())
    assert re.findall(r"Query \d", said) == ["Query 1", "Query 2"]
    assert "state cut off (its worker is dead: the next takes it up)" in said
    assert "the one that has cut it off is counted by the next worker" in said
    assert "put aside 2 times" in said
    assert said.endswith(f"failed {'x' * 2000} … and 500 characters more")


# --- Retry ------------------------------------------------------------------------------------------


async def test_retry_where_no_worker_runs(tmp_path: Path) -> None:
    """The next worker that starts has the letter as any other result that waits; others stay dead."""
    with journal(tmp_path, dead_letter(12), dead_letter(13), entry(14, running=True)) as kept:
        kept.die()
        ended = await outbox(tmp_path, "--retry", "12")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("To be tried again: query 12.")
    own = OwnJournal.open(folder(tmp_path), "full")
    found = {entry.query.id: entry for entry in own.found.entries}
    assert {number: entry.dead for number, entry in found.items()} == {12: None, 13: WHY, 14: None}
    assert found[12].outcome == Done("the answer")
    own.close()


@asynccontextmanager
async def open_own(tmp_path: Path, *entries: Entry) -> AsyncIterator[Journal]:
    """A worker's journal, with these entries on disk."""
    async with (
        open_thread("journal") as runner,
        open_journal(folder(tmp_path), runner=runner) as own,
    ):
        for kept in entries:
            await own.keep(kept).durable()
        yield own


async def test_retry_while_a_worker_runs(tmp_path: Path) -> None:
    """The worker finds the letter in its own journal, and no other."""
    async with open_own(tmp_path, dead_letter(12), dead_letter(13)) as own:
        assert await own.revived() == []
        ended = await outbox(tmp_path, "--retry", "12")
        assert (ended.code, ended.err) == (0, "")
        assert [entry.query.id for entry in await own.revived()] == [12]
        assert await own.revived() == []


async def test_retry_between_a_workers_commits(tmp_path: Path) -> None:
    """A worker that writes all the time and the command do not get into each other's way."""
    async with open_own(tmp_path, *map(dead_letter, range(1, 21))) as own, trio.open_nursery() as nursery:

        async def write() -> None:
            while True:
                await own.write(fact("anything", 1)).durable()

        nursery.start_soon(write)
        ended = await outbox(tmp_path, "--retry", "--all")
        nursery.cancel_scope.cancel()
        assert (ended.code, ended.err) == (0, "")
        with trio.CancelScope(shield=True):
            assert len(await own.revived()) == 20


async def answer(_query: Query, _ctx: Context) -> str:
    return "an answer"


async def test_the_worker_delivers_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A letter that is retried is delivered by the running worker within ten seconds or so."""
    webbuddy = WebBuddy(now=trio_time())
    body, headers = b'{"answer_text": ["No."]}', {"Content-Type": "application/json"}
    webbuddy.fail_next(400, calls=2, endpoint="patch", headers=headers, body=body)
    async with open_worker(answer, webbuddy=webbuddy, state_dir=tmp_path / "state") as worker:
        query = webbuddy.add_query("hello")
        await webbuddy.until(lambda: webbuddy.count("patch") == 2)
        await trio.sleep(1)
        place = folder(tmp_path, url=webbuddy.url, account="worker")
        (letter,) = look_into(place).dead_letters
        assert (letter.owned, letter.entry.outcome) == (True, Done("an answer"))
        assert worker.journal is not None
        assert change_letters(place, "retry", [letter.entry.id]) == []
        await trio.sleep(12)
        assert (query.status, query.answer_text) == ("done", "an answer")
        assert look_into(place).found == []


async def test_a_letter_that_died_just_now(tmp_path: Path) -> None:
    """A worker does not take a letter for dropped, or revived, whose death is not on disk yet."""
    async with open_journal(folder(tmp_path), runner=inline) as own:
        own.keep(dead_letter(12))
        assert await own.revived() == []
        assert [entry.dead for entry in own.entries.values()] == [WHY]


# --- Drop -------------------------------------------------------------------------------------------


async def test_drop_asks(tmp_path: Path) -> None:
    """Only a yes drops: not a no, and not that nobody is there."""
    with journal(tmp_path, dead_letter(12), dead_letter(13)) as kept:
        nobody = await answering(tmp_path, "", "--drop", "12")
        no = await answering(tmp_path, "n\n", "--drop", "12")
        assert kept.numbers() == {12: WHY, 13: WHY}
        yes = await answering(tmp_path, "y\n", "--drop", "12")
        assert kept.numbers() == {13: WHY}
    assert (nobody.code, no.code, yes.code) == (1, 0, 0)
    assert "nobody has answered. With --yes there is no question." in nobody.err
    assert "done: the answer" in no.err
    assert "Drop for good, answers and all: query 12?" in no.err
    assert (no.out, yes.out.partition(".")[0]) == ("", "Dropped: query 12")


async def test_drop_takes_dead_letters_only(tmp_path: Path) -> None:
    """Of all that is held, only dead letters go, with their lines; nothing else, even of that number."""
    lines = [HeldLine(1, "+0.1s", "claimed")]
    again = attrs.evolve(entry(12, running=True, lines=lines), id="claimed again")
    with journal(tmp_path, dead_letter(12, lines=lines), again, entry(13, outcome=Done("waits"))) as kept:
        ended = await outbox(tmp_path, "--drop", "--all", "--yes")
        assert kept.file.load().entries == [
            attrs.evolve(again, lines=lines),
            *(left for left in kept.file.load().entries if left.query.id == 13),
        ]
        assert kept.numbers() == {12: None, 13: None}
        rows = kept.file._connection.execute("SELECT held FROM lines").fetchall()
        assert rows == [("claimed again",)]
    assert (ended.code, ended.err) == (0, "")


async def test_drop_what_a_dead_worker_has_left(tmp_path: Path) -> None:
    """By its number only, with its lines; not what a living one holds, and no other action does that."""
    lines = [HeldLine(1, "+0.1s", "claimed")]
    with (
        journal(tmp_path, entry(12, running=True, lines=lines), entry(13), dead_letter(14)) as left,
        journal(tmp_path, entry(15, running=True)) as living,
    ):
        left.die()
        for no in (["--retry", "12"], ["--export", "-", "12"], ["--drop", "15", "--yes"]):
            refused = await outbox(tmp_path, *no)
            assert (refused.code, refused.err.count("is held, but no dead letter")) == (1, 1)
        assert (await outbox(tmp_path, "--drop", "--all", "--yes")).out.startswith("Dropped: query 14.")
        dropped = await outbox(tmp_path, "--drop", "12", "--yes")
        assert living.numbers() == {15: None}
    assert (dropped.code, dropped.err) == (0, "")
    assert dropped.out.startswith("Dropped: query 12.")
    own = OwnJournal.open(folder(tmp_path), "full")
    assert {found.query.id: found.lines for found in own.found.entries} == {13: [], 15: []}
    own.close()


async def test_what_is_taken_up_meanwhile_is_not_dropped(tmp_path: Path) -> None:
    """Between the question and the answer a worker may start: it keeps the query, and that is said."""
    with journal(tmp_path, entry(12, running=True)) as left:
        left.die()
        async with open_own(tmp_path) as own:
            assert let_go(folder(tmp_path), ["entry 12"]) == ["query 12: a worker has taken it up meanwhile"]
            assert [kept.query.id for kept in own.entries.values()] == [12]
        assert [found.entry.query.id for found in look_into(folder(tmp_path)).found] == [12]


async def test_a_letter_that_is_retried_meanwhile_is_not_let_go(tmp_path: Path) -> None:
    """Two operators: what one has revived, the other does not drop with what was left."""
    with journal(tmp_path, dead_letter(12), entry(13)) as left:
        left.die()
        assert change_letters(folder(tmp_path), "retry", ["entry 12"]) == []
        assert change_letters(folder(tmp_path), "drop", ["entry 12"]) == []
        assert let_go(folder(tmp_path), ["entry 13"]) == []
    assert [found.entry.query.id for found in look_into(folder(tmp_path)).found] == [12]


async def test_a_revived_letter_is_not_dropped(tmp_path: Path) -> None:
    """Between the question and the answer, somebody else may have had one tried again: it stays whole."""
    lines = [HeldLine(1, "+0.1s", "claimed")]
    with journal(tmp_path, dead_letter(12, lines=lines), dead_letter(13, lines=lines)) as kept:
        kept.file.apply([("UPDATE held SET dead = NULL WHERE id = 'entry 12'", ())])
        assert change_letters(folder(tmp_path), "drop", ["entry 12", "entry 13"]) == []
        assert kept.numbers() == {12: None}
        assert kept.file.load().entries[0].lines == lines


async def test_an_interrupted_question(tmp_path: Path) -> None:
    """Ctrl-C at the question ends the command, without a traceback; nothing is dropped."""
    with journal(tmp_path, dead_letter(12)) as kept:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_worker", "outbox", "--drop", "12"],
            cwd=tmp_path,
            env=environment(URL),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        said = b""
        with trio.fail_after(TOO_LONG):
            while b"[y/N]" not in said:
                said += await process.stderr.receive_some()
            process.send_signal(signal.SIGINT)
            said += b"".join([chunk async for chunk in process.stderr])
            assert await process.wait() == -signal.SIGINT  # 130 to a shell
        assert kept.numbers() == {12: WHY}
    assert b"Traceback" not in said


async def test_drop_while_a_worker_runs(tmp_path: Path) -> None:
    """The worker forgets it, too."""
    async with open_own(tmp_path, dead_letter(12), dead_letter(13)) as own:
        ended = await outbox(tmp_path, "--drop", "12", "--yes")
        assert ended.code == 0
        assert await own.revived() == []
        assert [entry.query.id for entry in own.entries.values()] == [13]


# --- Export -----------------------------------------------------------------------------------------


async def test_export_to_a_file(tmp_path: Path) -> None:
    """Query, outcome, log lines and why, as JSON that only its owner may read; the letter stays."""
    lines = [HeldLine(1, "+0.1s", "claimed"), HeldLine(2, "+0.2s", "готово")]
    letter = dead_letter(12, "Всё хорошо", lines=lines, age=60)
    letter.query = Query(id=12, query_text="lone \ud800", extra={"new": [1]})
    with journal(tmp_path, letter, dead_letter(13)) as kept:
        ended = await outbox(tmp_path, "--export", "letters.json", "12")
        assert kept.numbers() == {12: WHY, 13: WHY}
    assert (ended.code, ended.err) == (0, "")
    file = tmp_path / "letters.json"
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text(encoding="utf-8")
    assert "Всё хорошо" in text
    (exported,) = json.loads(text)
    assert exported["query"] == {"id": 12, "query_text": "lone \ud800", "new": [1]}
    assert exported["outcome"] == {"is": "done", "answer": "Всё хорошо"}
    assert exported["why"] == WHY
    assert exported["log_lines_not_sent"] == [line._asdict() for line in lines]
    assert exported["claimed_at"] <= exported["ended_at"]


async def test_export_to_stdout(tmp_path: Path) -> None:
    """Nothing but JSON goes to stdout, whatever else there is to say."""
    with journal(tmp_path, dead_letter(12), entry(13)):
        ended = await outbox(tmp_path, "--export", "-", "12", "13", PYTHONIOENCODING="latin-1")
    assert ended.code == 1
    assert [letter["query"]["id"] for letter in json.loads(ended.out)] == [12]
    assert ended.err == "trio-worker: query 13 is held, but no dead letter\n"


async def test_export_where_nothing_can_be_written(tmp_path: Path) -> None:
    """One sentence, exit 1."""
    with journal(tmp_path, dead_letter(12)):
        ended = await outbox(tmp_path, "--export", "no/such/folder.json", "--all")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "trio-worker: no/such/folder.json can't be written: No such file or directory\n"


# --- What is not as it should be --------------------------------------------------------------------


async def test_numbers_that_are_no_dead_letters(tmp_path: Path) -> None:
    """They are named, the others are done; exit 1."""
    with journal(tmp_path, dead_letter(12), entry(13, running=True)) as kept:
        ended = await outbox(tmp_path, "--retry", "12", "13", "14", "14")
        assert kept.numbers() == {12: None, 13: None}
    assert ended.code == 1
    assert ended.err.splitlines() == [
        "trio-worker: query 13 is held, but no dead letter",
        "trio-worker: query 14 is not held here",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--retry"], "say which: the numbers of the queries, or --all"),
        (["--drop", "12", "--all", "--yes"], "say which"),
        (["--retry", "--drop", "12"], "one at a time"),
        (["--drop", "--export", "", "12"], "one at a time"),
        (["--all"], "say what is to be done with them"),
    ],
)
async def test_what_is_not_clear_is_not_done(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    """Half a wish, or two at once: said so, nothing is done; exit 2."""
    with journal(tmp_path, dead_letter(12)) as kept:
        ended = await outbox(tmp_path, *arguments)
        assert kept.numbers() == {12: WHY}
    assert ended.code == 2
    assert sentence in ended.err


async def test_the_settings_that_are_needed(tmp_path: Path) -> None:
    """Neither password nor handler, nor that the rest is right; the account's name is needed, exit 2."""
    environ = {"WORKER_PASSWORD": "", "WORKER_HANDLER": "", "NUM_WORKERS": "many"}
    ended = await outbox(tmp_path, **environ, WORKER_STATE_DIR="", HOME=str(tmp_path), XDG_STATE_HOME="")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(rf"in {tmp_path}/.+/trio-worker\.\n", ended.out)
    ended = await outbox(tmp_path, WORKER_USERNAME="")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("trio-worker: WORKER_USERNAME is missing: expected")


async def test_a_journal_that_can_not_be_read(tmp_path: Path) -> None:
    """It is named and left as it is, the others are shown and acted on all the same; exit 4."""
    with journal(tmp_path, dead_letter(12)) as kept:
        bad = kept.path.with_name("bad.journal")
        bad.write_text("no journal\n" * 100)
        shown = await outbox(tmp_path)
        retried = await outbox(tmp_path, "--retry", "12")
        assert kept.numbers() == {12: None}
    for ended in (shown, retried):
        assert ended.code == 4
        assert f"the journal {bad} can't be used: it is not a journal" in ended.err
    assert line(shown, 12).startswith("12 dead letter")
    assert bad.read_text() == "no journal\n" * 100


async def test_a_journal_of_a_newer_version(tmp_path: Path) -> None:
    """What is in it can't be known: said so, exit 4."""
    with journal(tmp_path, entry(1)) as kept:
        kept.file.apply([("PRAGMA user_version = 99", ())])
        ended = await outbox(tmp_path)
    assert (ended.code, ended.out) == (4, "")
    assert "was written by a newer trio-worker" in ended.err


async def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """A WORKER_STATE_DIR that can't be listed is not taken for an empty one; exit 4."""
    (tmp_path / "state").touch()
    ended = await outbox(tmp_path)
    assert (ended.code, ended.out) == (4, "")
    assert "WORKER_STATE_DIR is" in ended.err
    assert "it is a file: expected a folder" in ended.err


async def test_a_journal_that_has_just_been_made(tmp_path: Path) -> None:
    """Of a worker that starts in this moment, the file may be empty yet: nothing is held in it."""
    place = folder(tmp_path)
    place.make()
    lock = place.new()
    lock.path.touch()
    ended = await outbox(tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Nothing is held")
    lock.remove()


async def test_journals_that_were_set_aside(tmp_path: Path) -> None:
    """They are listed, each once."""
    with journal(tmp_path, entry(1)) as kept:
        kept.file.close()
        kept.path.with_name(kept.path.name + "-wal").touch()
        aside = kept.lock.set_aside()
        ended = await outbox(tmp_path)
    assert ended.code == 0
    assert ended.out.startswith("Nothing is held")
    assert [text for text in ended.out.splitlines() if "unreadable-" in text] == [f"  {aside}"]


async def test_a_journal_that_can_not_be_written_to(tmp_path: Path) -> None:
    """A worker that holds its journal for too long: said so, and nothing has changed."""
    with journal(tmp_path, dead_letter(12)) as kept:
        kept.file._connection.execute("BEGIN IMMEDIATE")
        (problem,) = change_letters(folder(tmp_path), "drop", ["entry 12"], patience=0.01)
        kept.file._connection.execute("ROLLBACK")
        assert kept.numbers() == {12: WHY}
    assert problem == f"the journal {kept.path} can't be written to: database is locked"


async def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`| head` is no reason to complain."""
    with journal(tmp_path, *map(entry, range(1, 2000))):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_worker", "outbox"],
            cwd=tmp_path,
            env=environment(URL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.receive_some(10)
        await process.stdout.aclose()
        with trio.fail_after(TOO_LONG):
            assert [chunk async for chunk in process.stderr] == []
            await process.wait()


# --- Locks ------------------------------------------------------------------------------------------


def test_a_look_takes_no_lock(tmp_path: Path) -> None:
    """What was looked at can be taken over at once."""
    with journal(tmp_path, entry(1)) as kept:
        kept.die()
        assert len(look_into(folder(tmp_path)).found) == 1
        own = OwnJournal.open(folder(tmp_path), "full")
        assert [entry.query.id for entry in own.found.entries] == [1]
        own.close()


def test_no_take_over_in_the_middle_of_a_change(tmp_path: Path) -> None:
    """While commands change a dead worker's journal, no worker takes it over; afterwards it does."""
    with journal(tmp_path, dead_letter(12)) as kept:
        kept.die()
        with kept_from_takers(kept.path) as free, kept_from_takers(kept.path) as still_free:
            assert free
            assert still_free
            own = OwnJournal.open(folder(tmp_path), "full")
            assert own.found.entries == []
        assert len(own.take_over().entries) == 1
        own.close()


@pytest.mark.parametrize("change", ["retry", "drop"])
def test_a_letter_in_two_journals(tmp_path: Path, change: Change) -> None:
    """Where a worker died while it took a letter over, it is shown once, and is not dead again later."""
    with journal(tmp_path, dead_letter(12)) as first, journal(tmp_path, dead_letter(12)) as second:
        first.die()
        second.die()
        assert len(look_into(folder(tmp_path)).found) == 1
        assert change_letters(folder(tmp_path), change, ["entry 12"]) == []
        own = OwnJournal.open(folder(tmp_path), "full")
        found = [entry.dead for entry in own.found.entries]
    assert found == ([None] if change == "retry" else [])
    own.close()


def test_a_living_workers_lock(tmp_path: Path) -> None:
    """It is seen, and not disturbed."""
    with journal(tmp_path) as kept:
        with kept_from_takers(kept.path) as free:
            assert not free
        assert list(folder(tmp_path).take_free()) == []


def test_a_disk_that_fails_is_no_damaged_journal(tmp_path: Path) -> None:
    """A journal that can't be read at the moment is not called damaged: it would be set aside."""
    with journal(tmp_path, entry(1)) as kept:
        kept.file._connection.set_authorizer(lambda *_: 1)  # SQLITE_DENY
        with pytest.raises(JournalError) as caught:
            kept.file.load()
    assert type(caught.value) is JournalError
