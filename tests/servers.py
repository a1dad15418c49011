"""Starts the real Django server for tests."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import attrs

__all__ = ["PASSWORD", "SIGNING_KEY", "DjangoServer", "start_django"]

SCRIPT = Path(__file__).parent / "django_webbuddy.py"

# As in the script, which is only imported by the process that it serves in.
SIGNING_KEY = "the contract suite signs tokens of its own with this key"
PASSWORD = "correct horse battery staple"  # of "worker", "member" (of project 1) and "stranger"


@attrs.frozen
class DjangoServer:
    """A real WebBuddy in a process of its own.

    Attributes:
        url: Where it listens.
        directory: Where its database and its log are.
        process: Its process.
    """

    url: str
    directory: Path
    process: subprocess.Popen[str]

    def execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Run SQL behind the server's back. The tables' names begin with ``webbuddy_``."""
        with closing(sqlite3.connect(self.directory / "db.sqlite3")) as database, database:
            return database.execute(statement, values).fetchall()

    @property
    def log(self) -> str:
        """Its log: what became of each push, and the tracebacks of 500s."""
        return (self.directory / "django.log").read_text()


@contextmanager
def start_django(directory: Path, *options: str) -> Iterator[DjangoServer]:
    """Run the Django server; at the end it is stopped.

    Args:
        directory: For its database and its log. A second start with the same one goes on with
            what is there.
        options: The script's, for example ``"--push-url", "http://127.0.0.1:8001"``.
    """
    with (directory / "stderr.log").open("a") as errors:
        command = [sys.executable, SCRIPT, "--dir", directory, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    with process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url, (directory / "stderr.log").read_text()
            yield DjangoServer(url, directory, process)
        finally:
            process.kill()  # it has nothing to put in order: SQLite outlives this
