"""``trio-worker demo --server``: the embedded WebBuddy alone, for a worker that somebody else starts."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from urllib.parse import urlsplit

import click
import trio

from trio_worker import event_log
from trio_worker.cli.demo_queries import sight_of
from trio_worker.cli.demo_screen import PlainScreen
from trio_worker.cli.ending import Interruption, complain, run_command
from trio_worker.errors import leaves
from trio_worker.setting_kinds import bare_url
from trio_worker.testing import WebBuddy, serve_webbuddy

__all__ = ["answers_to_localhost", "run_server"]

FINE, WRONG = 0, 1

WORKER = 1  # the number of the account that sees all projects
HOST, NAME = "127.0.0.1", "localhost"
LOOK_SECONDS = 0.1  # between two looks at the queries
NAME_SECONDS = 1.0  # for a call by that name


def run_server(*, port: int, push_url: str) -> int:
    """Serve a WebBuddy until a signal, and show what becomes of its queries.

    Args:
        port: Where it listens; 0 is any free one.
        push_url: Where it pushes to.

    Returns:
        The exit code: 0 when it was stopped, 1 when it could not listen.
    """
    event_log.configure("warning", "pretty")
    return run_command(partial(_serve, port, push_url))


async def _serve(port: int, push_url: str, interruption: Interruption) -> int:
    webbuddy = WebBuddy(push_url=push_url)
    problems: list[str] = []
    async with AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(serve_webbuddy(webbuddy, f"{HOST}:{port}"))
        except* OSError as group:
            problems += [leaf.strerror or str(leaf) for leaf in leaves(group) if isinstance(leaf, OSError)]
        if problems:
            complain(f"can't listen at {HOST}:{port} ({'; '.join(problems)}): choose another --port")
            return WRONG
        with interruption.scope:
            if await answers_to_localhost(urlsplit(url).port or 0):
                # As WEBBUDDY_URL's default says it: a worker warns of a push that names another.
                webbuddy.url = url.replace(HOST, NAME)
            await _show(webbuddy, push_url)
    click.echo("WebBuddy is stopped.")
    return FINE


async def answers_to_localhost(port: int) -> bool:
    """Tell whether who calls ``localhost`` comes here: it may be no name, or somebody else may be at [::1].

    Args:
        port: Where we listen, at 127.0.0.1.
    """
    with trio.move_on_after(NAME_SECONDS):
        try:
            async with await trio.open_tcp_stream(NAME, port) as stream:
                return bool(stream.socket.getpeername()[0] == HOST)
        except OSError:
            pass
    return False


async def _show(webbuddy: WebBuddy, push_url: str) -> None:
    """Say how to reach it, then show what becomes of its queries. Never returns."""
    account = webbuddy.accounts[WORKER]
    shown = bare_url(push_url)
    click.echo(f"WebBuddy at {webbuddy.url}, until Ctrl-C. It pushes to {shown}. For a worker's .env:\n")
    click.echo(f"WEBBUDDY_URL={webbuddy.url}")
    click.echo(f"WORKER_USERNAME={account.username}")
    click.echo(f"WORKER_PASSWORD={account.password}\n")
    screen = PlainScreen()
    failed = 0
    while True:
        now = webbuddy.now()
        screen.show([sight_of(query, now) for query in webbuddy.queries.values()])
        if failed < webbuddy.pushes["failed"]:
            failed = webbuddy.pushes["failed"]
            click.echo(f"(nobody took the push at {shown}: a worker finds the query by polling)")
        await trio.sleep(LOOK_SECONDS)
