"""Where blocking work runs."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import MockClock

from trio_worker.runners import END_SECONDS, Job, inline, open_thread


def boom() -> None:
    raise OSError("no disk")


# --- In place ---------------------------------------------------------------------------------------


async def test_inline_works_here_and_now() -> None:
    """Before the call returns, and in this thread: virtual time does not pass."""
    where: list[threading.Thread] = []
    job = inline(lambda: where.append(threading.current_thread()))
    assert where == [threading.current_thread()]
    assert await job is None


async def test_inline_lets_others_run() -> None:
    """Waiting for it is a checkpoint, as it is for a thread: a loop over it can be cancelled."""
    with trio.move_on_after(0) as scope:
        await inline(boom)
    assert scope.cancelled_caught


async def test_inline_raises_where_it_is_awaited() -> None:
    """As a thread does, and not where the call begins."""
    job = inline(boom)
    with pytest.raises(OSError, match="no disk"):
        await job


async def test_a_job_is_waited_for_after_a_cancellation(autojump_clock: MockClock) -> None:
    """Who gave up waiting may wait again; the call was not stopped."""
    job = Job(lambda: 7)
    with trio.move_on_after(1) as scope:
        await job
    assert scope.cancelled_caught
    job.run()
    job.finish()
    assert await job == 7


# --- In a thread ------------------------------------------------------------------------------------


async def test_a_thread_works_elsewhere() -> None:
    """The event loop goes on while the call blocks, and gets what it returns."""
    go_on = threading.Event()
    async with open_thread("the disk") as run:
        job = run(lambda: go_on.wait(60) and threading.current_thread().name)
        await trio.lowlevel.checkpoint()
        go_on.set()
        assert await job == "the disk"


async def test_a_thread_raises_where_it_is_awaited() -> None:
    """And goes on with the next call."""
    async with open_thread("the disk") as run:
        with pytest.raises(OSError, match="no disk"):
            await run(boom)
        assert await run(lambda: 7) == 7


async def test_calls_go_one_after_the_other_in_order() -> None:
    """The order in which they were begun, whoever waits for which."""
    done: list[int] = []
    threads: set[int] = set()

    def work(number: int) -> None:
        threads.add(threading.get_ident())
        done.append(number)

    async with open_thread("the disk") as run:
        jobs = [run(lambda number=number: work(number)) for number in range(100)]  # type: ignore[misc]
        await jobs[-1]
    assert done == list(range(100))
    assert len(threads) == 1


async def test_the_end_waits_for_what_was_begun() -> None:
    """Also for what nobody waits for: the last commit of a cancelled worker."""
    done: list[int] = []
    go_on = threading.Event()
    with trio.CancelScope() as scope:
        async with open_thread("the disk") as run:
            run(lambda: go_on.wait(60))
            run(lambda: done.append(1))
            scope.cancel()
            go_on.set()
    assert done == [1]


async def test_the_thread_ends_with_the_block() -> None:
    """No thread is left."""
    async with open_thread("the only one of this name") as run:
        thread = await run(threading.current_thread)
    thread.join(60)
    assert not thread.is_alive()


async def test_a_thread_that_hangs_is_left_behind(autojump_clock: MockClock) -> None:
    """After a second; as a daemon it does not keep the process."""
    go_on = threading.Event()
    async with open_thread("the disk") as run:
        run(lambda: go_on.wait(60))
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(END_SECONDS)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "the disk")
    assert thread.daemon
    go_on.set()
    thread.join(60)


def test_a_thread_outlives_the_event_loop() -> None:
    """One that ends its call after that has nobody to tell, and ends."""
    go_on = threading.Event()
    thread: list[threading.Thread] = []

    async def main() -> None:
        async with open_thread("the disk") as run:
            thread.append(await run(threading.current_thread))
            run(lambda: go_on.wait(60))

    trio.run(main, clock=MockClock(autojump_threshold=0))
    go_on.set()
    thread[0].join(60)
    assert not thread[0].is_alive()
