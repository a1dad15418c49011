"""Dead doors: how a process in a test dies as by ``kill -9``.

Cancelling a task is no death: its ``finally`` blocks, shields and clean-ups still run, and still reach the
disk and the network. So the doors die first. From that moment on nothing that the process does can be seen
by anybody, and what it does then is of no consequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import httpx
import outcome
import trio

from trio_worker.journal_file import Contents, JournalFile
from trio_worker.runners import Job
from trio_worker.takeover import OwnJournal

__all__ = ["CALLER", "Doors"]

CALLER = "X-Caller"
"""The header by which it can be told at the other end which process has sent a request, and which of its
requests it is: ``3/17`` is the 17th of the third."""

T = TypeVar("T")


def _nothing(request: httpx.Request, status: int | None) -> None:
    pass


class Doors(trio.abc.Instrument):
    """The ways of one process to its disk and to the network.

    As an instrument it counts what the process does: the scheduling steps of its own tasks, the beginning
    and the end of each piece of work on the disk, each request and each answer.

    Args:
        network: What carries the requests as long as the process lives.
        disk_seconds: What a piece of work on the disk takes; others run meanwhile, as beside a real thread.
            0: it is done at once.
        life: Which process it is, as its requests say.
        lost: Called with each request of which it does not hear whether it was carried out, and with the
            status of the answer, if there was one.

    Attributes:
        dead: Whether the process is dead.
        died: Set when it dies.
        steps: How many steps there were.
        own: Its journal, once it is open.
        life: As above.
        lost: As above.
        requests: How many requests it has sent.
    """

    def __init__(
        self,
        network: httpx.AsyncBaseTransport,
        *,
        disk_seconds: float = 0.002,
        life: int = 0,
        lost: Callable[[httpx.Request, int | None], None] = _nothing,
    ) -> None:
        self.dead = False
        self.died = trio.Event()
        self.steps = 0
        self.own: OwnJournal | None = None
        self.life = life
        self.lost = lost
        self.requests = 0
        self.network = _Network(self, network)
        self._disk_seconds = disk_seconds
        self._when = -1
        self._then: Callable[[], object] = self.die
        self._tasks: set[trio.lowlevel.Task] = set()
        self._jobs: deque[Job[Any]] = deque()
        self._asked = trio.Event()

    def die(self) -> None:
        """Die now. Again, it does nothing."""
        if not self.dead:
            self.dead = True
            self.died.set()

    def after(self, steps: int, then: Callable[[], object]) -> None:
        """Do something at the beginning of the step that comes so many steps from now on, such as `die`."""
        self._when, self._then = self.steps + steps, then

    def bury(self) -> Contents:
        """Do what the kernel does when a process is dead: give its lock back.

        Returns:
            What is on its disk.
        """
        if self.own is None or self.own.lock is None:
            return Contents()
        self.own.lock.release()
        path = self.own.lock.path
        if not path.exists():  # it died while it ended
            return Contents()
        file = JournalFile(path, read_only=True)
        try:
            return file.load()
        finally:
            file.close()

    # --- The disk -------------------------------------------------------------------------------------

    def runner(self, function: Callable[[], T]) -> Job[T]:
        """Begin a piece of work on the disk; a `trio_worker.runners.Runner`."""
        job = Job(partial(self._noted, function))
        if self._disk_seconds:
            self._jobs.append(job)
            self._asked.set()
        elif self._is_done(job):
            job.finish()
        return job

    async def work(self) -> None:
        """Do the work on the disk, one piece after the other. Never returns."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            while self._jobs:
                job = self._jobs.popleft()
                await trio.sleep(self._disk_seconds / 2)
                if self._is_done(job):
                    await trio.sleep(self._disk_seconds / 2)
                    if not self.dead:
                        job.finish()

    def _is_done(self, job: Job[Any]) -> bool:
        """Do a piece of work; False when the process is dead before anybody could hear of it."""
        self.step()
        if self.dead:
            return False
        job.run()
        self.step()
        return not self.dead

    def _noted(self, function: Callable[[], T]) -> T:
        result = function()
        if isinstance(result, OwnJournal):
            self.own = result
        return result

    # --- The network ----------------------------------------------------------------------------------

    async def while_alive(self, call: Callable[[], Awaitable[T]]) -> outcome.Maybe[T]:
        """Make a call, and say what came of it. Of the dead, nothing comes of anything."""
        if self.dead:
            await trio.sleep_forever()
        result: outcome.Maybe[T] = await outcome.acapture(call)
        if self.dead:
            await trio.sleep_forever()
        return result

    # --- Counting -------------------------------------------------------------------------------------

    def step(self) -> None:
        """Count one step."""
        if self.dead:
            return
        self.steps += 1
        if self.steps == self._when:
            self._then()

    def adopt(self) -> None:
        """The current task is the process: count its steps, and those of all tasks below it."""
        self._tasks.add(trio.lowlevel.current_task())

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """See a new task."""
        nursery = task.parent_nursery
        if nursery is not None and nursery.parent_task in self._tasks:
            self._tasks.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """See the end of a task."""
        self._tasks.discard(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See a step."""
        if task in self._tasks:
            self.step()


class _Network(httpx.AsyncBaseTransport):
    """The network, as long as the process lives."""

    def __init__(self, doors: Doors, inner: httpx.AsyncBaseTransport) -> None:
        self._doors = doors
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry a request and its answer. The dead send nothing and hear nothing."""
        doors, heard, status = self._doors, False, None
        doors.requests += 1
        request.headers[CALLER] = f"{doors.life}/{doors.requests}"
        try:
            answer = await doors.while_alive(partial(self._inner.handle_async_request, request))
            response = answer.unwrap()
            status = response.status_code
            heard = _is_clear(request, status)
            return response
        finally:
            if not heard:
                doors.lost(request, status)


def _is_clear(request: httpx.Request, status: int) -> bool:
    """Whether an answer says what has become of a request. To what creates something, a 200 is garbage."""
    if request.method == "GET":
        return status in (200, 401, 404)  # with a new token, it is asked again at once
    return 400 <= status < 500 or status == (201 if request.url.path.endswith("/api/logs/") else 200)
