"""Starts the real WebBuddy, the Django server of the contract suite, as it would be deployed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import attrs

from benchmarks import noted_calls
from benchmarks.cores import ALL
from benchmarks.noted_calls import Call, read_calls
from benchmarks.postgres import USER
from benchmarks.process import ROOT, start, until
from benchmarks.webbuddy import TEXT

__all__ = ["PASSWORD", "PROCESSES", "RealWebBuddy", "open_real_webbuddy"]

PROCESSES = 4
"""Of Django, with a thread for each connection: as ``gunicorn --workers 4 --threads 64`` would have it."""
PASSWORD = "correct horse battery staple"  # noqa: S105 - as in tests/django_webbuddy.py

# Its author is "member"; in the dialect of both databases.
CREATE = """
INSERT INTO webbuddy_query (project_id, user_id, query_text, answer_text, status, query_created)
WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {number})
SELECT 1, 2, '{text}', '', 'queued', CURRENT_TIMESTAMP FROM numbers
"""


@attrs.frozen
class RealWebBuddy:
    """A WebBuddy of several processes.

    Attributes:
        url: Where it listens.
    """

    url: str
    _directory: Path
    _postgres: Path | None

    def create(self, number: int) -> None:
        """Create so many queries at once, by no call."""
        statement = CREATE.format(number=number, text=TEXT)
        if self._postgres is None:
            with closing(sqlite3.connect(self._directory / "db.sqlite3")) as database, database:
                database.execute(statement)
            return
        import psycopg  # of the `bench` extra

        with psycopg.connect(host=str(self._postgres), user=USER, dbname="postgres") as connection:
            connection.execute(statement)

    def calls(self) -> list[Call]:
        """Give all calls that were answered."""
        return read_calls(self._directory / "calls")


@contextmanager
def open_real_webbuddy(directory: Path, postgres: Path | None = None) -> Iterator[RealWebBuddy]:
    """Start one. It ends with the block.

    Args:
        directory: An empty one: for its database, if that is SQLite's, and its log.
        postgres: The folder of a PostgreSQL's socket; None: SQLite, as WebBuddy has it by default.
    """
    options: Sequence[str] = () if postgres is None else ("--postgres", str(postgres))
    script = ROOT / "tests" / "django_webbuddy.py"
    arguments = [str(script), "--dir", str(directory), "--processes", str(PROCESSES)]
    arguments += ["--middleware", "benchmarks.noted_calls.NotedCalls", *options]
    environ = {noted_calls.FILE: str(directory / "calls")}
    with start(arguments, directory=directory, cores=ALL, environ=environ) as process:
        until(lambda: process.printed().endswith("\n"), "the URL of Django")
        yield RealWebBuddy(process.printed().strip(), directory, postgres)
