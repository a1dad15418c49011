"""A handler that is any program: ``WORKER_HANDLER=command:./agent --flag``.

::

    stdin                  the query as JSON, one line
    WEBBUDDY_QUERY_…       ID, ATTEMPT, DEADLINE; SAVED where an earlier attempt has saved something;
                           CONTROL, where it may save and extend (see `trio_worker.handlers.control`)
    stdout                 the answer
    stderr                 lines for the query's log
    exit status            0: done; 75 (EX_TEMPFAIL): call me again in a minute; any other: failed
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

import attrs
import structlog
import trio

from trio_worker.context import Context
from trio_worker.errors import HandlerCrashed, HandlerError, RetryLater
from trio_worker.handlers.child import NotStarted, crash_of, run_child
from trio_worker.handlers.child_environment import child_environment
from trio_worker.handlers.child_output import Beginning, Lines
from trio_worker.handlers.importing import did_you_mean
from trio_worker.handlers.loading import OwnHandler
from trio_worker.masks import masks
from trio_worker.query import Query
from trio_worker.setting_kinds import COMMAND

__all__ = ["GRACE", "MOST_STDOUT", "RETRY_SECONDS", "Command", "parse_command"]

log = structlog.get_logger(__name__)

GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL."""

RETRY_SECONDS = 60.0
"""How long a query is put aside whose program exits with 75."""

MOST_STDOUT = 3 * 1024 * 1024
"""Bytes of stdout that are kept. More than any answer has: it is cut, with a note, where all answers are."""

_MARGIN = 2.0  # seconds from SIGKILL until the handler has certainly returned

# Not the program's fault, and perhaps over in a minute.
_FOR_NOW = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY}


@attrs.frozen
class Command(OwnHandler):
    """A program, called for each query anew.

    Attributes:
        words: The program and its arguments.
        directory: Where it works; absolute.
        grace: Seconds from SIGTERM to SIGKILL when it is cancelled.
    """

    words: tuple[str, ...]
    directory: Path
    grace: float = GRACE
    _running: dict[Context, trio.CancelScope] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    @property
    def patience(self) -> float:
        """Seconds that cancelling may take."""
        return self.grace + _MARGIN

    def kill(self, ctx: Context) -> None:
        """Kill the program of a cancelled call now, and its session, whatever is left of its grace."""
        if ctx in self._running:
            self._running[ctx].cancel()

    async def __call__(self, query: Query, ctx: Context) -> str:
        """Run the program on a query.

        Cancelled, it ends the program's session (SIGTERM, ``grace`` seconds, SIGKILL) before the
        cancellation goes on; nothing of the session is left behind, and no zombie.

        Returns:
            What was written to stdout, at most `MOST_STDOUT` bytes of it, without the last line break.

        Raises:
            HandlerCrashed: The program has failed, or can't be started.
            RetryLater: It has asked for that, or the system has no room for it at the moment.
        """
        answer = Beginning(MOST_STDOUT)
        lines = Lines(ctx.log)
        patience = self._running[ctx] = trio.CancelScope()
        try:
            status = await run_child(
                self.words,
                directory=self.directory,
                environ=_environment(os.environ, query, ctx),
                stdin=_json(query.to_json()) + b"\n",
                stdout=answer.add,
                stderr=lines.add,
                ctx=ctx,
                grace=self.grace,
                patience=patience,
            )
        except NotStarted as error:
            raise self._not_started(error.reason, query) from error
        finally:
            del self._running[ctx]
            lines.end()
        _check(status, lines)
        if answer.size > MOST_STDOUT:
            ctx.log(f"stdout: {answer.size} bytes, of which the first {MOST_STDOUT} were kept")
            return masks.hide_in_beginning(answer.end())
        return answer.end().removesuffix("\n")

    def _not_started(self, error: OSError, query: Query) -> HandlerCrashed | RetryLater:
        reason = error.strerror or str(error)
        if error.errno in _FOR_NOW:
            return RetryLater(RETRY_SECONDS, f"{self.words[0]} can't be started: {reason}")
        log.error("the program can't be started", program=self.words[0], reason=reason, query=query.id)
        return HandlerCrashed("not_started")


def _check(status: int, lines: Lines) -> None:
    if status == os.EX_TEMPFAIL:
        raise RetryLater(RETRY_SECONDS, lines.last or f"exit status {status}")
    if status != 0:
        raise crash_of(status, lines.tail)


def _environment(inherited: Mapping[str, str], query: Query, ctx: Context) -> dict[str, str]:
    environ = child_environment(inherited)
    environ["WEBBUDDY_QUERY_ID"] = str(query.id)
    environ["WEBBUDDY_QUERY_ATTEMPT"] = str(ctx.attempt)
    environ["WEBBUDDY_QUERY_DEADLINE"] = ctx.deadline.isoformat()
    if ctx.saved is not None:
        environ["WEBBUDDY_QUERY_SAVED"] = os.fsdecode(_json(ctx.saved))
    return environ


def _json(data: object) -> bytes:
    # A lone surrogate has no UTF-8. The escape that stands for it here is JSON's own.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


# --- From the setting to the program -------------------------------------------------------------


def parse_command(text: str, directory: Path) -> Command:
    """Read what stands after ``command:`` and look for the program. No shell ever reads it.

    Args:
        text: Words as in a shell, with its quotes and backslashes and nothing else of it.
        directory: Where the program will work, and a path to it begins.

    Raises:
        HandlerError: With one sentence: what is wrong, and the nearest name where there is one.
    """
    directory = directory.absolute()
    words = _words(text)
    if not words or not words[0]:
        raise _error(text, "expected a program and its arguments, such as command:./agent --flag")
    _check_program(words[0], text, directory)
    return Command(words, directory)


def _error(text: str, problem: str) -> HandlerError:
    return HandlerError([f"WORKER_HANDLER is {COMMAND + text!r}: {problem}"])


def _words(text: str) -> tuple[str, ...]:
    if "\0" in text:
        raise _error(text, "no argument of a program can hold a NUL")
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        quote = "quotation" in str(error)
        problem = "a quote is opened and not closed" if quote else "the backslash at its end escapes nothing"
        raise _error(text, problem) from None


def _check_program(program: str, text: str, directory: Path) -> None:
    if "/" not in program:
        found = shutil.which(program)
        if found is None:
            near = did_you_mean(program, _commands(program, directory))
            raise _error(text, f"there is no program {program} in PATH{near}")
    else:
        found = os.path.join(directory, program)
        _check_file(found, program, text, directory)
    _check_interpreter(found, program, text, directory)


def _check_file(found: str, program: str, text: str, directory: Path) -> None:
    if os.path.isdir(found):
        raise _error(text, f"{program} is a directory; expected a program")
    if not os.path.exists(found):
        place = "" if os.path.isabs(program) else f" in {directory}"
        raise _error(
            text, f"there is no {program}{place}{did_you_mean(program, _beside(program, directory))}"
        )
    if not os.path.isfile(found) or not os.access(found, os.X_OK):
        raise _error(text, f"{program} is not executable (chmod +x)")


def _check_interpreter(found: str, program: str, text: str, directory: Path) -> None:
    # Without it the system says of each query that there is no such file, and does not say which.
    try:
        with open(found, "rb") as file:
            first = file.readline(256)
    except OSError:
        return  # it may be executed, not read
    # Not all white space ends it: the carriage return of a file from Windows is part of the name.
    named = re.match(rb"#![ \t]*([^ \t\n]+)", first)
    if named and not os.access(os.path.join(directory, interpreter := os.fsdecode(named[1])), os.X_OK):
        raise _error(text, f"the first line of {program} names {interpreter!r}, which is no program here")


def _commands(program: str, directory: Path) -> list[str]:
    """What could be meant by a name without a slash: a file here of that very name, or else any program."""
    if os.path.isfile(directory / program):
        return [f"./{program}"]
    found = [name for folder in os.get_exec_path() for name in _executables(folder)]
    return found + [f"./{name}" for name in _executables(directory)]


def _beside(program: str, directory: Path) -> list[str]:
    folder = os.path.dirname(program)
    return [os.path.join(folder, name) for name in _executables(directory / folder)]


def _executables(folder: str | Path) -> list[str]:
    try:
        return [file.name for file in os.scandir(folder) if file.is_file() and os.access(file.path, os.X_OK)]
    except OSError:
        return []
