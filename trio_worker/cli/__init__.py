"""The commands. Each imports what it needs when it is called, so that ``--help`` is quick."""

from __future__ import annotations

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
    from trio_worker.cli.run import run_worker

    raise SystemExit(run_worker())
