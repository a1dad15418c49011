"""What a program asks for while it works: more time, and that something is kept for the next attempt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.pools import TOO_LONG, NoteBook, until
from trio_worker.context import MOST_SAVED, Context
from trio_worker.errors import RetryLater
from trio_worker.handlers.child import run_child
from trio_worker.handlers.child_output import Beginning
from trio_worker.handlers.command import Command, parse_command
from trio_worker.handlers.control import MOST_LINE, Wishes
from trio_worker.handlers.kinds import find_handler
from trio_worker.query import Query
from trio_worker.testing import open_worker

PYTHON = """
import json, os
with open(os.environ["WEBBUDDY_QUERY_CONTROL"], "w") as control:
    print(json.dumps({"save": {"page": 2, "ж": [1.5, None]}}), file=control)
    print(json.dumps({"extend": 60}), file=control, flush=True)
print("answer")
"""
NODE = """
const fs = require("fs");
const ask = wish => fs.appendFileSync(process.env.WEBBUDDY_QUERY_CONTROL, JSON.stringify(wish) + "\\n");
ask({save: {page: 2, "ж": [1.5, null]}});
ask({extend: 60});
console.log("answer");
"""
SHELL = """
echo '{"save": {"page": 2, "ж": [1.5, null]}}' >"$WEBBUDDY_QUERY_CONTROL"
echo '{"extend": 60}' >"$WEBBUDDY_QUERY_CONTROL"
echo answer
"""
LANGUAGES = {"sh": SHELL, "bash": SHELL, sys.executable: PYTHON, "node": NODE}


def command(folder: Path, text: str, interpreter: str = "/bin/sh", *, grace: float = 5.0) -> Command:
    """A program of this text."""
    (folder / "agent").write_text(f"#!{shutil.which(interpreter)}\n{text}\n", encoding="utf-8")
    (folder / "agent").chmod(0o755)
    return attrs.evolve(parse_command("./agent", folder), grace=grace)


async def run(program: Command, book: NoteBook) -> str:
    with trio.fail_after(TOO_LONG):
        return await program(Query(id=7), Context(book))


# --- From a program ----------------------------------------------------------------------------------


@pytest.mark.parametrize("interpreter", LANGUAGES)
async def test_it_saves_and_extends(tmp_path: Path, interpreter: str) -> None:
    """In any language, as one opens and writes a file there."""
    if not shutil.which(interpreter):
        pytest.skip(f"there is no {interpreter} here")
    book = NoteBook()
    assert await run(command(tmp_path, LANGUAGES[interpreter], interpreter), book) == "answer"
    assert [json.loads(data) for data in book.saves] == [{"page": 2, "ж": [1.5, None]}]
    assert book.at == datetime(2030, 1, 1, 0, 1, tzinfo=UTC)
    assert book.lines == []


async def test_it_is_heard_while_it_works(tmp_path: Path) -> None:
    """Not only at its end."""
    book = NoteBook()
    text = """echo '{"save": 1}' >"$WEBBUDDY_QUERY_CONTROL"; exec sleep 1000"""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, command(tmp_path, text), book)
        await until(lambda: book.saves)
        nursery.cancel_scope.cancel()


async def test_what_it_asks_for_at_last(tmp_path: Path) -> None:
    """In the moment of its end, and without a line break."""
    book = NoteBook()
    with pytest.raises(RetryLater):
        await run(command(tmp_path, """printf '{"save": 1}' >"$WEBBUDDY_QUERY_CONTROL"; exit 75"""), book)
    assert book.saves == ["1"]


async def test_what_it_asks_for_in_its_grace(tmp_path: Path) -> None:
    """A program that is being stopped may save how far it has come: more than a pipe takes."""
    book = NoteBook()
    text = """
import os, signal, sys, time
def stop(*_):
    with open(os.environ["WEBBUDDY_QUERY_CONTROL"], "w") as control:
        for number in range(3000):
            print('{"save": "%s"}' % ("x" * 100), file=control)
        print('{"save": "the last"}', file=control)
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("ready", file=sys.stderr)
while True: time.sleep(1000)
"""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, command(tmp_path, text, sys.executable, grace=20), book)
        await until(lambda: book.lines == ["ready"])
        nursery.cancel_scope.cancel()
    assert len(book.saves) == 3001
    assert book.saves[-1] == '"the last"'


async def test_who_holds_the_pipe_open_holds_nothing_up(tmp_path: Path) -> None:
    """Not even one that has left the group; what it asks for after the end of the query is not heard."""
    os.mkfifo(tmp_path / "go")
    go = os.open(tmp_path / "go", os.O_RDWR)
    book = NoteBook()
    late = """trap "" PIPE; echo $$ >pid; read x <go; echo {\\"save\\": 1} >&3; echo $? >written"""
    text = f"""setsid sh -c '{late}' 3>"$WEBBUDDY_QUERY_CONTROL" </dev/null >/dev/null 2>&1 &
while ! test -s pid; do sleep 0.01; done; echo answer"""
    program, answer = command(tmp_path, text), Beginning(100)
    try:
        with trio.fail_after(TOO_LONG):
            await run_child(
                program.words,
                directory=tmp_path,
                environ=os.environ,
                stdin=b"",
                stdout=answer.add,
                stderr=lambda _data: None,
                ctx=Context(book),
                grace=5,
                patience=trio.CancelScope(),
                linger=1000,  # for those who hold stdout or stderr
            )
        assert answer.end() == "answer\n"
        os.write(go, b"go\n")
        await until((tmp_path / "written").exists)
        await until((tmp_path / "written").read_text)
        assert (tmp_path / "written").read_text() != "0\n"  # nobody reads there any more
        assert book.saves == []
    finally:
        os.close(go)
        try:
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself


async def test_others_have_their_turns(tmp_path: Path) -> None:
    """Whatever a program writes there, and however much of it."""
    (tmp_path / "wishes").write_text('{"extend": 1}\n' * 20_000)
    book = NoteBook()
    most = 0.0

    async def take_turns() -> None:
        nonlocal most
        while True:
            before = book.at
            await trio.lowlevel.checkpoint()
            most = max(most, (book.at - before).total_seconds())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        await run(command(tmp_path, 'cat wishes >"$WEBBUDDY_QUERY_CONTROL"; sleep 0.1'), book)
        nursery.cancel_scope.cancel()
    assert (book.at - NoteBook().at).total_seconds() == 20_000
    assert most <= 2 * 8192 / 14 + 2  # lines: 8 KiB just before a turn of ours, and 8 KiB after the last


async def test_more_time_is_given(tmp_path: Path, mock_clock: MockClock) -> None:
    """From the program to the deadline of its query."""
    os.mkfifo(tmp_path / "go")
    text = """echo '{"extend": 600}' >"$WEBBUDDY_QUERY_CONTROL"; echo asked >&2; read x <go; echo answer"""
    command(tmp_path, text)
    handler = find_handler("command:./agent", tmp_path, most=1)
    mock_clock.rate = 1
    async with open_worker(handler, processing_timeout=TOO_LONG) as worker:
        query = worker.webbuddy.add_query("x")
        await worker.webbuddy.until(lambda: any("asked" in entry for entry in query.logs), within=TOO_LONG)
        mock_clock.jump(2 * TOO_LONG)  # past its old deadline
        await trio.testing.wait_all_tasks_blocked()
        await trio.Path(tmp_path / "go").write_text("go\n")
        await worker.webbuddy.until(worker.webbuddy.all_ended, within=TOO_LONG)
    assert (query.status, query.answer_text) == ("done", "answer")


# --- Its lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 7, 100_000])
def test_lines_arrive_whatever_the_pieces(size: int) -> None:
    """Cut anywhere; blank ones are nothing."""
    book = NoteBook()
    wishes = Wishes(Context(book))
    data = '\n{"save": "Ж"}\r\n  \n{"extend": 1.5}\n{"save": null}'.encode()
    for at in range(0, len(data), size):
        wishes.add(data[at : at + size])
    assert book.saves == ['"Ж"']
    wishes.end()
    assert book.saves == ['"Ж"', "null"]
    assert (book.lines, book.at.microsecond) == ([], 500_000)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"oops", "Expecting value: line 1 column 1"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff"),
        (b'{"save": 1', "Expecting ',' delimiter"),
        (b"5", 'expected {"save": …}, {"extend": seconds} or {"token_usage": {…}}'),
        (b"{}", 'expected {"save": …}, {"extend": seconds} or {"token_usage": {…}}'),
        (b'{"save": 1, "extend": 5}', 'expected {"save": …}, {"extend": seconds} or {"token_usage": {…}}'),
        (b'{"project": 1}', 'expected {"save": …}, {"extend": seconds} or {"token_usage": {…}}'),
        (b'{"extend": "5"}', "extend('5'): expected seconds, 0 or more"),
        (b'{"extend": -1}', "extend(-1): expected seconds, 0 or more"),
        (b'{"extend": true}', "extend(True): expected seconds, 0 or more"),
        (b'{"extend": NaN}', "extend(nan): expected seconds, 0 or more"),
        (b'{"extend": 1' + b"0" * 400 + b"}", "too large to convert to"),
        (b'{"extend": 1' + b"0" * 5000 + b"}", "Exceeds the limit"),
        (b'{"save": Infinity}', "Out of range float values"),
        (b'{"save": "' + b"x" * MOST_SAVED + b'"}', "ctx.save: 65538 bytes of JSON, expected 65536 at most"),
        # Half a letter is six bytes in the environment of a program, where a variable may have 128 KiB.
        (
            b'{"save": "' + b"\\ud83d" * 20_000 + b'"}',
            "ctx.save: 120002 bytes of JSON, expected 65536 at most",
        ),
        (b"[" * 200_000, "recursion"),
        (b"x" * 1_000_000, "it has more than 262144 bytes"),
    ],
)
def test_what_is_wrong_is_one_line_of_the_log(line: bytes, problem: str) -> None:
    """The first time; it fails nothing, and the next line is followed."""
    book = NoteBook()
    wishes = Wishes(Context(book))
    data = b'\n{"save": 1}\n' + (line + b"\n") * 3 + b'{"save": 2}\n'
    for at in range(0, len(data), 8192):
        wishes.add(data[at : at + 8192])
    assert book.saves == ["1", "2"]
    (said,) = book.lines
    assert said.startswith("WEBBUDDY_QUERY_CONTROL, line 3, can't be followed: ")
    assert problem in said
    assert len(said) < 200


def test_room_for_all_that_can_be_saved() -> None:
    """As Python writes it, with an escape for each letter that is no ASCII."""
    book = NoteBook()
    line = json.dumps({"save": "ж" * ((MOST_SAVED - 2) // 2)}).encode()
    assert 3 * MOST_SAVED - 20 < len(line) < MOST_LINE
    Wishes(Context(book)).add(line + b"\n")
    assert (len(book.saves), book.lines) == (1, [])


def test_a_line_without_an_end() -> None:
    """It takes no more memory than the longest that is followed."""
    wishes = Wishes(Context(NoteBook()))
    tracemalloc.start()
    try:
        for _ in range(2_000):
            wishes.add(b"x" * 8192)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MOST_LINE
