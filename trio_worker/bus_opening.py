"""Which bus the settings call for: Redis where ``WORKER_BUS_URL`` names one, else that of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trio_worker.bus import Bus
from trio_worker.bus_pipe import open_pipe_bus
from trio_worker.errors import SettingsError
from trio_worker.masks import masks
from trio_worker.runners import Runner
from trio_worker.settings import Settings
from trio_worker.state_folder import StateFolder

__all__ = ["ask_bus", "open_bus", "require_bus"]


def require_bus(settings: Settings) -> None:
    """Import what the bus needs, which takes 0.2 s for Redis, and see to it that its password never shows.

    Blocks: to be called before Trio runs, and before the two others here.

    Raises:
        SettingsError: It is not installed.
    """
    if settings.bus is None:
        return
    masks.know("bus", settings.bus.password)
    try:
        import trio_worker.bus_redis  # noqa: F401 - here: most have no Redis, and need not wait for it
    except ImportError as error:
        raise SettingsError(
            [f"WORKER_BUS_URL is set, which needs coredis ({error}): pip install 'trio-worker[redis]'"]
        ) from None


@asynccontextmanager
async def open_bus(settings: Settings, folder: StateFolder, *, runner: Runner) -> AsyncIterator[Bus]:
    """Open what wake-ups are shared over with other workers.

    Args:
        settings: The settings.
        folder: Of whose processes it is where there is no Redis.
        runner: Where the disk is waited for.

    Raises:
        SettingsError: The certificates of who is trusted can't be read.
    """
    if settings.bus is None:
        async with open_pipe_bus(folder, runner=runner) as bus:
            yield bus
        return
    from trio_worker.bus_redis import open_redis_bus

    async with open_redis_bus(settings.bus, settings.webbuddy_url, ca_file=settings.ca_file) as bus:
        yield bus


async def ask_bus(settings: Settings) -> str | None:
    """Ask Redis whether wake-ups could be shared over it; takes seconds where it does not answer.

    Returns:
        Why not, as a sentence; None: they could, or there is none.

    Raises:
        SettingsError: As of `open_bus`.
    """
    if settings.bus is None:
        return None
    from trio_worker.bus_redis import ask_redis

    return await ask_redis(settings.bus, settings.webbuddy_url, ca_file=settings.ca_file)
