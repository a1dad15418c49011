"""Each kind of handler, from ``WORKER_HANDLER`` to an answer, in a real process of the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Ended, run_command
from trio_worker.testing import WebBuddy, serve_webbuddy

AGENT = """
import os
from contextlib import asynccontextmanager


async def asynchronous(query, ctx):
    ctx.log(f"in process {os.getpid()}")
    return "answer to " + query.query_text


def plain(query, ctx):
    ctx.log(f"in process {os.getpid()}")
    return f"answer to {query.query_text} of {ctx.project().name}"


def dies(query, ctx):
    os.kill(os.getpid(), 11)


@asynccontextmanager
async def opened():
    print("opened")
    yield asynchronous
    print("closed")


@asynccontextmanager
async def closed():
    raise OSError("no such model")
    yield
"""
PROGRAM = """#!/bin/sh
echo "attempt $WEBBUDDY_QUERY_ATTEMPT of $WEBBUDDY_QUERY_ID" >&2
test -z "$WORKER_PASSWORD" || echo "that is a secret"
echo "answer of $1"
"""


async def once(directory: Path, handler: str, text: str = "this") -> Ended:
    (directory / "agent.py").write_text(AGENT)
    (directory / "agent.sh").write_text(PROGRAM)
    (directory / "agent.sh").chmod(0o755)
    return await run_command(directory, "once", "--query", text, webbuddy_url="", WORKER_HANDLER=handler)


@pytest.mark.parametrize(
    ("handler", "answer", "logged"),
    [
        ("agent:asynchronous", "answer to this\n", "in process"),
        ("agent:plain", "answer to this of Portal\n", "in process"),
        ("agent:opened", "opened\nanswer to this\nclosed\n", "in process"),
        ("process:agent:plain", "answer to this of Portal\n", "in process"),
        ("command:./agent.sh 'a word'", "answer of a word\n", "attempt 1 of 1"),
    ],
)
async def test_each_kind_answers(tmp_path: Path, handler: str, answer: str, logged: str) -> None:
    """The same worker, the same log, the same end of the query."""
    ended = await once(tmp_path, handler)
    assert (ended.code, sorted(ended.out.split("\n"))) == (0, sorted(answer.split("\n"))), ended.err
    assert logged in ended.err


async def test_a_handler_that_takes_its_process_with_it(tmp_path: Path) -> None:
    """Not the worker: its query has failed, and says why."""
    ended = await once(tmp_path, "process:agent:dies")
    assert ended.code == 1
    assert ended.err.rstrip().endswith("The agent's process died (SIGSEGV).")


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        ("agent:plan", "module agent ("),
        ("process:agent:plan", "has no plan; did you mean plain?"),
        ("process:agent:asynchronous", "process: takes plain functions"),
        ("process:agent", "expected module:function"),
        ("agent:closed", "opening it raised OSError: no such model"),
        ("command:", "expected module:function"),
        ("command:./agent.sx", "did you mean ./agent.sh?"),
        ("command:./agent.py", "not executable"),
        ("command:./agent.sh 'a", "a quote is opened and not closed"),
    ],
)
async def test_what_is_wrong_is_one_sentence(tmp_path: Path, handler: str, said: str) -> None:
    """Exit 2 at the start, with the nearest name; `run` starts in the same way."""
    ended = await once(tmp_path, handler)
    assert ended.code == 2, ended.err
    (sentence,) = ended.err.strip().splitlines()
    assert sentence.startswith("trio-worker: WORKER_HANDLER is ")
    assert said in sentence


@pytest.mark.parametrize(
    ("handler", "described"),
    [
        ("process:agent:plain", "✓ handler        process:agent:plain, a plain function, run in a process"),
        ("process:agent:plan", "✗ handler        WORKER_HANDLER is 'process:agent:plan': module agent"),
        ("command:./agent.sh x", "✓ handler        command:./agent.sh x, a program"),
        ("agent:opened", "✓ handler        agent:opened, opened when the worker starts"),
    ],
)
async def test_check_says_what_it_is(tmp_path: Path, handler: str, described: str) -> None:
    """A process is started, and ended again; what opens a handler is not opened."""
    await once(tmp_path, "agent:plain")
    async with serve_webbuddy(WebBuddy()) as url:
        ended = await run_command(tmp_path, "check", webbuddy_url=url, WORKER_HANDLER=handler)
    assert described in ended.out, ended.out + ended.err
