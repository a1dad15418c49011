"""`trio-worker demo` as somebody meets it who has no server at hand: real processes, real signals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import socket
import struct
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from click.testing import CliRunner

from tests.commands import environment, run_command
from tests.processes import TOO_LONG, WorkerProcess, start_worker
from trio_worker.cli import main
from trio_worker.cli.demo_handler import TASKS
from trio_worker.cli.demo_queries import make_cases, verdict
from trio_worker.cli.demo_server import answers_to_localhost
from trio_worker.testing import WebBuddy


@asynccontextmanager
async def start_demo(directory: Path, *options: str, **environ: str) -> AsyncIterator[WorkerProcess]:
    """Start the demo without a terminal.

    In the environment of an operator whose settings, and whose `.env`, would not do for it.
    """
    (directory / ".env").write_text("WORKER_PASSWORD_FILE=/nowhere\nNUM_WORKERS=many\n")
    async with start_worker(
        directory,
        webbuddy_url="http://webbuddy.invalid",
        command=("-m", "trio_worker", "demo", *options),
        http_proxy="http://127.0.0.1:1",
        **environ,
    ) as demo:
        yield demo


async def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    if sys.platform == "linux":  # where ps is not always installed
        return [child for child, parent in _proc_pairs() if parent == pid]
    listing = await trio.run_process(["ps", "-A", "-o", "pid=,ppid="], capture_stdout=True)
    pairs = [line.split() for line in listing.stdout.decode().splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _proc_pairs() -> Iterator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        yield int(stat.parent.name), int(text.rpartition(")")[2].split()[1])


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_without_a_terminal(tmp_path: Path) -> None:
    """A dozen queries, each with its line and its right end, pushed and polled; nothing is left; exit 0."""
    (tmp_path / "tmp").mkdir()
    async with start_demo(tmp_path, TMPDIR=str(tmp_path / "tmp")) as demo:
        assert await demo.wait() == 0, demo.output
        await demo.until(lambda line: line.startswith("Found by poll"))
    for number, task in enumerate(TASKS, start=1):
        status = "done" if task.ending == "answers" else "failed"
        # A look that was due anyway may come before a push.
        source = "(push|poll)" if number <= 8 else "poll"
        assert re.search(
            rf"query {number} +{status} +{re.escape(task.text)}  \(found by {source} after .* ran .* s\)",
            demo.output,
        ), demo.output
    assert "Нет тестовой карты" in demo.output
    assert "ended with an error (JSONDecodeError)" in demo.output
    assert "ran past its time limit of 3 s" in demo.output
    assert "12 of 12 queries ended as they should" in demo.output
    assert "9 done, 3 failed" in demo.output
    assert "Found by push: " in demo.output
    assert "\x1b" not in demo.output
    assert not list((tmp_path / "tmp").iterdir())


async def test_ctrl_c_at_the_start(tmp_path: Path) -> None:
    """Ctrl-C before the demo has really begun: no traceback."""
    async with start_demo(tmp_path) as demo:
        await demo.until(lambda line: "Starting" in line)
        demo.process.send_signal(signal.SIGINT)
        # Killed by it, or with 130 when it had just begun: for a shell that is the same.
        assert await demo.wait() in (-signal.SIGINT, 130), demo.output
    assert "Traceback" not in demo.output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_in_the_middle(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C while queries run: both are stopped, one sentence, no traceback, exit 130."""
    async with start_demo(tmp_path) as demo:
        await demo.until(lambda line: "query 3" in line)
        workers = await children(demo.process.pid)
        assert workers
        demo.process.send_signal(number)
        assert await demo.wait() == code, demo.output
        await demo.until(lambda line: "interrupted; the worker and WebBuddy are stopped" in line)
        assert all(is_gone(pid) for pid in workers)
    assert "Traceback" not in demo.output


async def test_ctrl_c_while_the_worker_starts(tmp_path: Path) -> None:
    """Ctrl-C when there is a worker that does not listen yet: it is stopped, too."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    async with start_demo(tmp_path, TMPDIR=str(directory)) as demo:
        with trio.fail_after(TOO_LONG):
            # Not just any child: at its import, Trio itself has one for a moment.
            while not list(directory.glob("*/worker.log")):  # noqa: ASYNC110 - a file has no event
                await trio.lowlevel.checkpoint()
            while not (workers := await children(demo.process.pid)):  # noqa: ASYNC110
                await trio.lowlevel.checkpoint()
        demo.process.send_signal(signal.SIGINT)
        assert await demo.wait() == 130, demo.output
        assert all(is_gone(pid) for pid in workers)
    assert "Traceback" not in demo.output


async def test_a_worker_that_dies(tmp_path: Path) -> None:
    """The worker is killed: the demo says so and shows the end of its log; exit 1."""
    async with start_demo(tmp_path) as demo:
        await demo.until(lambda line: "query 3" in line)
        for pid in await children(demo.process.pid):
            os.kill(pid, signal.SIGKILL)
        assert await demo.wait() == 1, demo.output
        await demo.until(lambda line: "query claimed" in line)
    assert "the worker has ended, with exit code -9" in demo.output
    assert "The worker's log ends like this:" in demo.output


async def test_a_worker_that_does_not_start(tmp_path: Path) -> None:
    """The worker ends before it listens: the demo says so, with what it printed; exit 1."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'run' in sys.orig_argv:\n"
        "    os.write(2, b'no worker today\\n')\n"
        "    os._exit(7)\n"
    )
    async with start_demo(tmp_path, PYTHONPATH=str(tmp_path)) as demo:
        assert await demo.wait() == 1, demo.output
        await demo.until(lambda line: "no worker today" in line)
    assert "the worker has ended, with exit code 7" in demo.output


async def test_keep(tmp_path: Path) -> None:
    """--keep: the printed curl and the printed command work; Ctrl-C ends it, exit 0."""
    async with start_demo(tmp_path, "--keep", "--queries", "1") as demo:
        curl = await demo.until(lambda line: line.startswith("curl "))
        submit = await demo.until(lambda line: line.startswith("WEBBUDDY_URL="))
        _, _, _, token, _, kind, _, body, url = shlex.split(curl)
        async with httpx.AsyncClient(trust_env=False, timeout=TOO_LONG) as client:
            headers = dict(header.split(": ") for header in (token, kind))
            answer = await client.post(url, content=body.encode(), headers=headers)
        assert answer.status_code == 201, answer.text
        await demo.until(lambda line: re.match(r"query 2 +done", line) is not None)
        with trio.fail_after(TOO_LONG):
            (tmp_path / "elsewhere").mkdir()
            ended = await trio.run_process(
                ["sh", "-c", submit],
                capture_stdout=True,
                cwd=tmp_path / "elsewhere",
                env=environment("http://webbuddy.invalid"),
            )
        assert ended.stdout.decode() == "Checked: Протестировать оплату\n"
        workers = await children(demo.process.pid)
        demo.process.send_signal(signal.SIGINT)
        assert await demo.wait() == 0, demo.output
        assert all(is_gone(pid) for pid in workers)
        await demo.until(lambda line: "The worker and WebBuddy are stopped." in line)


async def test_the_server_alone(tmp_path: Path) -> None:
    """--server: its lines are a worker's .env, it pushes, and shows the queries; Ctrl-C ends it, exit 0."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"http://push:TOKEN@127.0.0.1:{listener.socket.getsockname()[1]}"
    mine = tmp_path / "mine"  # where there is no .env
    mine.mkdir()
    async with start_demo(tmp_path, "--server", "--push-url", address + "/") as demo, listener:
        printed = [
            await demo.until(lambda line, name=name: line.startswith(name))  # type: ignore[misc]
            for name in ("WEBBUDDY_URL=", "WORKER_USERNAME=", "WORKER_PASSWORD=")
        ]
        settings = dict(line.split("=", 1) for line in printed)
        url = settings.pop("WEBBUDDY_URL")
        assert re.fullmatch("http://localhost:[0-9]+", url)  # as in the README
        created = await run_command(mine, "submit", "hello", "--project", "1", webbuddy_url=url, **settings)
        assert (created.code, created.out) == (0, "1\n"), created.err
        with trio.fail_after(TOO_LONG):
            async with await listener.accept() as stream:
                push = b""
                while not push.endswith(b"}"):
                    push += await stream.receive_some()
        assert push.startswith(b"POST /api/process-query ")
        assert b"Basic cHVzaDpUT0tFTg==" in push  # push:TOKEN, as WebBuddy sends it
        assert json.loads(push.partition(b"\r\n\r\n")[2]) == {"query_id": 1, "webbuddy_url": url}
        await demo.until(lambda line: "nobody took the push at http://***@127.0.0.1:" in line)
        assert "TOKEN" not in demo.output
        settings |= {"WORKER_NAME": "of mine", "WORKER_LANGUAGE": "ru"}
        async with start_worker(mine, webbuddy_url=url, **settings):
            line = await demo.until(lambda line: re.match("query 1 +done", line) is not None)
        assert re.search(r"hello  \(found by poll after .* s, ran .*\)  Готово за", line)
        demo.process.send_signal(signal.SIGINT)
        assert await demo.wait() == 0, demo.output
        await demo.until(lambda line: line == "WebBuddy is stopped.")


async def test_the_server_on_a_port(tmp_path: Path) -> None:
    """--port: just there, or a sentence and exit 1 when somebody else is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with start_demo(tmp_path, "--server", "--port", str(port)) as demo:
            assert await demo.wait() == 1, demo.output
            await demo.until(lambda line: f"can't listen at 127.0.0.1:{port}" in line)
    assert "choose another --port" in demo.output
    async with start_demo(tmp_path, "--server", "--port", str(port)) as demo:
        await demo.until(lambda line: line == f"WEBBUDDY_URL=http://localhost:{port}")


class Names(trio.abc.HostnameResolver):
    """What localhost is on somebody's machine; nothing, where it is no name."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, host: Any, port: Any, *_args: Any, **_options: Any) -> Any:
        assert host == b"localhost"
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = {
            address: socket.AF_INET6 if ":" in address else socket.AF_INET for address in self.addresses
        }
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for address, family in families.items()]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("addresses", "is_ours"),
    [
        (["127.0.0.1"], True),
        (["::1", "127.0.0.1"], True),
        (["127.0.0.2"], False),
        ([], False),
    ],
)
async def test_who_calls_localhost(addresses: list[str], is_ours: bool) -> None:
    """Only where that leads to the server it is named so, for the worker's settings and in pushes."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    trio.socket.set_custom_hostname_resolver(Names(*addresses))
    async with listener:
        assert await answers_to_localhost(listener.socket.getsockname()[1]) is is_ours


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
async def test_who_calls_localhost_and_comes_to_somebody_else() -> None:
    """Who has the same port at [::1], which comes first; here it is one socket that has both."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as everywhere:
        trio.socket.set_custom_hostname_resolver(Names("::1", "127.0.0.1"))
        assert await answers_to_localhost(everywhere.getsockname()[1]) is False
        trio.socket.set_custom_hostname_resolver(Names("127.0.0.1", "::1"))
        assert await answers_to_localhost(everywhere.getsockname()[1]) is True


@pytest.mark.parametrize(
    "options",
    [
        *(["--server", "--keep"], ["--server", "--queries", "3"], ["--port", "8000"]),
        *(
            ["--push-url", "http://localhost"],
            ["--server", "--push-url", "localhost"],
            ["--server", "--port", "0"],
        ),
    ],
)
def test_options_that_do_not_fit(options: list[str]) -> None:
    """What would have no effect, and what is no URL, is refused; exit 2."""
    assert CliRunner().invoke(main, ["demo", *options]).exit_code == 2


async def test_one_query_has_no_half(tmp_path: Path) -> None:
    """The end of a demo with one query says how long that took."""
    async with start_demo(tmp_path, "--queries", "1") as demo:
        assert await demo.wait() == 0, demo.output
        assert re.fullmatch(
            r"Found by (push|poll): 1, within [0-9.]+ m?s\.",
            await demo.until(lambda line: line.startswith("Found by")),
        )


async def test_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal: a table that is drawn anew, cut to the screen, and a cursor that is back at the end."""
    terminal, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 80, 0, 0))
    variables = environment("", TERM="xterm", NO_COLOR="1")
    for name in ("COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        variables.pop(name, None)
    command = [sys.executable, "-m", "trio_worker", "demo", "--queries", "2"]
    process = await trio.lowlevel.open_process(
        command, cwd=tmp_path, env=variables, stdin=screen, stdout=screen, stderr=screen
    )
    os.close(screen)
    try:
        with trio.fail_after(TOO_LONG):
            text = await trio.to_thread.run_sync(_read_all, terminal, abandon_on_cancel=True)
            code = await process.wait()
    finally:
        process.kill()
        os.close(terminal)
    assert code == 0, text
    assert text.count("last log entry") > 5
    assert "the latest 1 of 2 are shown" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "2 of 2 queries ended as they should" in text.partition("\x1b[?25h")[2]
    without_controls = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert max(len(line) for line in re.split(r"[\r\n]", without_controls)) <= 80


def _read_all(terminal: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # Linux: nobody has the other end any more
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


def test_any_number_of_queries() -> None:
    """N queries are N different ones, the last third of them not pushed, the special ones once."""
    for count in (1, 2, 3, 11, 12, 13, 500):
        cases = make_cases(count)
        assert len({case.text for case in cases}) == count
        assert [case.pushed for case in cases].count(False) == count // 3
        endings = [case.task.ending for case in cases if case.task.ending != "answers"]
        assert len(endings) == len(set(endings)) == min(3, count - 1)


def test_a_query_that_ends_otherwise() -> None:
    """What is not as it should be is told: the status, the answer, a second claim, how it was found."""
    webbuddy = WebBuddy()
    worker = webbuddy.accounts[1]
    pushed = make_cases(1)[0]
    polled = attrs.evolve(pushed, pushed=False)
    query = webbuddy.add_query(pushed.text)
    assert "should be done with 'Авторизация" in str(verdict(pushed, query))
    assert "but is queued" in str(verdict(pushed, query))
    webbuddy.claim(query, worker)
    webbuddy.add_entry(query, 1, "+0.0s Claimed by demo-worker (push) · +0.0s Started, time limit 3 s")
    webbuddy.set_status(query, "done", worker)
    query.answer_text = "something else"
    assert "but is done with 'something else'" in str(verdict(pushed, query))
    query.answer_text = pushed.answer(query.id)
    assert verdict(pushed, query) is None
    assert "not by polling" in str(verdict(polled, query))
    webbuddy.claim(query, worker)
    webbuddy.set_status(query, "done", worker)
    assert "was not claimed exactly once" in str(verdict(pushed, query))
