"""The commands. Each imports what it needs when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import atexit
import io
import os
import re
import signal
import sys
from types import FrameType

import click

from trio_worker.cli.age import read_age

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trio-worker")
def main() -> None:
    """Answer WebBuddy's queries with your own function.

    Settings come from the environment, and from .env in the working directory.
    """
    # What is closed of stdin, stdout and stderr would be what is opened next: a socket, in the way of the
    # stdin of a process that is started.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)


@main.command()
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    metavar="N",
    help="So many processes share NUM_WORKERS and WORKER_BIND; one that dies is replaced.",
)
@click.option("--member", hidden=True)  # how the processes of --processes are started; see cli/member.py
def run(processes: int | None, member: str | None) -> None:
    """Run the worker until SIGTERM or Ctrl-C.

    Exit codes: 0 stopped as asked, 1 a crash (a bug, or a handler that could not be stopped), 2 wrong
    settings, 3 log-in refused at the start, 4 a journal that can't be used.
    """
    _leave_when_asked()
    if processes is not None:
        from trio_worker.cli.supervisor import run_processes

        raise SystemExit(run_processes(processes))
    from trio_worker.cli.run import run_worker

    raise SystemExit(run_worker(member))


def _read_push_url(_ctx: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    from trio_worker.setting_kinds import URL

    if text is None:
        return None
    # With a user and a password, as in WebBuddy's FASTAPI_URL: that is how it sends the token.
    bare = re.sub("^(https?://)[^/@]*@", r"\1", text)
    try:
        URL.read(bare)
    except ValueError:
        raise click.BadParameter(
            "expected http:// or https://, perhaps push:TOKEN@, a host, perhaps a port"
        ) from None
    return text.rstrip("/")


@main.command()
@click.option(
    "--queries", default=12, show_default=True, type=click.IntRange(min=1), metavar="N", help="How many."
)
@click.option("--keep", is_flag=True, help="Leave WebBuddy and the worker running until Ctrl-C.")
@click.option("--server", is_flag=True, help="Serve that WebBuddy alone until Ctrl-C, for a worker of yours.")
@click.option(
    "--port", type=click.IntRange(1, 65_535), metavar="N", help="Where --server listens.  [default: any free]"
)
@click.option(
    "--push-url",
    callback=_read_push_url,
    metavar="URL",
    help="Where --server pushes to, as in FASTAPI_URL.  [default: http://localhost:8001]",
)
@click.pass_context
def demo(
    ctx: click.Context, queries: int, keep: bool, server: bool, port: int | None, push_url: str | None
) -> None:
    """Show a WebBuddy and a worker at work, with no server at hand.

    Exit codes: 0 every query ended as it should, 1 one did not, 130 Ctrl-C. With --keep and --server 0 at
    Ctrl-C.
    """
    source = ctx.get_parameter_source("queries")
    if server and (keep or source is click.core.ParameterSource.COMMANDLINE):
        raise click.UsageError("--server creates no queries: leave out --queries and --keep")
    if not server and (port is not None or push_url is not None):
        raise click.UsageError("--port and --push-url are for --server")
    _begin()
    if server:
        from trio_worker.cli.demo_server import run_server

        raise SystemExit(run_server(port=port or 0, push_url=push_url or "http://localhost:8001"))
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
@click.option("--drain", is_flag=True, help="All that are queued, not only the next.")
@click.option("--query", metavar="TEXT", help="A made-up query, without any WebBuddy.")
@click.option("--verbose", is_flag=True, help="Log each step.")
def once(drain: bool, query: str | None, verbose: bool) -> None:
    """Work on the next query, and exit: for cron, or to try a handler.

    With --query its log goes to stderr and its answer to stdout. Exit codes: 0 done, or nothing is
    queued; 1 WebBuddy can't be asked, something is left in the journal, or the query of --query failed; 2
    wrong settings, 3 log-in refused, 4 a journal that can't be used, 75 the query of --query is to be tried
    again later (RetryLater), 130 Ctrl-C.
    """
    if drain and query is not None:
        raise click.UsageError("--drain and --query exclude each other")
    if query is not None and not query.strip():
        raise click.UsageError("--query: expected a text that is not blank")
    _leave_when_asked()
    if query is not None:
        from trio_worker.cli.offline import run_offline

        raise SystemExit(run_offline(query, verbose=verbose))
    from trio_worker.cli.once import run_once

    raise SystemExit(run_once(every=drain, verbose=verbose))


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


@main.command(short_help="List the queries that are in_progress.")
@click.option(
    "--older-than",
    callback=read_age,
    metavar="AGE",
    help="Only those that have been so for as long: 90m, 2h, 1d.",
)
@click.option("--requeue", is_flag=True, help="Put them back into the queue.")
@click.option("--fail", is_flag=True, help="End them as failed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def stuck(older_than: float | None, requeue: bool, fail: bool, yes: bool) -> None:
    """List the queries that are in_progress, oldest first, with the number of their log entries.

    Those that a worker on this machine holds, in the same WORKER_STATE_DIR, are marked and never
    changed; nor are those that a dead one has left there ("cut off here"): the next that starts takes
    them up, unless you let go of them by trio-worker outbox --drop ID. Exit codes: 0 all is done, 1 not
    reached or not all changed, 2 wrong settings, 3 log-in refused, 130 Ctrl-C.
    """
    if requeue and fail:
        raise click.UsageError("--requeue and --fail exclude each other")
    _begin()
    from trio_worker.cli.stuck import handle_stuck

    raise SystemExit(
        handle_stuck(
            older_than=older_than, action="requeue" if requeue else "fail" if fail else None, sure=yes
        )
    )


@main.command(short_help="Show what workers hold here; end dead letters.")
@click.argument("numbers", nargs=-1, type=int, metavar="[ID]...")
@click.option("--retry", is_flag=True, help="Have them tried again.")
@click.option("--drop", is_flag=True, help="Forget them, after asking; also what a dead worker has left.")
@click.option(
    "--export", type=click.Path(dir_okay=False), metavar="FILE", help="Write them as JSON; - is stdout."
)
@click.option("--all", "every", is_flag=True, help="All dead letters, instead of IDs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def outbox(
    numbers: tuple[int, ...], retry: bool, drop: bool, export: str | None, every: bool, yes: bool
) -> None:
    """Show the queries that workers hold here, in full with ID; retry, drop or export dead letters.

    A dead letter is a query whose result WebBuddy will never take. ID is its query's number. What a
    dead worker has left, and the next would take up, is dropped by its ID only. Works while workers
    run. Exit codes: 0 done, 1 there is nothing to do or it could not be done, 2 wrong settings, 4
    a journal can't be read, 130 Ctrl-C.
    """
    possible = {"retry": retry, "drop": drop, "export": export is not None}
    wishes = [name for name, wished in possible.items() if wished]
    if len(wishes) > 1:
        raise click.UsageError("one at a time: --retry, --drop or --export")
    if not wishes and every:
        raise click.UsageError("say what is to be done with them all: --retry, --drop or --export FILE")
    if wishes and bool(numbers) == every:
        raise click.UsageError("say which: the numbers of the queries, or --all")
    _begin()
    from trio_worker.cli.outbox import Wish, open_outbox

    wish = Wish(wishes[0] if wishes else None, numbers, every, export or "-", ask=not yes)  # type: ignore[arg-type]
    raise SystemExit(open_outbox(wish))


@main.command(short_help="Say how the worker here is, and what to do.")
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(watch: bool, as_json: bool) -> None:
    """Ask the worker that listens at WORKER_BIND whether it is alive and ready.

    Exit codes: 0 it is both, 1 it is not, or does not answer, 2 wrong settings, 130 Ctrl-C.
    """
    _begin()
    from trio_worker.cli.status import show_status

    raise SystemExit(show_status(watch=watch, as_json=as_json))


@main.command()
def pause() -> None:
    """Have the workers here take nothing new, until "resume".

    Those on this machine with the same WORKER_STATE_DIR, WEBBUDDY_URL and account, also such as start
    later. What they hold goes on. Exit codes: 0 done, 2 wrong settings, 4 a state folder that can't be used.
    """
    _begin()
    from trio_worker.cli.orders import pause_workers

    raise SystemExit(pause_workers())


@main.command()
def resume() -> None:
    """Have paused workers take queries again.

    Exit codes: 0 done, 2 wrong settings, 4 a state folder that can't be used.
    """
    _begin()
    from trio_worker.cli.orders import resume_workers

    raise SystemExit(resume_workers())


@main.command(short_help="Have the workers here end when all is done.")
@click.option("--wait", is_flag=True, help="Until they have ended.")
def drain(wait: bool) -> None:
    """Have the workers that run here take nothing new, and end when what they run has ended.

    However long that takes; a SIGTERM still stops them within WORKER_SHUTDOWN_GRACE. Those on this machine
    with the same WORKER_STATE_DIR, WEBBUDDY_URL and account. Exit codes: 0 done, 1 none runs, 2 wrong
    settings, 4 a state folder that can't be used.
    """
    _begin()
    from trio_worker.cli.orders import drain_workers

    raise SystemExit(drain_workers(wait=wait))


def _leave_when_asked() -> None:
    """Make a stop before the worker runs a quiet one, with 0; later Trio's receiver takes the signals over.

    The handler's module is imported in that time, which may take long. Python's own KeyboardInterrupt
    would end in click's "Aborted!" and 1, and SIGTERM is nothing to a container's first process unless
    it is received. Not `sys.exit`: a SystemExit out of the handler's module is an error of that module.

    At the very end Python gives them back to the system, for which each is deadly: a second Ctrl-C would make
    a failure of a stop that went well. So they are ignored from then on.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        os._exit(0)  # there is nothing to clean up yet

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
        atexit.register(signal.signal, number, signal.SIG_IGN)


def _begin() -> None:
    """Make the process ready for whatever the operator and the terminal do to it.

    Ctrl-C ends it on the spot until the command proper has begun, and after it has ended: there is
    nothing to clean up then, while Python's KeyboardInterrupt would show a traceback out of some
    import. A letter that the terminal's encoding lacks is printed as "?", and is no reason to crash.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
