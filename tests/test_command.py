"""A handler that is any program: what it is given, what becomes of what it does, that nothing is left.

The programs are real. Most are a few lines for `sh`; what they wait for, they wait for at a named pipe.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import signal
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from structlog.typing import EventDict

from trio_worker.context import Context
from trio_worker.errors import HandlerCrashed, HandlerError, RetryLater
from trio_worker.handlers.child import LAST, LINGER, run_child
from trio_worker.handlers.child_output import MOST_TAIL, Beginning, Lines
from trio_worker.handlers.command import GRACE, MOST_STDOUT, RETRY_SECONDS, Command, parse_command
from trio_worker.handlers.kinds import find_handler
from trio_worker.handlers.loading import handler_of
from trio_worker.log_lines import MOST_LINE
from trio_worker.masks import masks
from trio_worker.project import Project
from trio_worker.query import Query
from trio_worker.settings import VARIABLES
from trio_worker.stop import only_cancelled
from trio_worker.testing import WebBuddy, open_worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")

QUERY = Query(id=7, project=1, query_text="привет", extra={"odd": "half \ud83d"})
DEADLINE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOO_LONG = 60.0  # seconds; only a broken test waits as long


@attrs.define(eq=False, slots=False)
class Desk:
    """What stands behind the context here: it keeps the lines."""

    lines: list[str] = attrs.field(factory=list)
    saves: list[str] = attrs.field(factory=list)
    extended: list[float] = attrs.field(factory=list)
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def log(self, text: str) -> None:
        self.lines.append(text)
        self._changed.set()
        self._changed = trio.Event()

    def deadline(self) -> datetime:
        return DEADLINE

    def extend(self, seconds: float) -> datetime:
        self.extended.append(seconds)
        return DEADLINE

    def save(self, data: str) -> None:
        self.saves.append(data)

    async def project(self) -> Project | None:
        raise AssertionError

    def project_in_thread(self) -> Project | None:
        raise AssertionError

    async def line(self, number: int) -> str:
        """Wait for a line, counted from 0."""
        with trio.fail_after(TOO_LONG):
            while len(self.lines) <= number:
                await self._changed.wait()
        return self.lines[number]


@attrs.define(eq=False)
class Home:
    """A working directory with one program in it, and a named pipe called `go`."""

    path: Path
    pipe: int
    desk: Desk = attrs.field(factory=Desk)

    def program(self, text: str, name: str = "agent") -> str:
        """Write a program and make it executable."""
        interpreter = f"{sys.executable} -IS" if text.startswith("import") else "/bin/sh"
        (self.path / name).write_text(f"#!{interpreter}\n{text}\n")
        (self.path / name).chmod(0o755)
        return f"./{name}"

    def command(self, text: str, *, grace: float = 5.0) -> Command:
        return attrs.evolve(parse_command(self.program(text), self.path), grace=grace)

    async def run(self, text: str, *, saved: str | None = None, query: Query = QUERY) -> str:
        with trio.fail_after(TOO_LONG):
            return await self.command(text)(query, Context(self.desk, attempt=2, saved=saved))

    async def run_child(self, text: str, **seconds: float) -> str:
        """Run a program as a command does, but with other times; returns its stdout."""
        lines, answer = Lines(self.desk.log), Beginning(MOST_STDOUT)
        with trio.fail_after(TOO_LONG):
            await run_child(
                [self.program(text)],
                directory=self.path,
                environ=os.environ,
                stdin=b"",
                stdout=answer.add,
                stderr=lines.add,
                ctx=Context(self.desk),
                patience=trio.CancelScope(),
                **{"grace": 5.0, **seconds},
            )
        return answer.end()

    def go(self) -> None:
        """Let a program go on that reads from `go`, or will."""
        os.write(self.pipe, b"go\n")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    os.mkfifo(tmp_path / "go")
    pipe = os.open(tmp_path / "go", os.O_RDWR)  # so, opening it waits for nobody
    files = len(os.listdir("/proc/self/fd"))
    yield Home(tmp_path, pipe)
    assert zombies() == []
    assert len(os.listdir("/proc/self/fd")) <= files
    os.close(pipe)


def processes() -> Iterator[tuple[int, str, int, int]]:
    """Every process: its number, its state, its parent's number and its group's."""
    for folder in os.listdir("/proc"):
        if folder.isdecimal():
            try:
                stat = Path("/proc", folder, "stat").read_text(errors="replace")
            except OSError:
                continue  # it has gone meanwhile
            state, parent, group = stat.rpartition(") ")[2].split()[:3]
            yield int(folder), state, int(parent), int(group)


def zombies() -> list[int]:
    """Our children that were not reaped."""
    return [pid for pid, state, parent, _ in processes() if state == "Z" and parent == os.getpid()]


def is_alive(pid: int) -> bool:
    return any(pid == other and state not in "ZX" for other, state, _, _ in processes())


def members(group: int) -> list[int]:
    # Those whose parent has died are reaped by the system's first process, when it comes to that.
    return [pid for pid, state, _, number in processes() if number == group and state not in "ZX"]


def resident() -> int:
    """Bytes of memory that this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(TOO_LONG):
        while not condition():  # noqa: ASYNC110 - the system tells nobody
            await trio.sleep(0.005)


@pytest.fixture(params=["pidfd", "thread"])
def exit_watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways in which an exit is waited for."""
    if request.param == "thread":
        monkeypatch.delattr(os, "pidfd_open")


# --- What it is given ----------------------------------------------------------------------------


async def test_query_on_stdin(home: Home) -> None:
    """One line of JSON, from which the same query can be read; then the end of the file."""
    answer = await home.run("cat")
    assert "\n" not in answer
    assert Query.from_json(json.loads(answer)) == QUERY
    assert "привет" in answer


async def test_arguments_and_directory(home: Home) -> None:
    """Words as in a shell, and no shell that would look into them."""
    path = home.program('import os, sys; print(sys.argv[1:], os.getcwd(), end="")')
    command = parse_command(f"{path} --flag 'two words' \"\" $HOME *; a\\ b '|'", home.path)
    answer = await command(QUERY, Context(home.desk))
    assert answer == f"{['--flag', 'two words', '', '$HOME', '*;', 'a b', '|']} {home.path}"


async def test_program_in_path(home: Home) -> None:
    """A name without a slash is looked for in PATH, as a shell does."""
    with trio.fail_after(TOO_LONG):
        assert await parse_command("printf '%s\\n\\n' hi", home.path)(QUERY, Context(home.desk)) == "hi\n"


PRINT_ENVIRONMENT = "import json, os; print(json.dumps({**os.environ}))"


async def test_environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own, and with it the query's number, the attempt and the deadline."""
    monkeypatch.setenv("API_KEY", "the program's own business")
    monkeypatch.setenv("WEBBUDDY_QUERY_SAVED", "of a worker above this one")
    environ = json.loads(await home.run(PRINT_ENVIRONMENT))
    assert environ.pop("WEBBUDDY_QUERY_CONTROL").startswith("/dev/fd/")
    assert environ["API_KEY"] == "the program's own business"
    assert environ["PATH"] == os.environ["PATH"]
    assert {name: value for name, value in environ.items() if name.startswith("WEBBUDDY_")} == {
        "WEBBUDDY_QUERY_ID": "7",
        "WEBBUDDY_QUERY_ATTEMPT": "2",
        "WEBBUDDY_QUERY_DEADLINE": "2026-01-02T03:04:05+00:00",
    }


@pytest.mark.parametrize("saved", [{"step": 3, "text": "да", "half": "\ud83d"}, 0, [], "x" * 65_000])
async def test_saved(home: Home, saved: object) -> None:
    """What an earlier attempt has saved is there as JSON."""
    environ = json.loads(await home.run(PRINT_ENVIRONMENT, saved=json.dumps(saved)))
    assert json.loads(environ["WEBBUDDY_QUERY_SAVED"]) == saved


async def test_no_secret_in_the_environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of our settings reaches the program but for two without a secret; neither do misspelt ones."""
    passed_on = {"WEBBUDDY_URL", "WORKER_LANGUAGE"}
    names = {variable.name for variable in VARIABLES} | {"WORKER_PASSWROD", "WEBBUDDY_TOKEN"}
    for name in names:
        monkeypatch.setenv(name, f"hidden {name}")
    environ = json.loads(await home.run(PRINT_ENVIRONMENT))
    assert names & set(environ) == passed_on
    assert not [value for name, value in environ.items() if "hidden" in value and name not in passed_on]


# --- How it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("echo 42", "42"),
        ("printf 42", "42"),
        ("printf '42\\n\\n'", "42\n"),
        ("true", ""),
        ("echo problem >&2", ""),
        ("exec >&- 2>&-", ""),
        (r"printf '\320\320\277\377\000!'", "\ufffdп\ufffd\0!"),
        (r"printf '!\320'", "!\ufffd"),
        ("read line && echo whole", "whole"),
    ],
)
@pytest.mark.usefixtures("exit_watch")
async def test_done(home: Home, text: str, answer: str) -> None:
    """With exit status 0 its stdout is the answer, whatever stands there."""
    assert await home.run(text) == answer


@pytest.mark.parametrize(
    ("text", "crash"),
    [
        ("exit 3", HandlerCrashed("exit_status", status=3)),
        (
            "echo answer; echo first >&2; echo last >&2; exit 3",
            HandlerCrashed("exit_status", "first\nlast", status=3),
        ),
        ("printf 'no line break' >&2; exit 255", HandlerCrashed("exit_status", "no line break", status=255)),
        ("kill -SEGV $$", HandlerCrashed("process_died", how="SIGSEGV")),
        ("echo why >&2; kill -KILL $$", HandlerCrashed("process_killed", "why", how="SIGKILL")),
        ("kill -40 $$", HandlerCrashed("process_died", how="signal 40")),
        (r"printf '\377\n' >&2; exit 1", HandlerCrashed("exit_status", "\ufffd", status=1)),
    ],
)
async def test_failed(home: Home, text: str, crash: HandlerCrashed) -> None:
    """Any other exit status fails the query, and so does a signal: with what it said last."""
    with pytest.raises(HandlerCrashed) as caught:
        await home.run(text)
    assert vars(caught.value) == vars(crash)


@pytest.mark.parametrize(
    ("language", "text", "answer", "kind"),
    [
        ("en", "echo why >&2; exit 3", "The agent ended with exit status 3.\nwhy", "exit_status"),
        ("ru", "echo why >&2; exit 3", "Агент завершился с кодом 3.\nwhy", "exit_status"),
        ("en", "exit 3", "The agent ended with exit status 3.", "exit_status"),
        ("en", "kill -SEGV $$", "The agent's process died (SIGSEGV).", "process_died"),
        ("ru", "kill -SEGV $$", "Процесс агента аварийно завершился (SIGSEGV).", "process_died"),
        (
            "en",
            "kill -KILL $$",
            "The agent's process was killed (SIGKILL), perhaps because it had used up the memory.",
            "process_killed",
        ),
        (
            "ru",
            "kill -KILL $$",
            "Процесс агента был убит (SIGKILL): возможно, не хватило памяти.",
            "process_killed",
        ),
        (
            "en",
            None,
            "The agent could not be started. The operator of test-worker finds the details under query 1.",
            "not_started",
        ),
        (
            "ru",
            None,
            "Агента не удалось запустить. Подробности у оператора test-worker, запрос 1.",
            "not_started",
        ),
    ],
)
async def test_what_the_author_reads(
    home: Home, language: str, text: str | None, answer: str, kind: str, events: list[EventDict]
) -> None:
    """A sentence in their language, and what the program said; the operator has the rest."""
    home.program(text or "true")
    handler = find_handler("command:./agent", home.path, most=1)
    if text is None:
        (home.path / "agent").unlink()
    async with open_worker(handler, webbuddy=WebBuddy(), language=language) as worker:
        query = await worker.ask("x")
    assert (query.status, query.answer_text) == ("failed", answer)
    assert [event["kind"] for event in events if event["event"] == "query failed"] == [kind]


@pytest.mark.parametrize(
    "written",
    ["\n".join(map(str, range(10_000))), "x" * 10_000, "x" * 2 * MOST_LINE + "end", "x" * MOST_TAIL],
)
async def test_reason_is_the_tail_of_stderr(home: Home, written: str) -> None:
    """Of much, the end, with a mark where it was cut."""
    (home.path / "written").write_text(written)
    with pytest.raises(HandlerCrashed) as caught:
        await home.run("cat written >&2; exit 1")
    reason = caught.value.tail
    assert len(reason) == MOST_TAIL
    assert reason.startswith("…") == (len(written) > MOST_TAIL)
    # A line that became several lines of the log is several here.
    joined = reason.removeprefix("…").replace("\n", "")
    assert written.replace("\n", "").endswith(joined)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("exit 75", "exit status 75"), ("printf 'a\\nthe site is down\\n\\n' >&2; exit 75", "the site is down")],
)
async def test_retry_later(home: Home, text: str, reason: str) -> None:
    """75 puts the query aside, with the last line of stderr as the reason."""
    with pytest.raises(RetryLater) as caught:
        await home.run(text)
    assert (caught.value.seconds, caught.value.reason) == (RETRY_SECONDS, reason)


async def test_gone_since_the_start(home: Home, events: list[EventDict]) -> None:
    """A program that is not there any more fails the query; the operator reads which, and why."""
    command = home.command("true")
    (home.path / "agent").unlink()
    with pytest.raises(HandlerCrashed, match="not_started"):
        await command(QUERY, Context(home.desk))
    (event,) = events
    assert (event["log_level"], event["program"], event["reason"], event["query"]) == (
        "error",
        "./agent",
        "No such file or directory",
        7,
    )


async def test_no_room_for_a_process(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not the program's fault, and may be over in a minute, puts the query aside."""

    async def full(*_args: object, **_options: object) -> trio.Process:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    command = home.command("true")
    monkeypatch.setattr(trio.lowlevel, "open_process", full)
    with pytest.raises(RetryLater, match="can't be started: Resource temporarily unavailable"):
        await command(QUERY, Context(home.desk))


async def test_no_room_for_its_pipes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same: without these it can't be started."""

    def full() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    command = home.command("true")
    monkeypatch.setattr(os, "pipe", full)
    with pytest.raises(RetryLater, match="can't be started: Too many open files"):
        await command(QUERY, Context(home.desk))


async def test_what_goes_wrong_later(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a program that did start nobody says that it did not."""
    close, closed = trio.aclose_forcefully, []

    async def ill(stream: trio.abc.AsyncResource) -> None:
        await close(stream)
        closed.append(stream)
        if len(closed) == 3:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(trio, "aclose_forcefully", ill)
    with pytest.raises(OSError, match="Input/output error"):
        await home.run("true")


async def test_being_replaced(home: Home) -> None:
    """The same for a program that is just being written anew."""
    command = home.command("true")
    with open(home.path / "agent", "ab"), pytest.raises(RetryLater, match="Text file busy"):  # noqa: ASYNC230
        await command(QUERY, Context(home.desk))


# --- stderr --------------------------------------------------------------------------------------


async def test_lines_as_they_come(home: Home) -> None:
    """A line is in the log while the program still works."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.run, "echo one >&2; read x <go; echo two >&2; read x <go")
        assert await home.desk.line(0) == "one"
        home.go()
        assert await home.desk.line(1) == "two"
        home.go()


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb", ["a", "b"]),
        (b"10 %\r20 %\rdone\n", ["10 %", "20 %", "done"]),
        (b"\n \n\t\r\n\na\n", ["a"]),
        (b"", []),
        ("да".encode() * 3000, ["да" * (MOST_LINE // 2), "да" * (3000 - MOST_LINE // 2)]),
        (b"x" * 3 * MOST_LINE + b"\n", ["x" * MOST_LINE] * 3),
        (b"\377\n", ["\ufffd"]),
        (b"!\320", ["!\ufffd"]),
    ],
)
async def test_lines(home: Home, written: bytes, lines: list[str]) -> None:
    """Lines end at a line break, a carriage return or the end; too long ones are several; blank ones none."""
    (home.path / "written").write_bytes(written)
    await home.run("cat written >&2")
    assert home.desk.lines == lines


async def test_characters_across_chunks(home: Home) -> None:
    """A character whose bytes come apart is still one; in the answer too."""
    text = "import os\nfor byte in 'да'.encode(): os.write(1, bytes([byte])); os.write(2, bytes([byte]))"
    assert await home.run(text) == "да"
    assert home.desk.lines == ["да"]


async def test_a_million_lines(home: Home) -> None:
    """Each is handed to the log, in bounded memory, and others have their turns meanwhile."""
    count = most = most_lines = 0
    began = resident()

    def log(_text: str) -> None:
        nonlocal count
        count += 1

    async def take_turns() -> None:
        nonlocal most, most_lines
        while True:
            before = count
            await trio.lowlevel.checkpoint()
            most_lines = max(most_lines, count - before)
            most = max(most, resident())

    home.desk.log = log  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        await home.run("seq 1000000 >&2")
        nursery.cancel_scope.cancel()
    assert count == 1_000_000
    assert most_lines <= 2 * 8192 / 2  # of 6.9 MB at most twice 8 KiB between two turns
    assert most - began < 20_000_000  # as a list, they would be 60 MB


async def test_a_line_without_an_end(home: Home) -> None:
    """10 MB without a line break: in parts, in bounded memory."""
    tracemalloc.start()
    try:
        home.desk.log = lambda text: sizes.append(len(text))  # type: ignore[method-assign]
        sizes: list[int] = []
        await home.run("head -c 10000000 /dev/zero | tr '\\0' x >&2")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == 10_000_000
    assert max(sizes) == MOST_LINE
    assert peak < 2_000_000


# --- stdin and stdout ----------------------------------------------------------------------------


async def test_ten_megabytes_of_stdout(home: Home) -> None:
    """The beginning is kept, the rest is read all the same, and the log says so."""
    tracemalloc.start()
    try:
        answer = await home.run("head -c 10000000 /dev/zero | tr '\\0' x; echo all >&2")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not answer.strip("x")
    assert 3_000_000 < len(answer) <= MOST_STDOUT
    assert home.desk.lines == ["all", f"stdout: 10000000 bytes, of which the first {MOST_STDOUT} were kept"]
    assert peak < 4 * MOST_STDOUT


async def test_no_half_secret_at_the_end_of_stdout(home: Home) -> None:
    """The cut may go through one, which nobody would find then."""
    masks.know("test", secret := "hunter2-the-secret")
    try:
        hidden = masks.hide(await home.run(f"yes {secret} | tr -d '\\n' | head -c 4000000"))
    finally:
        masks.forget("test")
    assert hidden.count("[MASKED]") > 100_000
    assert "hunt" not in hidden


def test_no_byte_more() -> None:
    """However the bytes come, as many are kept as there is room for."""
    beginning = Beginning(10)
    for _ in range(5):
        beginning.add(b"1234567")
    assert (beginning.end(), beginning.size) == ("1234567123", 35)


def test_a_byte_at_a_time() -> None:
    """A program may write without a buffer: what is kept is no larger for that."""
    tracemalloc.start()
    try:
        beginning = Beginning(MOST_STDOUT)
        for _ in range(200_000):
            beginning.add(b"ab")
        assert tracemalloc.get_traced_memory()[1] < 5 * 400_000
    finally:
        tracemalloc.stop()
    assert beginning.end() == "ab" * 200_000


async def test_binary_stdout(home: Home) -> None:
    """Whatever it is, it becomes a text."""
    answer = await home.run("head -c 4000000 /dev/urandom")
    assert "\ufffd" in answer
    answer.encode()


@pytest.mark.parametrize(
    "text", ["echo answer", "exec <&-; echo answer", "head -c 10 >/dev/null; echo answer"]
)
async def test_input_that_nobody_reads(home: Home, text: str) -> None:
    """A query that is larger than a pipe, for a program that does not read it, or not all of it."""
    assert await home.run(text, query=Query(id=1, query_text="x" * 1_000_000)) == "answer"


async def test_large_input(home: Home) -> None:
    """A large query arrives, while the program already answers."""
    query = Query(id=1, query_text="x" * 1_000_000)
    assert json.loads(await home.run("cat", query=query))["query_text"] == query.query_text


async def test_closed_pipes_are_no_end(home: Home) -> None:
    """A program that closes its stdout and stderr and lives on is waited for: its exit counts."""
    with pytest.raises(HandlerCrashed) as caught:
        await home.run("echo on my way >&2; exec >&- 2>&-; sleep 0.3; exit 3")
    assert (caught.value.values, caught.value.tail) == ({"status": 3}, "on my way")


# --- What it leaves running ----------------------------------------------------------------------


@pytest.mark.usefixtures("exit_watch")
async def test_a_grandchild_holds_stdout(home: Home) -> None:
    """It has a second, and is killed then: the answer does not wait longer for it."""
    began = trio.current_time()
    assert await home.run("sleep 1000 & echo $! >&2; echo answer") == "answer"
    assert trio.current_time() - began >= LINGER
    await until(lambda: not is_alive(int(home.desk.lines[0])))


async def test_a_grandchild_has_the_last_word(home: Home) -> None:
    """What it still writes in that time belongs to the answer; its end is not waited out."""
    answer = await home.run_child("(sleep 0.2; echo late) & echo early", linger=1000)
    assert answer == "early\nlate\n"


async def test_a_grandchild_that_writes_for_ever(home: Home) -> None:
    """It does not prolong the query."""
    assert (await home.run("yes & echo $! >&2")).startswith("y\ny\n")
    await until(lambda: not is_alive(int(home.desk.lines[0])))


async def test_a_grandchild_in_the_background(home: Home) -> None:
    """One that holds no pipe is not waited for, and ends with the program: a query leaves nothing running."""
    text = "trap '' TERM HUP; sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >&2"
    await home.run_child(text, linger=1000)
    await until(lambda: not is_alive(int(home.desk.lines[0])))


async def test_the_rest_in_the_pipes(home: Home) -> None:
    """What was written counts, though the event loop was held up until nobody was waited for any more."""
    await home.run_child("seq 10000 >&2", linger=0.0)
    assert home.desk.lines == [str(number) for number in range(1, 10_001)]


async def test_a_grandchild_holds_stdin(home: Home) -> None:
    """It reads nothing of a query larger than a pipe, and is no more waited for than the one before."""
    text = "exec 3<&0; sleep 1000 <&3 >/dev/null 2>&1 & echo $! >&2; echo answer"
    assert await home.run(text, query=Query(id=1, query_text="x" * 1_000_000)) == "answer"
    await until(lambda: not is_alive(int(home.desk.lines[0])))


async def test_a_grandchild_in_a_group_of_its_own(home: Home) -> None:
    """What `timeout` runs ends with the program as well, a second later where it holds a pipe."""
    await home.run("timeout 1000 sh -c 'echo $$ >&2; echo >go; exec sleep 1000' & read x <go")
    await until(lambda: not is_alive(int(home.desk.lines[0])))


async def test_a_grandchild_that_has_left_the_session(home: Home) -> None:
    """It is not ours to kill, but it holds nothing up."""
    try:
        answer = await home.run(
            "setsid sh -c 'echo $$ >&2; echo >go; exec sleep 1000' & read x <go; echo answer"
        )
    finally:
        os.kill(int(home.desk.lines[0]), signal.SIGKILL)
    assert answer == "answer"


async def test_killed_before_it_is_reaped(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is killed while the program is a zombie: its number can't be anybody else's then."""
    kill, states = os.killpg, []

    def killpg(group: int, number: int) -> None:
        states.append(
            [state for pid, state, parent, _ in processes() if (pid, parent) == (group, os.getpid())]
        )
        kill(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    await home.run("true")
    assert states == [["Z"]]


# --- Cancelled -----------------------------------------------------------------------------------


@attrs.define(eq=False)
class Cancelling:
    """Runs a program that says on stderr, in its first lines, who is there; and cancels it."""

    home: Home
    began: float = 0.0
    ended: float = 0.0
    group: int = 0
    reraised: bool = False

    async def run(self, text: str, *, grace: float, lines: int = 1) -> None:
        """Cancel it when so many lines have come; the first is the number of the program."""
        command = self.home.command(text, grace=grace)
        await self.cancel(partial(command, QUERY, Context(self.home.desk)), lines)

    async def cancel(self, run: Callable[[], Awaitable[object]], lines: int = 1) -> None:
        """The same for something that runs a program in other ways."""
        with trio.fail_after(TOO_LONG):
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()
                nursery.start_soon(self._call, run, scope)
                self.group = int(await self.home.desk.line(0))
                await self.home.desk.line(lines - 1)
                self.began = trio.current_time()
                scope.cancel()
        assert scope.cancelled_caught
        assert self.reraised

    async def _call(self, run: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
        with scope:
            try:
                await run()
            except BaseException as error:
                self.reraised = only_cancelled(error)
                raise
            finally:
                self.ended = trio.current_time()
                assert zombies() == []

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@pytest.fixture
def cancelling(home: Home) -> Cancelling:
    return Cancelling(home)


IGNORE = "trap '' TERM INT HUP; "


@pytest.mark.usefixtures("exit_watch")
async def test_cancelled(cancelling: Cancelling) -> None:
    """It gets SIGTERM, may say what it does then, and when it is gone, the cancellation goes on."""
    await cancelling.run(
        "trap 'echo cleaned up >&2; exit' TERM; echo $$ >&2; while :; do sleep 0.01; done", grace=2 * TOO_LONG
    )
    assert cancelling.home.desk.lines[-1] == "cleaned up"
    assert members(cancelling.group) == []


@pytest.mark.usefixtures("exit_watch")
async def test_cancelled_and_ignoring_it(cancelling: Cancelling) -> None:
    """A program and a grandchild that ignore everything are gone after the grace; that one, not the usual."""
    text = IGNORE + "(echo two >&2; while :; do sleep 1000; done) & echo $$ >&2; while :; do sleep 1000; done"
    await cancelling.run("echo $$ >&2;" + text, grace=0.5, lines=3)
    assert len(cancelling.home.desk.lines) == 3
    assert 0.5 <= cancelling.seconds < GRACE
    await until(lambda: not members(cancelling.group))


async def test_cancelled_and_only_the_grandchild_ignores_it(cancelling: Cancelling) -> None:
    """The same when the program itself is gone at once."""
    text = f"echo $$ >&2; ({IGNORE} echo two >&2; while :; do sleep 1000; done) & wait"
    await cancelling.run(text, grace=0.5, lines=2)
    assert 0.5 <= cancelling.seconds < GRACE
    await until(lambda: not members(cancelling.group))


async def test_the_grandchild_may_clean_up(cancelling: Cancelling) -> None:
    """SIGTERM reaches all of the group, and one that outlives the program has its time to clean up."""
    grandchild = "trap 'sleep 0.2; echo tidy >&2; exit' TERM; echo two >&2; while :; do sleep 0.01; done"
    await cancelling.run(f"echo $$ >&2; ({grandchild}) & wait", grace=2 * TOO_LONG, lines=2)
    assert cancelling.home.desk.lines[-1] == "tidy"


async def test_cancelled_with_a_grandchild_in_a_group_of_its_own(cancelling: Cancelling) -> None:
    """What `timeout` runs may clean up, too."""
    grandchild = "trap 'echo tidy >&2; exit' TERM; echo $$ >&2; while :; do sleep 0.01; done"
    text = f"echo $$ >&2; trap '' TERM; timeout 1000 sh -c \"{grandchild.replace('$$', chr(92) + '$$')}\""
    await cancelling.run(text, grace=2 * TOO_LONG, lines=2)
    assert cancelling.home.desk.lines[-1] == "tidy"
    assert not is_alive(int(cancelling.home.desk.lines[1]))


async def test_cancelled_and_a_grandchild_in_a_group_of_its_own_ignores_it(cancelling: Cancelling) -> None:
    """It is killed with the rest."""
    grandchild = "trap '' TERM; echo $$ >&2; while :; do sleep 1000; done"
    text = f"echo $$ >&2; trap '' TERM; timeout 1000 sh -c \"{grandchild.replace('$$', chr(92) + '$$')}\""
    await cancelling.run(text, grace=0.3, lines=2)
    assert 0.3 <= cancelling.seconds < GRACE
    await until(lambda: not is_alive(int(cancelling.home.desk.lines[1])))


async def test_cancelled_while_a_grandchild_lingers(cancelling: Cancelling) -> None:
    """After the exit of the program, too, its group is ended before the cancellation goes on."""
    text = f"echo $$ >&2; ({IGNORE} read x <go; echo two >&2; while :; do sleep 1000; done) & exit 0"
    cancelling.home.go()
    await cancelling.run(text, grace=0.3, lines=2)
    await until(lambda: not members(cancelling.group))


async def test_cancelled_with_its_pipes_closed(cancelling: Cancelling) -> None:
    """A program that has closed its pipes is ended as well."""
    await cancelling.run(IGNORE + "echo $$ >&2; exec >&- 2>&-; while :; do sleep 1000; done", grace=0.3)
    assert 0.3 <= cancelling.seconds < GRACE
    await until(lambda: not members(cancelling.group))


async def test_cancelled_while_it_is_fed(cancelling: Cancelling) -> None:
    """A program that does not read a query larger than its pipe is ended as well."""
    query = attrs.evolve(QUERY, query_text="x" * 1_000_000)
    with trio.fail_after(TOO_LONG), trio.move_on_after(0.2) as scope:
        await cancelling.home.command("exec sleep 1000", grace=5)(query, Context(cancelling.home.desk))
    assert scope.cancelled_caught


async def test_cancelled_from_further_out(home: Home) -> None:
    """A second cancellation does not cut the grace short: the program may still clean up."""
    text = "trap 'sleep 0.3; echo tidy >&2; exit' TERM; echo $$ >&2; while :; do sleep 0.01; done"
    with trio.fail_after(TOO_LONG):
        async with trio.open_nursery() as outer:
            inner = trio.CancelScope()

            async def run() -> None:
                with inner:
                    await home.command(text, grace=20)(QUERY, Context(home.desk))

            outer.start_soon(run)
            await home.desk.line(0)
            inner.cancel()
            await trio.testing.wait_all_tasks_blocked()
            outer.cancel_scope.cancel()
    assert home.desk.lines[-1] == "tidy"


async def test_cancelled_before_it_starts(home: Home) -> None:
    """Then it does not start."""
    command = home.command("echo ran >ran")
    with trio.CancelScope() as scope:
        scope.cancel()
        await command(QUERY, Context(home.desk))
    assert scope.cancelled_caught
    assert not (home.path / "ran").exists()


@pytest.mark.filterwarnings("ignore:(subprocess|unclosed file):ResourceWarning")
async def test_the_system_does_not_let_go(
    cancelling: Cancelling, monkeypatch: pytest.MonkeyPatch, events: list[EventDict]
) -> None:
    """When a kill does nothing (a disk, a driver), the query ends all the same, and the operator is told.

    Nor does it stay a zombie for ever when it has died in the end.
    """
    kill = os.killpg
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda _group, _number: None)
        patch.delattr(fcntl, "F_SETSIG")  # nor does the kernel kill it
        run = partial(cancelling.home.run_child, "echo $$ >&2; exec sleep 1000", grace=0.2, last=0.2)
        await cancelling.cancel(run)
    assert 0.4 <= cancelling.seconds < GRACE
    kill(cancelling.group, signal.SIGKILL)
    await until(lambda: not members(cancelling.group))
    gc.collect()  # what still knows of it are frames in a traceback
    await cancelling.home.run("true")
    assert zombies() == []
    assert [event["event"] for event in events] == ["a program is still there after SIGKILL"]


def test_patience() -> None:
    """Whoever waits for the end of a cancelled command waits long enough."""
    assert Command(("true",), Path("/")).patience == 7.0
    assert Command(("true",), Path("/"), grace=1).patience > 1 + LAST


async def test_many_at_once(home: Home) -> None:
    """They do not mix, and leave no file open and no zombie (the fixture counts them)."""
    command = home.command("import json, sys; print(json.load(sys.stdin)['query_text'])")
    answers: dict[int, str] = {}

    async def ask(number: int) -> None:
        query = Query(id=number, query_text=f"query {number}")
        answers[number] = await command(query, Context(home.desk))

    with trio.fail_after(TOO_LONG):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask, number)
    assert answers == {number: f"query {number}" for number in range(50)}


def test_is_a_handler(home: Home) -> None:
    """It is called as an async function is."""
    assert handler_of(home.command("true"), "command:./agent").is_async


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a program and its arguments, such as command:./agent --flag"),
        ("  ", "expected a program and its arguments, such as command:./agent --flag"),
        ("'' --flag", "expected a program and its arguments, such as command:./agent --flag"),
        ("./agent 'it", "a quote is opened and not closed"),
        ("./agent \\", "the backslash at its end escapes nothing"),
        ("./agent a\0b", "no argument of a program can hold a NUL"),
        ("./agnet --flag", "there is no ./agnet in HOME; did you mean ./agent?"),
        ("HOME/agnt", "there is no HOME/agnt; did you mean HOME/agent?"),
        ("bin/tol", "there is no bin/tol in HOME; did you mean bin/tool?"),
        ("./zzzzzz", "there is no ./zzzzzz in HOME"),
        ("bin/notes.tx", "there is no bin/notes.tx in HOME"),
        ("nowhere/zzzzzz", "there is no nowhere/zzzzzz in HOME"),
        ("agent", "there is no program agent in PATH; did you mean ./agent?"),
        ("agentt", "there is no program agentt in PATH; did you mean ./agent?"),
        ("notes.txt", "there is no program notes.txt in PATH; did you mean ./notes.txt?"),
        ("installed-tol", "there is no program installed-tol in PATH; did you mean installed-tool?"),
        ("zzzzzz", "there is no program zzzzzz in PATH"),
        ("./bin", "./bin is a directory; expected a program"),
        ("./notes.txt", "./notes.txt is not executable (chmod +x)"),
        ("./go", "./go is not executable (chmod +x)"),
        ("./lost", "the first line of ./lost names '/usr/bin/pyhton3', which is no program here"),
        ("./windows", "the first line of ./windows names '/bin/sh\\r', which is no program here"),
    ],
)
def test_refused(home: Home, monkeypatch: pytest.MonkeyPatch, text: str, problem: str) -> None:
    """At the start, in one sentence, with the nearest name where there is one."""
    for folder in ("bin", "installed"):
        (home.path / folder).mkdir()
    for name in ("agent", "bin/tool", "installed/installed-tool"):
        home.program("true", name)
    for name, first in {"lost": "#!/usr/bin/pyhton3 -u\n", "windows": "#!/bin/sh\r\n"}.items():
        (home.path / home.program("true", name)).write_text(first)
    for name in ("notes.txt", "bin/notes.txt"):
        (home.path / name).touch(0o644)
    (home.path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home.path / 'installed'}:/nowhere")
    text, problem = text.replace("HOME", str(home.path)), problem.replace("HOME", str(home.path))
    with pytest.raises(HandlerError) as caught:
        parse_command(text, home.path)
    assert caught.value.problems == (f"WORKER_HANDLER is {'command:' + text!r}: {problem}",)


def test_a_program_without_a_first_line(home: Home) -> None:
    """What is no script is left to the system; so is what can't be read."""
    assert parse_command("/bin/true", home.path).words == ("/bin/true",)
    (home.path / home.program("true")).chmod(0o111)
    assert parse_command("./agent", home.path).directory == home.path
