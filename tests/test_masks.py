"""Secrets that the process knows show nowhere: in no log, answer, failure or journal."""

from __future__ import annotations

import io
import json
import logging
import random
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from trio_worker import Context, Query, QueryFailed, RetryLater, event_log
from trio_worker.credentials import Credentials
from trio_worker.execution import MOST_ANSWER
from trio_worker.handlers.child_output import Lines
from trio_worker.launch import Launch
from trio_worker.masks import MASK, MOST_PASSING, Masks, masks
from trio_worker.phrases import ENGLISH
from trio_worker.plain_text import fit
from trio_worker.testing import WebBuddy, open_worker, trio_time

SECRET = "hunter2-the-secret"


@pytest.fixture
def known() -> Iterator[str]:
    masks.know("test", SECRET)
    yield SECRET
    masks.forget("test")


# --- What is replaced ------------------------------------------------------------------------------------


def test_each_secret_is_replaced_wherever_it_stands() -> None:
    """Several of them, next to each other, within words."""
    own = Masks()
    assert own.know("a", "password-1", "password-2", None, "") == []
    assert own.hide("xpassword-1password-2 password-") == f"x{MASK}{MASK} password-"


def test_of_two_that_begin_alike_the_longer_goes_whole() -> None:
    """Nothing of it is left behind."""
    own = Masks()
    own.know("a", "password", "password-and-more")
    assert own.hide("password-and-more") == MASK


def test_short_ones_are_no_secrets() -> None:
    """They would be found in ordinary words; whoever gave them is told."""
    own = Masks()
    assert own.know("a", "short", "1234567", "12345678") == ["short", "1234567"]
    assert own.hide("short 1234567 12345678") == f"short 1234567 {MASK}"


def test_a_new_one_takes_the_place_of_the_old() -> None:
    """Which is not forgotten yet: a handler that was given it is still at work."""
    own = Masks()
    own.know("token", "token-number-1")
    own.know("token", "token-number-2")
    assert own.hide("token-number-1 token-number-2") == f"{MASK} {MASK}"
    assert own.of("token") == ("token-number-2",)
    own.forget("token")
    assert own.hide("token-number-1 token-number-2") == f"{MASK} token-number-2"


def test_what_is_known_does_not_grow() -> None:
    """Tokens change every few hours, and projects come and go, for years. What is asked for again stays."""
    own = Masks()
    own.know("password", "the-password")
    sizes = []
    for number in range(3 * MOST_PASSING):
        own.know_passing("asked for again and again", f"token-of-project-{number}")
        if number % MOST_PASSING == MOST_PASSING - 1:
            sizes.append((len(own._shapes), len(own._by_bytes), len(own._short)))
    assert {shapes for shapes, _, _ in sizes} == {MOST_PASSING + 1}
    assert max(numbers for _, numbers, _ in sizes) <= 8 * (MOST_PASSING + 1)
    assert {short for _, _, short in sizes} == {1}
    assert own.hide("token-of-project-8000") == "token-of-project-8000"
    for secret in ("the-password", "asked for again and again", f"token-of-project-{3 * MOST_PASSING - 1}"):
        assert own.hide(f"({secret})") == f"({MASK})"


@pytest.mark.parametrize(
    "secret", ["12345678", "fourteen-chars", "fifteen-chars-1", "пароль-длинный", "\ud800" * 8]
)
def test_at_any_place(secret: str) -> None:
    """Whatever stands before it, alone or among many."""
    own = Masks()
    own.know("a", secret)
    own.know_passing(*(f"token-of-project-{number}" for number in range(100)))
    for before in range(40):
        for letter in ("x", "я"):
            assert own.hide(letter * before + secret + "y") == letter * before + MASK + "y"


def test_a_large_answer_is_searched_once() -> None:
    """Not once for each of a thousand projects: the event loop stands still meanwhile."""
    own = Masks()
    text = "".join(random.Random(1).choices(string.printable, k=2_600_000))  # noqa: S311 - no secret

    def took() -> float:
        def once() -> float:
            began = time.process_time()
            assert own.hide(text) == text
            return time.process_time() - began

        return min(once() for _ in range(3))

    own.know("password", "0123456789-0123456789")
    with_one = took()
    own.know_passing(*(f"{number * number * 7919:x}-of-a-project-{number:x}" for number in range(2_000)))
    assert took() < 10 * with_one


@pytest.mark.parametrize("filler", [0, 1, 3_999, 4_000, 4_010, 4_020, 8_000])
def test_one_that_begins_with_another_across_chunks(filler: int) -> None:
    """The shorter one is whole already when the rest of the longer comes."""
    secrets = "secret-1", "secret-1234567890"
    for name, secret in zip("ab", secrets, strict=True):
        masks.know(name, secret)
    try:
        for secret in secrets:
            text = "x" * filler + f"token={secret}"
            for at in range(filler, len(text) + 1):
                lines: list[str] = []
                splitter = Lines(lines.append)
                for part in (text[:at], text[at:], "y" * 5_000, "\n"):
                    splitter.add(part.encode())
                splitter.end()
                assert "".join(lines) == "x" * filler + f"token={MASK}" + "y" * 5_000
    finally:
        masks.forget("a")
        masks.forget("b")


def test_one_that_overlaps_itself_across_chunks() -> None:
    """A line of nothing else goes out all the same."""
    masks.know("test", "abababab")
    lines: list[str] = []
    splitter = Lines(lines.append)
    try:
        for _ in range(1_000):
            splitter.add(b"ab" * 50)
        assert len("".join(lines)) > 50_000
        splitter.end()
    finally:
        masks.forget("test")
    # What is left where such a line is cut is less than one.
    assert set("".join(lines).split(MASK)) <= {"", "ab", "abab", "ababab"}


@pytest.mark.parametrize("secret", ['quo"te\\back\nline', "пароль-длинный"])
def test_as_json_and_repr_write_it(secret: str) -> None:
    """Not only as it is."""
    own = Masks()
    own.know("a", secret)
    for text in (secret, json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret)):
        assert MASK in own.hide(text)
        assert secret[:4] not in own.hide(text)


def test_a_key_of_several_lines() -> None:
    """It is logged line by line; and a file's last line break is not part of it."""
    own = Masks()
    own.know("a", "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n")
    assert own.hide("now MIIEvQIBADANBg") == f"now {MASK}"


@pytest.mark.parametrize("cut", [3990, 3995, 4000, 7995])
def test_across_the_parts_of_a_long_line(cut: int, known: str) -> None:
    """A program's stderr comes in pieces of any size, and a long line goes out in several."""
    lines: list[str] = []
    splitter = Lines(lines.append)
    text = "x" * cut + known + "y" * 9000
    for start in range(0, len(text), 7):
        splitter.add(text[start : start + 7].encode())
    splitter.end()
    assert len(lines) > 3
    assert "".join(lines) == "x" * cut + MASK + "y" * 9000


async def test_before_an_answer_is_cut(autojump_clock: MockClock, known: str) -> None:
    """Half a secret would not be found."""
    cut_at = fit("x" * 2 * MOST_ANSWER, most=MOST_ANSWER, note=ENGLISH.cut).count("x")

    async def handle(query: Query, ctx: Context) -> str:
        return "x" * (cut_at - len(known) // 2) + known + "y" * MOST_ANSWER

    async with open_worker(handle) as worker:
        answer = (await worker.ask("x")).answer_text
    assert known[:5] not in answer


# --- In a query ------------------------------------------------------------------------------------------


def read_journals(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*.journal*")]


async def test_in_the_log_and_the_answer(autojump_clock: MockClock, known: str, tmp_path: Path) -> None:
    """Before the journal, too."""
    journals: list[bytes] = []

    async def handle(query: Query, ctx: Context) -> str:
        ctx.log(f"connecting with {known}")
        await trio.sleep(0.5)
        journals.extend(read_journals(tmp_path))
        return f"the password is {known}"

    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        query = await worker.ask("x")
    assert query.answer_text == f"the password is {MASK}"
    assert f"connecting with {MASK}" in " ".join(query.logs)
    assert known not in " ".join(query.logs)
    assert any(f"connecting with {MASK}".encode() in journal for journal in journals)
    assert not any(known.encode() in journal for journal in journals)


@pytest.mark.parametrize("error", [QueryFailed(f"no {SECRET}"), RetryLater(5, f"no {SECRET}")])
async def test_in_a_reason(error: Exception, autojump_clock: MockClock, known: str) -> None:
    """Of a failure, and of being put aside."""

    async def handle(query: Query, ctx: Context) -> str:
        if ctx.attempt == 1:
            raise error
        return "ok"

    async with open_worker(handle) as worker:
        query = await worker.ask("x")
    said = " ".join([query.answer_text, *query.logs])
    assert known not in said
    assert f"no {MASK}" in said


async def test_tokens_and_a_projects_secrets(autojump_clock: MockClock) -> None:
    """Once they are known: a handler that shows them shows masks."""

    async def handle(query: Query, ctx: Context) -> str:
        project = await ctx.project()
        assert project is not None
        return f"{project.jira_token} {tokens[-1]}"

    tokens: list[str] = []
    async with open_worker(handle) as worker:
        worker.webbuddy.project_settings[1] = {"jira_token": "jira-0123456789"}
        await worker.webbuddy.until(lambda: worker.webbuddy.count("login") == 1)
        tokens += [
            secret for secrets in masks._secrets.values() for secret in secrets if secret.count(".") == 2
        ]
        query = await worker.ask("x")
    assert query.answer_text == f"{MASK} {MASK}"


# --- In the operator's log -------------------------------------------------------------------------------


@pytest.fixture(params=["json", "pretty"])
def operators_log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    before = structlog.get_config(), root.handlers[:], root.level
    event_log.configure("info", request.param, stream)
    yield stream
    root.handlers[:], root.level = before[1], before[2]
    structlog.configure(**before[0])
    logging.captureWarnings(False)


def test_in_events_values_and_tracebacks(operators_log: io.StringIO, known: str) -> None:
    """Ours, and those of libraries and of the handler's own logging."""
    thing: dict[str, Any] = {"deep": [known]}
    error = ValueError(f"wrong: {known}")
    structlog.get_logger().error(f"event {known}", thing=thing, exc_info=error)
    logging.getLogger("library").warning("connecting to %s", known)
    written = operators_log.getvalue()
    assert known not in written
    assert written.count(MASK) >= 4


# --- What is known ---------------------------------------------------------------------------------------


def test_the_worker_knows_its_password() -> None:
    """From the moment at which it has it."""
    Credentials("worker", "a-long-password")
    assert masks.hide("a-long-password") == MASK


def test_the_variables_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from `.env`; one that is not set, or is too short, is a warning that does not show it."""
    (tmp_path / ".env").write_text(
        "WORKER_USERNAME=worker\nWORKER_PASSWORD=secret\nWORKER_HANDLER=trio_worker.handlers:echo\n"
        "WORKER_MASK=API_KEY, MISSING,SHORT\nAPI_KEY=key-0123456789\nSHORT=abc\n"
    )
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    launch = Launch.prepare(tmp_path)
    assert masks.hide("key-0123456789 abc") == f"{MASK} abc"
    missing, short = [warning for warning in launch.warnings if "WORKER_MASK" in warning]
    assert missing == "WORKER_MASK names MISSING, which is not set"
    assert short.startswith("WORKER_MASK names SHORT, whose value is shorter than 8 characters")
    assert "abc" not in short
    masks.forget("API_KEY")
