"""The workers of a simulated world: started, killed, stopped and started again."""

from __future__ import annotations

import attrs
import trio

from trio_worker.errors import AccessDenied, leaves
from trio_worker.testing.simulated_crash import Doors
from trio_worker.testing.simulated_evidence import Life
from trio_worker.testing.simulated_handler import make_handler, make_plain_handler
from trio_worker.testing.simulated_network import Way
from trio_worker.testing.simulated_process import Process, make_settings
from trio_worker.testing.simulated_world import DAY, World

__all__ = ["Worker"]

TIME_LIMIT = 600.0  # seconds for a query
NEIGHBOURS = 120.0  # seconds between two looks for dead neighbours; each costs real time
NOBODY = 3600.0  # … where there are none


@attrs.define(eq=False)
class Worker:
    """One place where a process runs, again and again, on a machine with a clock of its own.

    Attributes:
        world: The world.
        number: Which worker, from 1 on.
        account: Its account. Workers with the same account share a disk.
        way: Its way to WebBuddy.
        doors: The class of its processes' doors.
        ahead: How many seconds its clock is ahead.
        has_neighbours: Whether others share its disk.
        process: The one that runs, or ran last.
    """

    world: World
    number: int
    account: str
    way: Way
    doors: type[Doors]
    ahead: float = 0.0
    has_neighbours: bool = False
    process: Process | None = None
    _over: bool = False

    async def live(self) -> None:
        """Start a process whenever there is none, until `stop`. Cancelled, dead ones are gone for good."""
        chance = self.world.chance(f"worker {self.number}")
        async with trio.open_nursery() as nursery:
            while not self._over:
                process, life = self._begin(), len(self.world.lives)
                self.world.alive[self.number] = self.process = process
                self.world.listening.processes.append(process)
                nursery.start_soon(process.live)
                await process.ended.wait()
                del self.world.alive[self.number]
                self._note_end(process, life)
                await trio.sleep(chance.choice((1, 1, 5, 30, 600)))

    async def stop(self) -> None:
        """Stop its process, for good."""
        self._over = True
        if self.process is not None:
            self.process.stop.ask()
            await self.process.ended.wait()

    async def die_and_restart(self, *, a_day: float) -> None:
        """End its process now and then, one way or another. Never returns.

        Args:
            a_day: How often.
        """
        chance = self.world.chance(f"deaths of worker {self.number}")
        while True:
            await trio.sleep(chance.expovariate(a_day / DAY))
            if self.process is None or not self.process.is_alive:
                continue
            # At any step of something: there are many more in a busy moment than in a quiet one.
            end = chance.choice(
                (self.process.stop.ask, self.process.stop.hurry, *[self.process.doors.die] * 4)
            )
            self.process.doors.after(chance.randint(1, 400), end)

    def _begin(self) -> Process:
        world = self.world
        number = len(world.lives) + 1
        draw = world.chance(f"life {number}")
        disk_seconds = draw.choice((0, 0, 0, 0.002, 0.05))
        doors = self.doors(self.way, disk_seconds=disk_seconds, life=number, lost=world.webbuddy.note_lost)
        settings = make_settings(
            username=self.account,
            num_workers=draw.randint(1, 4),
            polling_interval=600.0,
            processing_timeout=TIME_LIMIT,
            watch_interval=draw.choice((60.0, 120.0, 300.0)),
            on_crash=draw.choices(("rerun", "requeue", "fail"), (8, 1, 1))[0],
        )
        world.lives[number] = Life(account=self.account, interval=settings.watch_interval)
        plain = draw.random() < 0.1
        handler = make_plain_handler(world.ledger, number) if plain else None
        return Process(
            settings,
            world.folder,
            doors,
            handler or make_handler(world.ledger, doors, number),
            self._clock,
            look_around_every=NEIGHBOURS if self.has_neighbours else NOBODY,
        )

    def _clock(self) -> float:
        return self.world.webbuddy.now() + self.ahead

    def _note_end(self, process: Process, life: int) -> None:
        self.world.lives[life].died_at = process.died_at
        self.world.lives[life].ended_at = self.world.webbuddy.now()
        self.world.counts["orderly stops"] += not process.doors.dead
        if process.doors.dead:
            self.world.counts["deaths"] += 1
            self.world.note_death(process, life)
        elif process.error is not None and not _is_denied(process.error):
            self.world.fail(f"a service has crashed: {process.error!r}")


def _is_denied(error: BaseException) -> bool:
    """Whether a process has ended since WebBuddy refused its first log-in, as it should."""
    return all(isinstance(leaf, AccessDenied) for leaf in leaves(error))
