"""A program ends with its query and with its worker, in whatever way these end. The workers are real ones."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.pools import TOO_LONG, NoteBook, group, until
from tests.processes import start_worker
from trio_worker.context import Context
from trio_worker.handlers.command import parse_command
from trio_worker.handlers.kinds import find_handler
from trio_worker.handlers.session import signal_session
from trio_worker.query import Query
from trio_worker.testing import WebBuddy, open_worker, serve_webbuddy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")

STUBBORN = """#!/bin/sh
trap '' TERM INT HUP IO
if [ -n "$WEBBUDDY_QUERY_SAVED" ]; then echo "saved: $WEBBUDDY_QUERY_SAVED"; exit; fi
sh -c 'while :; do sleep 1000; done' &
echo '{"save": "how far it has come"}' >"$WEBBUDDY_QUERY_CONTROL"
echo $$ >group.new; mv group.new group
while :; do sleep 1000; done
"""


def program(folder: Path) -> str:
    (folder / "agent").write_text(STUBBORN)
    (folder / "agent").chmod(0o755)
    return "command:./agent"


async def started(folder: Path) -> int:
    """Wait until it is at work; return the number of its group."""
    await until((folder / "group").exists)
    number = int((folder / "group").read_text())
    await until(lambda: len(group(number)) >= 3)
    return number


async def test_killed_before_its_query_is_put_back(tmp_path: Path, mock_clock: MockClock) -> None:
    """A stop leaves a program less than its 5 s: whoever takes the query next must not find it at work."""
    mock_clock.rate = 0.4  # so slow that a busy machine, too, kills it in the second that there is for that
    handler = find_handler(program(tmp_path), tmp_path, most=1)
    with trio.fail_after(TOO_LONG):
        async with open_worker(handler, shutdown_grace=25) as worker:
            query = worker.webbuddy.add_query("x")
            number = await started(tmp_path)
            worker.stop.ask()
            mock_clock.jump(20)
            await worker.webbuddy.until(lambda: query.status == "queued")
            assert group(number) == []
    assert not worker.abandoned.is_set()


async def test_a_worker_that_is_stopped_leaves_none(tmp_path: Path) -> None:
    """The same by a signal, in a worker of its own process."""
    webbuddy = WebBuddy()
    handler = program(tmp_path)
    async with serve_webbuddy(webbuddy) as url:
        query = webbuddy.add_query("x", push=False)
        settings = {"WORKER_HANDLER": handler, "WORKER_SHUTDOWN_GRACE": "9"}
        async with start_worker(tmp_path, webbuddy_url=url, **settings) as worker:
            number = await started(tmp_path)
            worker.process.terminate()
            with trio.fail_after(TOO_LONG):
                await webbuddy.until(lambda: query.status == "queued")
            assert group(number) == []
            assert await worker.wait() == 0
    assert "left behind" not in worker.output


async def test_it_does_not_outlive_a_worker_that_is_killed(tmp_path: Path) -> None:
    """Its group ends with the worker; the rerun finds what it has saved, and not itself at work."""
    webbuddy = WebBuddy()
    handler = program(tmp_path)
    async with serve_webbuddy(webbuddy) as url:
        query = webbuddy.add_query("x", push=False)
        async with start_worker(tmp_path, webbuddy_url=url, WORKER_HANDLER=handler) as worker:
            number = await started(tmp_path)
            await until(lambda: any(b"how far" in data for data in journals(tmp_path)))
            worker.process.kill()
            assert await worker.wait() == -9
            try:
                await until(lambda: not group(number))
            finally:
                signal_session(number, signal.SIGKILL)
        async with start_worker(tmp_path, webbuddy_url=url, WORKER_HANDLER=handler) as worker:
            with trio.fail_after(TOO_LONG):
                await webbuddy.until(lambda: query.status in ("done", "failed"))
            worker.process.terminate()
            await worker.wait()
    assert (query.status, query.answer_text) == ("done", 'saved: "how far it has come"')


REFUSED = """
import ctypes, os, platform, runpy, struct
number, arch = {"x86_64": (72, 0xC000003E), "aarch64": (25, 0xC00000B7)}[platform.machine()]
def step(code, value, yes=0, no=0): return struct.pack("HBBI", code, yes, no, value)
steps = [
    step(0x20, 4), step(0x15, arch, 0, 5),  # of this architecture,
    step(0x20, 0), step(0x15, number, 0, 3),  # fcntl
    step(0x20, 24), step(0x15, 10, 0, 1),  # with F_SETSIG:
    step(0x06, 0x00050000 | 22),  # EINVAL
    step(0x06, 0x7FFF0000),
]
steps = ctypes.create_string_buffer(b"".join(steps))
class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
program = Program(8, ctypes.addressof(steps))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == libc.prctl(22, 2, ctypes.byref(program)) == 0
runpy.run_module("trio_worker", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="calls the system by number")
@pytest.mark.parametrize("handler", ["command:./agent", "process:agent:handle"])
async def test_where_the_system_does_not_see_to_that(tmp_path: Path, handler: str) -> None:
    """A sandbox that refuses it: one warning, and all else works."""
    (tmp_path / "agent").write_text("#!/bin/sh\ncat\n")
    (tmp_path / "agent").chmod(0o755)
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url:
        for _ in range(2):
            webbuddy.add_query("x", push=False)
        command, plain = ("-c", REFUSED, "run"), "def handle(query, ctx): return 'answer'"
        async with start_worker(
            tmp_path, webbuddy_url=url, command=command, handler=plain, WORKER_HANDLER=handler
        ) as worker:
            with trio.fail_after(TOO_LONG):
                await webbuddy.until(webbuddy.all_ended)
            worker.process.terminate()
            assert await worker.wait() == 0
    assert {query.status for query in webbuddy.queries.values()} == {"done"}
    (warning,) = [json.loads(line) for line in worker.lines if '"level": "warning"' in line]
    assert "would outlive a kill -9" in warning["event"]
    assert warning["reason"] == "Invalid argument"


def journals(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*.journal*")]


async def test_its_end_is_tied_to_a_pipe_of_its_own(tmp_path: Path) -> None:
    """In which order a dying worker's descriptors are closed is the kernel's affair."""
    text = f"""#!{sys.executable} -IS
import fcntl, os
for number in os.listdir("/proc/self/fd"):
    try: print(fcntl.fcntl(int(number), fcntl.F_GETFL))
    except OSError: pass
"""
    (tmp_path / "agent").write_text(text)
    (tmp_path / "agent").chmod(0o755)
    with trio.fail_after(TOO_LONG):
        answer = await parse_command("./agent", tmp_path)(Query(id=7), Context(NoteBook()))
    assert len([flags for flags in answer.split() if int(flags) & os.O_ASYNC]) == 1


async def test_killed_within_its_grace(tmp_path: Path) -> None:
    """Whoever can't wait for the end of the grace has it cut short."""
    program(tmp_path)
    command = attrs.evolve(parse_command("./agent", tmp_path), grace=1000)
    ctx = Context(NoteBook())
    with trio.fail_after(TOO_LONG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(command, Query(id=7), ctx)
            number = await started(tmp_path)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert len(group(number)) >= 3
                command.kill(Context(NoteBook()))  # another's
                command.kill(ctx)
        await until(lambda: not group(number))
    command.kill(ctx)  # it has ended
