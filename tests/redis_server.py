"""A real Redis for tests: on a free port, in a folder of its own, killed at the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
import trio

from trio_worker.bus_address import BusAddress

REDIS = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@attrs.define
class RedisServer:
    """A Redis that can be killed, started again, and stopped from doing anything.

    Attributes:
        folder: Where it lives.
        options: Of ``redis-server``.
        port: Where it listens, also after a restart.
        tls: Whether it listens for TLS alone.
    """

    folder: Path
    options: tuple[str, ...] = ()
    port: int = attrs.field(factory=free_port)
    tls: bool = False
    _process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://localhost:{self.port}"

    @property
    def address(self) -> BusAddress:
        return BusAddress.parse(self.url)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        ports = ("--port", "0", "--tls-port") if self.tls else ("--port",)
        command = [REDIS or "", *ports, str(self.port), "--save", "", *self.options]
        self._process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            if "Ready to accept connections" in line:
                return
        raise AssertionError("".join(lines))

    def kill(self) -> None:
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None

    def freeze(self) -> None:
        """Let it do nothing, with all its connections open."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    async def ask(self, *arguments: str) -> str:
        """Ask it by its own client."""
        with trio.fail_after(60):
            done = await trio.run_process(
                ["redis-cli", "-p", str(self.port), *arguments], capture_stdout=True, cwd=self.folder
            )
        return done.stdout.decode().strip()

    async def until(self, *arguments: str, answer: str) -> None:
        """Ask until that is in its answer."""
        with trio.fail_after(60):
            while answer not in await self.ask(*arguments):  # noqa: ASYNC110 - of another process
                await trio.sleep(0.01)


@contextmanager
def start_redis(folder: Path, *options: str, tls: bool = False) -> Iterator[RedisServer]:
    """Run a Redis; at the end it is killed.

    Args:
        folder: For what it may leave.
        *options: Of ``redis-server``.
        tls: Whether it listens for TLS alone.
    """
    server = RedisServer(folder, options, tls=tls)
    try:
        server.start()
        yield server
    finally:
        server.kill()
