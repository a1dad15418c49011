"""The named pipe between the processes of a state folder."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from collections import deque
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import wait_all_tasks_blocked

from trio_worker.bus import MOST_HINTS, Bus, Hint
from trio_worker.bus_pipe import PIPE, open_pipe_bus
from trio_worker.runners import inline
from trio_worker.state_folder import Address, StateFolder


def always() -> bool:
    """A hint is wanted."""
    return True


def folder(path: Path, account: str = "worker") -> StateFolder:
    """Give the folder of an account."""
    return StateFolder(path, Address("http://localhost:8000", account))


async def nothing_comes(bus: Bus) -> bool:
    """Whether no hint is there."""
    with trio.move_on_after(0.01):
        await bus.take(always)
        return False
    return True


async def test_a_hint_is_taken_by_one(tmp_path: Path) -> None:
    """Of three that wait."""
    taken: list[Hint] = []

    async def take(bus: Bus) -> None:
        taken.append(await bus.take(always))

    async with AsyncExitStack() as stack:
        for _ in range(3):
            bus = await stack.enter_async_context(open_pipe_bus(folder(tmp_path), runner=inline))
            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(take, bus)
        await wait_all_tasks_blocked()
        bus.offer(Hint(17, 4))
        with trio.move_on_after(0.01):
            await trio.sleep_forever()
        assert taken == [Hint(17, 4)]
        bus.offer(Hint(18, 4))
        bus.offer(Hint(19, 4))
    assert sorted(hint.query for hint in taken) == [17, 18, 19]


async def test_the_pipe_is_of_one_account_and_for_its_user_alone(tmp_path: Path) -> None:
    """Another account has another one; those who open it later share it."""
    async with (
        open_pipe_bus(folder(tmp_path), runner=inline) as bus,
        open_pipe_bus(folder(tmp_path), runner=inline) as same,
        open_pipe_bus(folder(tmp_path, "other"), runner=inline) as other,
    ):
        bus.offer(Hint(1, 2))
        assert await nothing_comes(other)
        assert await same.take(always) == Hint(1, 2)
        assert bus.trouble is None
        assert stat.S_IMODE((folder(tmp_path).path / PIPE).stat().st_mode) == 0o600


async def test_it_is_bounded_and_can_be_cleared(tmp_path: Path) -> None:
    """Whoever offers never waits, and nothing is left of a full one."""
    async with open_pipe_bus(folder(tmp_path), runner=inline) as bus:
        assert not await bus.clear()
        for number in range(100_000):
            bus.offer(Hint(number, 1))
        waiting = 0
        while not await nothing_comes(bus):
            waiting += 1
        assert MOST_HINTS <= waiting <= 2 * max(MOST_HINTS, mmap.PAGESIZE // 16)
        for number in range(1000):
            bus.offer(Hint(number, 1))
        assert await bus.clear()
        assert await nothing_comes(bus)


@pytest.mark.parametrize("most", [1, MOST_HINTS - 1])
async def test_one_that_is_never_empty_has_room(most: int, tmp_path: Path) -> None:
    """A thousand hints go through, while this many wait."""
    waiting: deque[Hint] = deque()
    with trio.fail_after(60):
        async with open_pipe_bus(folder(tmp_path), runner=inline) as bus:
            for number in range(1_000 + most):
                waiting.append(Hint(number, 1))
                bus.offer(waiting[-1])
                if len(waiting) > most:
                    assert await bus.take(always) == waiting.popleft()


async def test_who_wants_none_leaves_it_to_others(tmp_path: Path) -> None:
    """Who became busy while it waited does not even read it."""
    async with (
        open_pipe_bus(folder(tmp_path), runner=inline) as busy,
        open_pipe_bus(folder(tmp_path), runner=inline) as free,
    ):
        found: list[Hint | None] = []

        async def take() -> None:
            found.append(await busy.take(lambda: False))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                await wait_all_tasks_blocked()
                free.offer(Hint(1, 2))
            assert found == [None]
            assert await free.take(always) == Hint(1, 2)


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="here it is as large as it is")
async def test_a_pipe_that_is_as_large_as_elsewhere_is_cleared_in_one_go(tmp_path: Path) -> None:
    """64 KiB on macOS, two pages of as much on some machines: nothing is to be left."""
    async with open_pipe_bus(folder(tmp_path), runner=inline) as bus:
        with (folder(tmp_path).path / PIPE).open("rb") as pipe:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 131_072)
        for number in range(131_072 // 16):
            bus.offer(Hint(number, 1))
        assert await bus.clear()
        assert await nothing_comes(bus)


async def test_hints_end_with_the_last_process(tmp_path: Path) -> None:
    """What nobody reads is not news a day later."""
    async with open_pipe_bus(folder(tmp_path), runner=inline) as bus:
        bus.offer(Hint(1, 2))
    async with open_pipe_bus(folder(tmp_path), runner=inline) as bus:
        assert await nothing_comes(bus)


async def test_what_somebody_else_writes_is_worth_a_look(tmp_path: Path) -> None:
    """No more: nothing fails for it."""
    async with open_pipe_bus(folder(tmp_path), runner=inline) as bus:
        with (folder(tmp_path).path / PIPE).open("wb") as pipe:
            pipe.write(b"hello\n")
        assert await bus.take(always) == Hint(0, 0)
        bus.offer(Hint(1, 2))
        assert await bus.take(always) == Hint(1, 2)


@pytest.mark.parametrize("obstacle", ["a file", "a folder", "not allowed"])
async def test_without_a_pipe_it_shares_with_nobody(
    obstacle: str, tmp_path: Path, events: list[EventDict]
) -> None:
    """And says so, with what to do."""
    if obstacle == "not allowed":
        (tmp_path / "state").touch()
        place = folder(tmp_path / "state")
    else:
        place = folder(tmp_path)
        place.make()
        path = place.path / PIPE
        path.mkdir() if obstacle == "a folder" else path.touch()
    async with open_pipe_bus(place, runner=inline) as bus:
        bus.offer(Hint(1, 2))
        assert await nothing_comes(bus)
        assert not await bus.clear()
    (event,) = events
    assert event["event"] == "this process shares no wake-ups with others on this machine"
    assert PIPE in event["reason"] or "state" in event["reason"]


def descriptors_of(path: Path) -> list[int]:
    """Give our descriptors of a file."""
    status = path.stat()
    found = []
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # that of the list itself
            if os.path.samestat(os.fstat(int(name)), status):
                found.append(int(name))
    return found


async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """To the programs that handlers start, neither."""
    path = folder(tmp_path).path / PIPE
    async with open_pipe_bus(folder(tmp_path), runner=inline):
        (number,) = descriptors_of(path)
        assert not os.get_inheritable(number)
    assert not descriptors_of(path)


async def test_after_the_end_nothing_is_written(tmp_path: Path) -> None:
    """A push may be answered later than that; the descriptor's number is that of another file by then."""
    other = tmp_path / "other"
    with other.open("wb") as file:
        async with open_pipe_bus(folder(tmp_path), runner=inline) as bus:
            (number,) = descriptors_of(folder(tmp_path).path / PIPE)
        os.dup2(file.fileno(), number)
        try:
            bus.offer(Hint(1, 2))
        finally:
            os.close(number)
    assert other.read_bytes() == b""
