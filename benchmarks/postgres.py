"""Starts a PostgreSQL of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from benchmarks.process import NotReadyError, until

__all__ = ["USER", "missing", "open_postgres"]

USER = "webbuddy"
INSTALLED = "/usr/lib/postgresql"  # Debian's, with a folder for each version and none of them on the path
SERVANTS = ("postgres", "nobody")
"""Whom it runs as where we are root: it refuses to be root's."""


def missing() -> str | None:
    """Say why there can be none; None: there can be one."""
    if _program("initdb") is None or _program("postgres") is None:
        return "PostgreSQL is not installed"
    if find_spec("psycopg") is None:
        return "pip install -e '.[bench]'"
    if os.geteuid() == 0 and _servant() is None:
        return f"PostgreSQL does not run as root, and there is no account {' or '.join(SERVANTS)}"
    return None


@contextmanager
def open_postgres(directory: Path) -> Iterator[Path]:
    """Create a database and serve it, with PostgreSQL's defaults but for the network. It ends with the block.

    Args:
        directory: An empty one, which is given to the account that PostgreSQL runs as.

    Yields:
        The folder of its socket, by which ``USER`` is let in without a password.
    """
    account = _servant()
    who: dict[str, int | list[int]] = {}
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = directory / "data"
    options = ["--username", USER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
    made = subprocess.run(
        [_program("initdb") or "", "--pgdata", data, *options],
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
        **who,
    )
    if made.returncode:
        raise NotReadyError(f"initdb failed:\n{made.stderr}")
    output = directory / "postgres.log"
    with output.open("wb") as file:
        server = subprocess.Popen(
            [_program("postgres") or "", "-D", data, "-k", directory, "-c", "listen_addresses="],
            cwd=directory,
            stdout=file,
            stderr=file,
            **who,
        )
    try:
        # It says so here, in one line of this file, only when it lets clients in.
        state = data / "postmaster.pid"
        until(lambda: state.exists() and "ready" in state.read_text(), "PostgreSQL's start", within=30)
        yield directory
    except NotReadyError as error:
        raise NotReadyError(f"{error}\nPostgreSQL printed:\n{output.read_text()}") from error
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: nothing of it is wanted any more
        server.wait()


def _program(name: str) -> str | None:
    found = shutil.which(name)
    others = sorted(Path(INSTALLED).glob(f"*/bin/{name}"))
    return found or (str(others[-1]) if others else None)


def _servant() -> pwd.struct_passwd | None:
    if os.geteuid():
        return None
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return next((accounts[name] for name in SERVANTS if name in accounts), None)
