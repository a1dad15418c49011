"""`ctx.token_usage`: what a model has used, from a handler of any kind to WebBuddy."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, PlainContext, Query
from trio_worker.desk import MOST_USAGES
from trio_worker.errors import Unavailable
from trio_worker.journal import MOST_USAGE, open_journal
from trio_worker.journal_file import JournalFile, StoredUsage
from trio_worker.masks import masks
from trio_worker.runners import inline
from trio_worker.settings import Settings
from trio_worker.state_folder import Address, StateFolder
from trio_worker.stop import Stop
from trio_worker.takeover import OwnJournal
from trio_worker.testing import WebBuddy, open_worker
from trio_worker.testing.run_handler import RunHandler
from trio_worker.testing.virtual_time import same_time, time_of_the_test
from trio_worker.token_usage import MOST_TEXT, TokenUsage
from trio_worker.usage_shipping import MOST_AGE, UsageShipping
from trio_worker.webbuddy import MISSING_FOR, open_webbuddy

CALL: Any = {"model_name": "gpt", "request": "Привет", "answer": "Здравствуйте"}
SENT = {
    "ai_agent_name": "test-worker",
    "request_to_ai_agent": "Привет",
    "ai_agent_answer": "Здравствуйте",
    "model_name": "gpt",
    "model_role": "assistant",
}


async def handle(query: Query, ctx: Context) -> str:
    """Call a model."""
    await ctx.token_usage(**CALL, total_tokens=5)
    return "ok"


# --- What is said ----------------------------------------------------------------------------------------


def body(**fields: Any) -> dict[str, Any]:
    """What WebBuddy is sent."""
    return TokenUsage(**{**CALL, **fields}).to_body("agent")


def test_what_is_sent() -> None:
    """What is not known is left out; zero is known."""
    assert body() == {**SENT, "ai_agent_name": "agent"}
    assert body(ai_agent_name="mine", prompt_tokens=0, user_prompt="Hi", system_prompt=" ") == {
        **SENT,
        "ai_agent_name": "mine",
        "prompt_tokens": 0,
        "user_prompt": "Hi",
    }


def test_nothing_that_webbuddy_refuses() -> None:
    """Blank texts, long names, NULs, lone surrogates, texts of any size."""
    sent = body(request=" \n", answer="a\0b\ud800", model_name=" " + "x" * 60, agent_prompt="Ж" * 10**6)
    assert (sent["request_to_ai_agent"], sent["ai_agent_answer"]) == ("—", "ab\ufffd")
    assert sent["model_name"] == "x" * 50
    size = len(json.dumps(sent["agent_prompt"], ensure_ascii=False).encode()) - 2
    assert MOST_TEXT - 100 < size <= MOST_TEXT
    assert "… (+" in sent["agent_prompt"][-20:]


def test_no_secrets() -> None:
    """Neither whole, nor the half that is left of one where a text is cut."""
    secret = "hunter2-" * 5
    masks.know("test", secret)
    try:
        assert body(request=f"it is {secret}")["request_to_ai_agent"] == "it is [MASKED]"
        assert body(model_name="x" * 45 + secret)["model_name"] == "x" * 45 + "[MASK"
        for shift in range(len(secret)):
            assert "hunter" not in body(answer="x" * (MOST_TEXT - shift) + secret)["ai_agent_answer"]
    finally:
        masks.forget("test")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ValueError, {"prompt_tokens": -1}),
        (ValueError, {"prompt_tokens": 2**31}),
        (TypeError, {"prompt_tokens": True}),
        (TypeError, {"prompt_tokens": 1.5}),
        (TypeError, {"prompt_tokens": "5"}),
        (TypeError, {"answer": None}),
        (TypeError, {"user_prompt": 5}),
        (ValueError, {"model_name": " \0"}),
        (ValueError, {"ai_agent_name": ""}),
    ],
)
def test_mistakes(kind: type[Exception], fields: dict[str, Any]) -> None:
    """They are the handler's, and say which value it is."""
    with pytest.raises(kind) as error:
        body(**fields)
    ((name, value),) = fields.items()
    assert f"{name} is {value!r}, expected a" in str(error.value)


def test_what_is_missing_or_unknown_is_named() -> None:
    """As Python does."""
    with pytest.raises(TypeError, match="'answer'"):
        TokenUsage(**{name: CALL[name] for name in ("model_name", "request")})
    with pytest.raises(TypeError, match="'tokens'"):
        TokenUsage(**{**CALL, "tokens": 5})


# --- The whole worker ------------------------------------------------------------------------------------


async def test_it_arrives_while_the_handler_works(autojump_clock: MockClock) -> None:
    """With the query and its project, once."""

    async def long(query: Query, ctx: Context) -> str:
        await handle(query, ctx)
        await trio.sleep(60)
        return "ok"

    async with open_worker(long) as worker:
        query = worker.webbuddy.add_query("x", project=2)
        await worker.webbuddy.until(lambda: bool(query.token_usage))
        assert query.status == "in_progress"
    assert query.token_usage == [{**SENT, "project": 2, "query": query.id, "total_tokens": 5}]


async def test_a_stop_sends_what_is_left(autojump_clock: MockClock) -> None:
    """Nothing waits for it before; a few tries are made then."""
    async with open_worker(handle) as worker:
        worker.webbuddy.fail_next(503, endpoint="token_usage", calls=3)
        query = await worker.ask("x")
        assert query.token_usage == []
    assert len(query.token_usage) == 1


async def test_an_outage_of_it_delays_nothing(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Queries go on, the worker is well, and all of it arrives when it is over."""
    async with open_worker(handle) as worker:
        worker.webbuddy.fail_next(503, endpoint="token_usage", calls=200)
        queries = [await worker.ask("x") for _ in range(100)]
        assert not any(query.token_usage for query in queries)
        assert worker.front.readiness.reasons == {}
        assert trio.current_time() < 100
        worker.webbuddy.faults.clear()
        await worker.webbuddy.until(lambda: all(query.token_usage for query in queries))
        assert worker.journal is not None
        await worker.webbuddy.until(lambda: worker.webbuddy.under_way == 0)
        await trio.sleep(1)
        assert worker.journal.usages == {}
    assert [len(query.token_usage) for query in queries] == [1] * 100
    said = [event for event in events if "token usage" in event["event"] and event["log_level"] != "debug"]
    assert [event["event"] for event in said] == [
        "a token usage could not be sent; it is kept",
        "token usage is sent again",
    ]


async def test_its_failures_say_nothing_of_webbuddy(webbuddy: WebBuddy, autojump_clock: MockClock) -> None:
    """Else a worker would not be ready, and results would overtake their logs, for the sake of it."""
    credentials = Settings(username="worker", password="secret", handler="a:b").credentials()
    async with (
        webbuddy.running(),
        open_webbuddy(
            url=webbuddy.url,
            credentials=credentials,
            request_timeout=30,
            transport=webbuddy.transport(),
        ) as client,
    ):
        webbuddy.fail_next(503, endpoint="token_usage")
        with pytest.raises(Unavailable):
            await client.add_token_usage({})
        assert (client.failed_at, client.failing_since) == (-math.inf, math.inf)


async def test_a_webbuddy_that_does_not_know_it(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """It is said once, and tried again after an hour only."""
    webbuddy = WebBuddy(now=time_of_the_test(), missing=frozenset({"token_usage"}))
    async with open_worker(handle, webbuddy=webbuddy) as worker:
        for _ in range(5):
            assert (await worker.ask("x")).status == "done"
        await trio.sleep(MISSING_FOR)
        assert worker.webbuddy.count("token_usage") == 1
        await worker.ask("x")
        await worker.webbuddy.until(lambda: worker.webbuddy.count("token_usage") == 2)
        webbuddy.missing = frozenset()
        await trio.sleep(MISSING_FOR)
        query = await worker.ask("x")
        await worker.webbuddy.until(lambda: bool(query.token_usage))
    said = [event for event in events if "token usage" in event["event"]]
    assert [(event["log_level"], event["event"]) for event in said] == [
        ("info", "this WebBuddy takes no token usage: none is sent")
    ]


async def test_one_that_is_refused(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """It is dropped; the next goes on."""

    async def twice(query: Query, ctx: Context) -> str:
        await handle(query, ctx)
        await handle(query, ctx)
        return "ok"

    async with open_worker(twice) as worker:
        worker.webbuddy.fail_next(
            400,
            endpoint="token_usage",
            headers={"Content-Type": "application/json"},
            body=b'{"query": ["Invalid pk"]}',
        )
        query = await worker.ask("x")
    assert len(query.token_usage) == 1
    assert worker.webbuddy.count("token_usage") == 2
    (said,) = [event for event in events if event["event"].startswith("WebBuddy refused a token usage")]
    assert "400" in said["reason"]


@attrs.define
class Poisoned(httpx.AsyncBaseTransport):
    """The way to a WebBuddy that can't save what has certain words in it: a plain 500.

    Attributes:
        way: The way.
        words: They.
        failed_at: When it failed.
    """

    way: httpx.AsyncBaseTransport
    words: bytes
    failed_at: list[float] = attrs.field(factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Hand the request on, or fail."""
        if request.url.path != "/api/token-usage/" or self.words not in await request.aread():
            return await self.way.handle_async_request(request)
        await trio.lowlevel.checkpoint()
        self.failed_at.append(trio.current_time())
        return httpx.Response(500, html="<h1>Server Error (500)</h1>", request=request)


@asynccontextmanager
async def shipping(
    webbuddy: WebBuddy, words: str, *answers: str
) -> AsyncIterator[tuple[UsageShipping, Poisoned]]:
    """Send these, to a WebBuddy that can't save what has such words in it."""
    with same_time():
        poisoned = Poisoned(webbuddy.transport(), words.encode())
        credentials = Settings(username="worker", password="secret", handler="a:b").credentials()
        async with (
            webbuddy.running(),
            open_webbuddy(
                url=webbuddy.url, credentials=credentials, request_timeout=30, transport=poisoned
            ) as client,
            open_journal(None, runner=inline) as journal,
            trio.open_nursery() as nursery,
        ):
            for usage in usages_of(webbuddy, *answers):
                journal.keep_usage(usage)
            sends = UsageShipping(client, journal, Stop(grace=30, reserve=5))
            nursery.start_soon(sends.run)
            yield sends, poisoned
            sends.close()


def usages_of(webbuddy: WebBuddy, *answers: str) -> list[StoredUsage]:
    """One for each, of a query of its own."""
    queries = [webbuddy.add_query("x", status="done", push=False) for _ in answers]
    return [
        StoredUsage.of(
            query.id,
            webbuddy.timestamp(query.created),
            {**SENT, "project": 1, "query": query.id, "ai_agent_answer": answer},
        )
        for query, answer in zip(queries, answers, strict=True)
    ]


def got(webbuddy: WebBuddy) -> list[str]:
    """The answers that it has."""
    return [usage["ai_agent_answer"] for query in webbuddy.queries.values() for usage in query.token_usage]


async def test_one_that_is_never_saved_holds_up_no_other(autojump_clock: MockClock) -> None:
    """Each gets through, also what comes later; the one is tried again, once in a while."""
    webbuddy = WebBuddy(now=time_of_the_test())
    async with shipping(webbuddy, "bad", "bad", "a", "b") as (sends, poisoned):
        with trio.fail_after(2):
            await webbuddy.until(lambda: got(webbuddy) == ["a", "b"])
        for number in range(60):
            await trio.sleep(60)
            sends.journal.keep_usage(*usages_of(webbuddy, f"later {number}"))
        await trio.sleep(60)
        assert len(got(webbuddy)) == 62
        assert ["bad" in usage.body for usage in sends.journal.usages.values()] == [True]
        assert 60 < len(poisoned.failed_at) < 240


async def test_one_that_is_saved_in_the_end(autojump_clock: MockClock) -> None:
    """Once somebody has mended WebBuddy."""
    webbuddy = WebBuddy(now=time_of_the_test())
    async with shipping(webbuddy, "bad", "bad") as (_, poisoned):
        await trio.sleep(3600)
        poisoned.words = b"nothing"
        with trio.fail_after(120):
            await webbuddy.until(lambda: got(webbuddy) == ["bad"])


async def test_when_none_is_saved_webbuddy_is_left_in_peace(autojump_clock: MockClock) -> None:
    """A hundred of them ask no more often than one: it is WebBuddy that is ill."""
    webbuddy = WebBuddy(now=time_of_the_test())
    async with shipping(webbuddy, "bad", *["bad"] * 100) as (_, poisoned):
        await trio.sleep(3600)
        assert 60 < len(poisoned.failed_at) < 240
        poisoned.words = b"nothing"
        with trio.fail_after(240):
            await webbuddy.until(lambda: len(got(webbuddy)) == 100)


async def test_at_the_end_one_that_is_not_saved_holds_up_no_other(autojump_clock: MockClock) -> None:
    """What is put off is tried once more, behind the others."""
    webbuddy = WebBuddy(now=time_of_the_test())
    async with shipping(webbuddy, "bad", "bad") as (sends, _):
        await trio.sleep(600)
        for usage in usages_of(webbuddy, "a", "b"):
            sends.journal.keep_usage(usage)
        sends.close()
        with trio.fail_after(5):
            await webbuddy.until(lambda: got(webbuddy) == ["a", "b"])
    assert len(sends.journal.usages) == 1


async def test_a_handler_in_a_loop(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """The first 200 of an attempt, and one line."""

    async def loop(query: Query, ctx: Context) -> str:
        for _ in range(MOST_USAGES + 10):
            await handle(query, ctx)
        return "ok"

    async with open_worker(loop) as worker:
        query = await worker.ask("x")
    assert len(query.token_usage) == MOST_USAGES
    assert len([event for event in events if "no more of this attempt" in event["event"]]) == 1


async def test_after_the_end_it_does_nothing(autojump_clock: MockClock) -> None:
    """Nobody who was left behind talks to WebBuddy."""
    kept: list[Context] = []

    async def keep(query: Query, ctx: Context) -> str:
        kept.append(ctx)
        return "ok"

    async with open_worker(keep) as worker:
        query = await worker.ask("x")
        await handle(Query(id=query.id), kept[0])
        assert worker.journal is not None
        assert worker.journal.usages == {}


async def test_it_is_bounded(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """What WebBuddy does not take fills neither memory nor disk."""
    async with open_journal(None, runner=inline) as journal:
        big = {"answer": "x" * (MOST_USAGE // 4)}
        usages = [StoredUsage.of(1, "", big) for _ in range(4)]
        for usage in usages:
            journal.keep_usage(usage)
        assert len(journal.usages) == 3
        journal.forget_usage(usages[0])
        journal.keep_usage(usages[3])
        assert list(journal.usages.values()) == usages[1:]
    (said,) = [event for event in events if "no more is kept" in event["event"]]
    assert said["waiting"] == 3


# --- Over a death ----------------------------------------------------------------------------------------


async def test_a_death_loses_none(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What is in the journal of a dead process is sent by the next; its query may be over long ago."""
    webbuddy = WebBuddy(now=time_of_the_test())
    query = webbuddy.add_query("x", status="done", push=False)
    leave_behind(tmp_path, webbuddy, usage_of(webbuddy, query.id, query.created))
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(lambda: bool(query.token_usage))
    assert query.token_usage == [{**SENT, "project": 1, "query": query.id}]
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path):
        await trio.sleep(60)
    assert webbuddy.count("token_usage") == 1


async def test_returned_is_on_disk(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Whoever looks into the file when `token_usage` has returned finds it."""
    found: list[int] = []
    paths: list[Path] = []

    async def look(query: Query, ctx: Context) -> str:
        webbuddy.down = True
        await handle(query, ctx)
        file = JournalFile(paths[0], read_only=True)
        found.append(len(file.load().usages))
        file.close()
        webbuddy.down = False
        return "ok"

    webbuddy = WebBuddy(now=time_of_the_test())
    async with open_worker(look, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        await trio.sleep(1)
        assert worker.journal is not None
        paths.append(Path(worker.journal.path))
        query = await worker.ask("x")
    assert found == [1]
    assert len(query.token_usage) == 1


async def test_what_does_not_get_through_waits_for_the_next_start(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A stop is not held up by it."""
    webbuddy = WebBuddy(now=time_of_the_test())
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        webbuddy.fail_next(503, endpoint="token_usage", calls=1000)
        query = await worker.ask("x")
        worker.stop.ask()
        with trio.fail_after(5):
            await worker.ended.wait()
    webbuddy.faults.clear()
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(lambda: bool(query.token_usage))


@pytest.mark.parametrize("case", ["deleted", "another's", "too old"])
async def test_what_has_waited_too_long(
    tmp_path: Path, autojump_clock: MockClock, case: str, events: list[EventDict]
) -> None:
    """It is not put down to a query that has the number now, and not kept for ever."""
    webbuddy = WebBuddy(now=time_of_the_test())
    query = webbuddy.add_query("x", status="done", push=False)
    created = query.created - (5 if case == "another's" else 0)
    waited = MOST_AGE + 1 if case == "too old" else 60
    leave_behind(tmp_path, webbuddy, usage_of(webbuddy, query.id, created, waited=waited))
    if case == "deleted":
        webbuddy.delete_query(query.id)
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        await trio.sleep(60)
        assert worker.journal is not None
        assert worker.journal.usages == {}
    assert webbuddy.count("token_usage") == 0
    (said,) = [event for event in events if "token usage" in event["event"]]
    assert said["query"] == query.id


def usage_of(webbuddy: WebBuddy, number: int, created: float, *, waited: float = 60.0) -> StoredUsage:
    """What a dead process has noted."""
    return StoredUsage(
        id="one",
        query_id=number,
        created=webbuddy.timestamp(created),
        noted_at=webbuddy.now() - waited,
        body=json.dumps({"project": 1, "query": number, **SENT}),
    )


def leave_behind(state_dir: Path, webbuddy: WebBuddy, *usages: StoredUsage) -> None:
    """Note that, and die."""
    own = OwnJournal.open(StateFolder(state_dir, Address(webbuddy.url, "worker")), "normal")
    own.file.apply([usage.insertion() for usage in usages])
    own.file.close()
    assert own.lock is not None
    own.lock.release()


def test_a_journal_of_an_earlier_version(tmp_path: Path) -> None:
    """It is read, looked at and written to; the table comes with the first that opens it."""
    path = tmp_path / "old.db"
    file = JournalFile(path)
    file.apply([("DROP TABLE usage", ())])
    file.close()
    looked_at = JournalFile(path, read_only=True)
    assert looked_at.load().usages == []
    looked_at.close()
    file = JournalFile(path)
    usage = StoredUsage.of(2**70, "", {"a": "Ж\ud800"})
    assert file.is_empty()
    file.apply([usage.insertion(), usage.insertion()])
    assert file.load().usages == [usage]
    assert not file.is_empty()
    file.apply([usage.removal()])
    assert file.is_empty()
    file.close()


# --- Handlers of other kinds -----------------------------------------------------------------------------

EXPECTED = [{**SENT, "project": 1, "query": 1, "input_tokens": 7}]


def plain(query: Query, ctx: PlainContext) -> str:
    """Call a model, in a thread or in a process."""
    ctx.token_usage(**CALL, input_tokens=7)
    return "ok"


def plain_mistake(query: Query, ctx: PlainContext) -> str:
    """Get a number wrong."""
    try:
        ctx.token_usage(**CALL, input_tokens=-7)
    except ValueError as error:
        return str(error)
    return "taken"


@pytest.mark.parametrize("kind", ["async", "plain", "process", "command"])
def test_every_kind(kind: str, tmp_path: Path, run_handler: RunHandler) -> None:
    """The same comes of it."""

    async def in_trio(query: Query, ctx: Context) -> str:
        await ctx.token_usage(**CALL, input_tokens=7)
        return "ok"

    program = tmp_path / "agent"
    line = json.dumps({"token_usage": {**CALL, "input_tokens": 7}})
    program.write_text(f"#!/bin/sh\necho '{line}' >\"$WEBBUDDY_QUERY_CONTROL\"\necho ok\n", encoding="utf-8")
    program.chmod(0o755)
    handlers: dict[str, Any] = {
        "async": in_trio,
        "plain": plain,
        "process": f"process:{__name__}:plain",
        "command": f"command:{program}",
    }
    result = run_handler(handlers[kind], "x")
    assert (result.status, result.answer_text, result.token_usage) == ("done", "ok", EXPECTED)


def test_a_mistake_in_a_process(run_handler: RunHandler) -> None:
    """The handler sees it as it would see it in the worker."""
    answer = run_handler(f"process:{__name__}:plain_mistake", "x").answer_text
    assert answer == "token_usage: input_tokens is -7, expected a whole number, 0 to 2147483647"


def test_a_mistake_of_a_program(tmp_path: Path, run_handler: RunHandler) -> None:
    """It is one line in the query's log."""
    program = tmp_path / "agent"
    program.write_text(
        textwrap.dedent("""\
            #!/bin/sh
            echo '{"token_usage": {"model_name": 5}}' >"$WEBBUDDY_QUERY_CONTROL"
            echo ok
        """)
    )
    program.chmod(0o755)
    result = run_handler(f"command:{program}", "x")
    assert (result.status, result.token_usage) == ("done", [])
    assert "line 1, can't be followed" in result.logs[0]
