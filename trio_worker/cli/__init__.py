"""The commands. Each imports what it needs when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType

import click

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trio-worker")
def main() -> None:
    """Answer WebBuddy's queries with your own function.

    Settings come from the environment, and from .env in the working directory.
    """


@main.command()
def run() -> None:
    """Run the worker until SIGTERM or Ctrl-C.

    Exit codes: 0 stopped as asked, 1 a bug, 2 wrong settings, 3 log-in refused at the start.
    """
    _leave_when_asked()
    from trio_worker.cli.run import run_worker

    raise SystemExit(run_worker())


@main.command()
@click.option(
    "--queries", default=12, show_default=True, type=click.IntRange(min=1), metavar="N", help="How many."
)
@click.option("--keep", is_flag=True, help="Leave WebBuddy and the worker running until Ctrl-C.")
def demo(queries: int, keep: bool) -> None:
    """Show a WebBuddy and a worker at work, with no server at hand.

    Exit codes: 0 every query ended as it should, 1 one did not, 130 Ctrl-C.
    """
    _begin()
    click.echo("Starting a WebBuddy and a worker.")
    from trio_worker.cli.demo import run_demo

    raise SystemExit(run_demo(queries=queries, keep=keep))


@main.command()
def check() -> None:
    """Say whether the worker would work, and what to do.

    Looks at settings, handler, WebBuddy, log-in, account, clock and port. Nothing is claimed. Exit
    codes: 0 all is well, 1 a problem, 2 wrong settings or handler, 3 log-in refused, 130 Ctrl-C.
    """
    _begin()
    from trio_worker.cli.check import check_setup

    raise SystemExit(check_setup())


@main.command()
@click.argument("text")
@click.option(
    "--project",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="The project's number.  [default: the account's]",
)
@click.option("--wait", is_flag=True, help="Show its log as it comes, and its answer.")
def submit(text: str, project: int | None, wait: bool) -> None:
    """Create a query, as a user of WebBuddy does.

    The result goes to stdout: the query's number or, with --wait, its answer; all else to stderr. Exit
    codes: 0 created or done, 1 failed or not reached, 2 wrong settings, 3 log-in refused, 130 Ctrl-C.
    """
    _begin()
    from trio_worker.cli.submit import submit_query

    raise SystemExit(submit_query(text, project=project, wait=wait))


def _leave_when_asked() -> None:
    """Make a stop before the worker runs a quiet one, with 0; later Trio's receiver takes the signals over.

    The handler's module is imported in that time, which may take long. Python's own KeyboardInterrupt
    would end in click's "Aborted!" and 1, and SIGTERM is nothing to a container's first process unless
    it is received. Not `sys.exit`: a SystemExit out of the handler's module is an error of that module.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        os._exit(0)  # there is nothing to clean up yet

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)


def _begin() -> None:
    """Make the process ready for whatever the operator and the terminal do to it.

    Ctrl-C ends it on the spot until the command proper has begun, and after it has ended: there is
    nothing to clean up then, while Python's KeyboardInterrupt would show a traceback out of some
    import. A letter that the terminal's encoding lacks is printed as "?", and is no reason to crash.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
