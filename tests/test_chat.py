"""A language model as handler: a query, a model that answers or does not, and what its author reads."""

from __future__ import annotations

import re
from typing import Any, get_args

import attrs
import httpcore
import httpx
import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.chats import KEY, open_chat, settings
from trio_worker import Project
from trio_worker.handlers.chat.cause import cause_of
from trio_worker.handlers.chat.failures import Why
from trio_worker.handlers.chat.opening import open_agent
from trio_worker.handlers.chat.prompt import BUILT_IN
from trio_worker.handlers.chat.reply import ToolCall
from trio_worker.handlers.chat.sentences import ENGLISH, RUSSIAN, Sentences
from trio_worker.testing import Failing, ModelServer, RunHandler, Saying, Streaming, ToolRequest

LONG = "word " * 60


def happened(events: list[EventDict], text: str) -> list[EventDict]:
    return [event for event in events if text in event["event"]]


# --- An answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sockets", [False, True])
async def test_an_answer(sockets: bool) -> None:
    """It is streamed from the server, in this program and over a real socket, and is the query's answer."""
    server = ModelServer(key=KEY)
    server.will(Saying(text="  It is up.\n\n- answers with 200\n- \u2028asks for a password\n"))
    with trio.fail_after(30):
        async with open_chat(server, sockets=sockets) as chat:
            query = await chat.ask("Проверь страницу входа")
    assert (query.status, query.answer_text) == (
        "done",
        "It is up.\n\n- answers with 200\n- \u2028asks for a password",
    )
    (request,) = server.requests
    assert request["messages"] == [
        {"role": "system", "content": BUILT_IN},
        {"role": "user", "content": "Проверь страницу входа"},
    ]
    assert (request["model"], request["stream"]) == ("test-model", True)
    assert request["stream_options"] == {"include_usage": True}
    assert not request.keys() & {"temperature", "max_tokens", "tools"}
    assert KEY not in " ".join(query.logs)


async def test_what_is_set_is_asked_for(autojump_clock: MockClock) -> None:
    """Temperature, length and the operator's own prompt, and no key where none is set."""
    values = {"temperature": 0.0, "max_tokens": 99, "system_prompt": "Be kind.", "api_key": None}
    async with open_chat(ModelServer(), chat=values) as chat:
        await chat.ask()
        (request,) = chat.server.requests
        assert (request["temperature"], request["max_tokens"]) == (0.0, 99)
        assert chat.said()[0]["content"] == "Be kind."
        assert "authorization" not in chat.server.headers[0]


async def test_the_projects_context_is_in_the_prompt(autojump_clock: MockClock) -> None:
    """What people have written about the project, behind the prompt; nothing of its secrets."""
    async with open_chat(ModelServer()) as chat:
        chat.webbuddy.project_settings[1] = {
            "project_name": "Portal",
            "project_context": "The shop is at http://shop.test",
            "jira_token": "jira-secret-token",
        }
        await chat.ask()
        prompt = chat.said()[0]["content"]
    assert prompt == (
        f"{BUILT_IN}\n\nWhat people have written about the project Portal:\n\nThe shop is at http://shop.test"
    )


async def test_a_project_that_can_not_be_read_fails_nothing(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """The query goes on without it, and both its author and the operator are told."""
    async with open_chat(ModelServer()) as chat:
        chat.webbuddy.fail_next(503, endpoint="project")
        query = await chat.ask()
    assert query.status == "done"
    assert "going on without them" in " ".join(query.logs)
    assert happened(events, "the project's settings can't be read")


async def test_progress_is_a_few_lines(autojump_clock: MockClock) -> None:
    """A thousand pieces in 500 s are a handful of lines, the first when the answer begins."""
    server = ModelServer()
    server.will(Saying(text="word " * 1000, first=20, pause=0.5))
    async with open_chat(server, processing_timeout=1000) as chat:
        query = await chat.ask()
    lines = [line for entry in query.logs for line in entry.split(" · ") if "The model" in line]
    assert "has begun to write" in lines[0]
    assert 5 <= len(lines) <= 9
    assert "characters so far" in lines[-1]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>Hm.\nLet me see.</think>\n\nIt is up.", "It is up."),
        ("\n<think></think>It is up.", "It is up."),
        ("Hm, let me see.\n</think>\n\nIt is up.", "It is up."),
        ("Write <think>x</think> first.", "Write <think>x</think> first."),
    ],
)
async def test_thoughts_are_left_out(text: str, answer: str, autojump_clock: MockClock) -> None:
    """What a model has thought aloud before its answer is none of it; in the middle it is."""
    server = ModelServer()
    server.will(Saying(text=text))
    async with open_chat(server) as chat:
        assert (await chat.ask()).answer_text == answer


@pytest.mark.parametrize("answer", [Saying(text="Up.", ends=False), Saying(text="Up.", finish="")])
async def test_a_stream_without_one_of_its_ends(answer: Saying, autojump_clock: MockClock) -> None:
    """Some servers send no [DONE], some no finish_reason: the answer is whole all the same."""
    server = ModelServer()
    server.will(answer)
    async with open_chat(server) as chat:
        assert (await chat.ask()).answer_text == "Up."


@pytest.mark.parametrize("is_later", [False, True])
async def test_a_server_that_knows_no_stream_options(
    is_later: bool, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """It is asked once without, and from then on always without, which is said once."""
    server = ModelServer()
    async with open_chat(server) as chat:
        if is_later:  # another server has taken its place
            await chat.ask("zero")
        server.refuses = frozenset({"stream_options"})
        first, second = await chat.ask("one"), await chat.ask("two")
    assert (first.answer_text, second.answer_text) == ("You said: one", "You said: two")
    assert ["stream_options" in request for request in server.requests[-3:]] == [True, False, False]
    (event,) = happened(events, "wants to be asked in other words")
    assert (event["asks_usage"], "stream_options" in event["reason"]) == (False, True)


async def test_a_stray_refusal_teaches_nothing(autojump_clock: MockClock) -> None:
    """What has worked, and was not named, is asked for again: else no tokens would ever be counted."""
    server = ModelServer()
    server.will(Saying(text="Up."), Failing(status=400, message="upstream hiccup"))
    async with open_chat(server) as chat:
        for _ in range(3):
            assert (await chat.ask()).status == "done"
    assert ["stream_options" in request for request in server.requests] == [True, True, False, True]


async def test_a_model_that_wants_max_completion_tokens(autojump_clock: MockClock) -> None:
    """OpenAI's newer models want the same by another name."""
    server = ModelServer(refuses=frozenset({"max_tokens"}))
    async with open_chat(server, chat={"max_tokens": 50}) as chat:
        assert (await chat.ask("one")).answer_text == "You said: one"
    assert [request.get("max_completion_tokens") for request in server.requests] == [None, 50]
    assert "stream_options" in server.requests[-1]


async def test_text_that_can_not_be_encoded(run_handler: RunHandler, autojump_clock: MockClock) -> None:
    """Half an emoji in the query and in the project's context is replaced; the query does not fail by it."""
    server = ModelServer()
    project = Project(id=1, name="P\ud83d", context="shop \ude00")
    async with server.running(), open_agent(settings(), way=server.transport()) as handle:
        result = await run_handler.here(handle, "up \ud83d?", project_settings=project)
    prompt, asked = server.requests[0]["messages"]
    assert asked["content"] == "up \ufffd?"
    assert prompt["content"].endswith("project P\ufffd:\n\nshop \ufffd")
    assert result.answer_text == "You said: up \ufffd?"


async def test_a_model_without_a_name(autojump_clock: MockClock) -> None:
    """A server may name it by what WebBuddy would not take: it has the operator's name then."""
    server = ModelServer()
    chunk = b'data: {"model":" \\u0000","choices":[{"delta":{"content":"Up."},"finish_reason":"stop"}]}\n\n'
    server.will(Streaming(pieces=[chunk]))
    async with open_chat(server) as chat:
        query = await chat.ask()
        assert query.answer_text == "Up."
        await chat.webbuddy.until(lambda: bool(query.token_usage), within=60)
    assert query.token_usage[0]["model_name"] == "test-model"


async def test_what_was_used_is_told(autojump_clock: MockClock) -> None:
    """The last chunk's numbers go to WebBuddy."""
    server = ModelServer()
    server.will(Saying(text="Up.", usage=(100, 20)))
    async with open_chat(server) as chat:
        query = await chat.ask()
        await chat.webbuddy.until(lambda: bool(chat.webbuddy.count("token_usage", 201)), within=60)
        (usage,) = query.token_usage
    assert (usage["query"], usage["model_name"], usage["ai_agent_answer"]) == (query.id, "test-model", "Up.")
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (100, 20, 120)
    assert usage["precached_prompt_tokens"] == 3
    assert usage["system_prompt"] == BUILT_IN


# --- The model is away ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        Failing(status=429, message="Slow down", retry_after=7),
        Failing(status=500),
        Failing(status=503, body="<html>Bad gateway</html>"),
        Saying(text="Up.", cut_after=0),
        Saying(text="Up.", cut_after=1),
        Saying(text="Up.", error_after=1),
    ],
    ids=["429", "500", "503", "cut before the head", "cut before the first word", "error before it"],
)
async def test_a_model_that_is_away_is_asked_again(
    trouble: Saying | Failing, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Within the query's time, with its author and the operator told."""
    server = ModelServer()
    server.will(trouble, trouble)
    began = trio.current_time()
    async with open_chat(server) as chat:
        query = await chat.ask("one")
        took = trio.current_time() - began
    assert query.answer_text == "You said: one"
    assert len(server.requests) == 3
    assert "not available just now; again in" in " ".join(query.logs)
    assert len(happened(events, "the model server is away or busy")) == 1 + 1  # the second at debug
    assert happened(events, "the model server answers again")
    if isinstance(trouble, Failing) and trouble.retry_after:
        assert took >= 2 * trouble.retry_after


async def test_refused_connections(autojump_clock: MockClock) -> None:
    """They are as good as a 503."""
    server = ModelServer(down=True)
    async with open_chat(server) as chat, trio.open_nursery() as nursery:

        async def come_back() -> None:
            await trio.sleep(5)
            server.down = False

        nursery.start_soon(come_back)
        query = await chat.ask("one")
    assert query.answer_text == "You said: one"


async def test_a_model_that_stays_away_puts_the_query_aside(autojump_clock: MockClock) -> None:
    """Half of its time is spent on asking again; then it holds no consumer, and comes back later."""
    server = ModelServer(down=True)
    async with open_chat(server, processing_timeout=100, num_workers=1) as chat:
        began = trio.current_time()
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        assert 20 < trio.current_time() - began < 80
        server.down = False
        await chat.webbuddy.until(lambda: query.status == "done")
    assert "The model is not available just now." in " ".join(query.logs)
    assert query.answer_text == "You said: one"
    pauses = [int(found) for found in re.findall(r"again in (\d+) s", " ".join(query.logs))]
    assert pauses == sorted(set(pauses))  # each line says a longer pause
    assert pauses[0] > 0


async def test_a_long_retry_after_is_not_waited_for(autojump_clock: MockClock) -> None:
    """What goes beyond the query's time puts it aside at once, for that long at least."""
    server = ModelServer()
    server.will(Failing(status=429, retry_after=1800))
    async with open_chat(server, processing_timeout=100) as chat:
        began = trio.current_time()
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        assert trio.current_time() - began < 20
        await chat.webbuddy.until(lambda: query.status == "done")
        assert trio.current_time() - began >= 1800


@pytest.mark.parametrize("hangs", [Saying(text="Up.", first=10_000), Streaming(pieces=[], then="silence")])
async def test_a_server_that_takes_the_request_and_hangs(
    hangs: Saying | Streaming, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Before its head or behind it: it is left after half of the query's time, and no query fails by it."""
    server = ModelServer()
    server.will(hangs)
    began = trio.current_time()
    async with open_chat(server, processing_timeout=100) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        assert 45 < trio.current_time() - began < 60
        await server.until(lambda: server.given_up == 1)
        await chat.webbuddy.until(lambda: query.status == "done")
    assert "The model is not available just now." in " ".join(query.logs)
    (event,) = happened(events, "the model server is away or busy")
    assert "not begun to answer" in event["reason"]


@pytest.mark.parametrize(
    "sign", [b": PROCESSING\n\n", b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n']
)
async def test_a_server_that_has_begun_has_all_the_time(sign: bytes, autojump_clock: MockClock) -> None:
    """Any sign of it counts: whoever waits in its line, or thinks for long, is at work."""
    server = ModelServer()
    server.will(Streaming(pieces=[sign], then="silence"))
    began = trio.current_time()
    async with open_chat(server, processing_timeout=100) as chat:
        query = await chat.ask()
        assert trio.current_time() - began >= 100
    assert (query.status, "time limit" in query.answer_text) == ("failed", True)


async def test_it_is_put_aside_for_longer_each_time(autojump_clock: MockClock) -> None:
    """From a minute, doubled by each attempt, up to an hour, with as much again by chance at the most."""
    server = ModelServer(down=True)
    async with open_chat(server, processing_timeout=10, max_retries=9) as chat:
        query = await chat.ask()
    pauses = [float(found) for found in re.findall(r"Put aside for ([0-9.]+) s", " ".join(query.logs))]
    assert len(pauses) == 9
    for attempt, pause in enumerate(pauses):
        least = min(60 * 2**attempt, 3_600)
        assert least <= pause <= 1.5 * least + 1
    assert query.status == "failed"
    assert "asked to try again later too often" in query.answer_text


async def test_a_very_late_attempt(run_handler: RunHandler, autojump_clock: MockClock) -> None:
    """WORKER_MAX_RETRIES has no limit that a doubling could reach."""
    server = ModelServer(down=True)
    async with server.running(), open_agent(settings(), way=server.transport()) as handle:
        result = await run_handler.here(handle, "up?", attempt=1_100)
    assert (result.status, result.answer_text) == ("in_progress", "The model is not available just now.")


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (ModelServer(key="another-key"), "refuses the key (401 Unauthorized: Incorrect API key)"),
        (ModelServer(models=("other",)), "404 Not Found: The model 'test-model' does not exist"),
    ],
    ids=["key", "model"],
)
async def test_what_the_operator_has_to_mend_burns_no_query(
    server: ModelServer, reason: str, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """With a wrong key or model the query is put aside at once; its author reads nothing of what is wrong."""
    async with open_chat(server) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        assert len(server.requests) <= 1
        (event,) = happened(events, "the model can't be used")
        assert (event["log_level"], event["reason"]) == ("error", reason)
        server.key, server.models = KEY, ("test-model",)
        await chat.webbuddy.until(lambda: query.status == "done")
    shown = " ".join(query.logs) + query.answer_text
    assert "the operator has been told" in shown
    assert not any(word in shown for word in (KEY, "Unauthorized", "Not Found", "model.test", "test-model"))
    assert KEY not in repr(events)


@pytest.mark.parametrize("status", [402, 405, 501])
async def test_what_is_no_model_server_or_is_not_paid(
    status: int, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """No more credit, or a server that takes no POST there: no query fails by that, nor is it waited for."""
    server = ModelServer()
    server.will(Failing(status=status, message="No."))
    async with open_chat(server) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        assert len(server.requests) == 1
    (event,) = happened(events, "the model can't be used")
    assert event["reason"].startswith(f"{status} ")


async def test_a_server_that_has_moved(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """The operator reads where to; the key is not sent there."""
    server = ModelServer()
    server.will(Failing(status=307, body="", location="https://model.test/v1/chat/completions"))
    async with open_chat(server) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
    (event,) = happened(events, "the model can't be used")
    assert event["reason"] == (
        "307 Temporary Redirect, a redirect to https://model.test/v1/chat/completions: set CHAT_BASE_URL to "
        "where that is"
    )


@pytest.mark.parametrize("status", [408, 409, 425])
async def test_what_passes_by_itself(status: int, autojump_clock: MockClock) -> None:
    """These 4xx say nothing of the request either."""
    server = ModelServer()
    server.will(Failing(status=status))
    async with open_chat(server) as chat:
        assert (await chat.ask("one")).answer_text == "You said: one"
    assert len(server.requests) == 2


async def test_a_quota_that_is_used_up(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """OpenAI's 429 for that is no request to wait a little."""
    server = ModelServer()
    server.will(Failing(status=429, message="You exceeded your quota", code="insufficient_quota"))
    async with open_chat(server) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        assert len(server.requests) == 1
    (event,) = happened(events, "the model can't be used")
    assert event["reason"] == "429 Too Many Requests: You exceeded your quota"


async def test_one_trouble_after_another_is_told(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """A wrong model behind a wrong key is another thing to mend; the same again is not said again."""
    server = ModelServer(key="another-key")
    async with open_chat(server, num_workers=2) as chat:
        queries = [chat.webbuddy.add_query(text) for text in ("one", "two")]
        await chat.webbuddy.until(lambda: all("Put aside" in " ".join(query.logs) for query in queries))
        server.key, server.models = KEY, ("other",)
        await chat.webbuddy.until(lambda: bool(server.requests))
        server.models = ("test-model",)
        await chat.webbuddy.until(lambda: all(query.status == "done" for query in queries))
    told = [
        event["reason"][:20] for event in happened(events, "the model can't") if event["log_level"] == "error"
    ]
    assert told == ["refuses the key (401", "404 Not Found: The m"]
    assert happened(events, "the model can be used again")


async def test_queries_do_not_wait_for_each_other() -> None:
    """They share the client, and each has a connection of its own."""
    server = ModelServer()
    server.will(*3 * [Saying(text="Up.", first=3_600)])
    with trio.fail_after(30), trio.CancelScope() as done:
        async with open_chat(server, sockets=True, num_workers=3) as chat:
            for text in ("one", "two", "three"):
                chat.webbuddy.add_query(text)
            await server.until(lambda: len(server.requests) == 3)
            done.cancel()


@pytest.mark.parametrize(
    ("pieces", "seconds"),
    [([b'{"detail": "Not here"}'], 10), ([b'{"detail": "Not here"}' + b" " * 70_000], 0)],
)
async def test_an_error_that_does_not_end(
    pieces: list[bytes], seconds: int, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """It is read for ten seconds, and as far as an error may be long."""
    server = ModelServer()
    server.will(Streaming(pieces=pieces, then="silence", content_type="application/json"))
    began = trio.current_time()
    async with open_chat(server) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        assert seconds <= trio.current_time() - began < seconds + 5
    (event,) = happened(events, "the model can't be used")
    assert event["reason"] == "answers with no stream, but with 'application/json': Not here"


async def test_a_short_key_is_masked(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """It is too short for the masks of the log, so that this is done where servers quote it."""
    server = ModelServer()
    server.will(Failing(status=401, message="Incorrect key: k12"))
    async with open_chat(server, chat={"api_key": "k12"}) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
    (event,) = happened(events, "the model can't be used")
    assert event["reason"] == "refuses the key (401 Unauthorized: Incorrect key: [MASKED])"


@pytest.mark.parametrize(("said", "shown"), [("", "ReadError: reset by peer"), ("gone", "ReadError: gone")])
def test_what_is_behind_an_error(said: str, shown: str) -> None:
    """Where httpx has no words of its own, the operator reads those of the system."""
    error = httpx.ReadError(said)
    error.__cause__ = httpcore.ReadError()
    error.__cause__.__context__ = OSError("reset by peer")
    assert cause_of(error) == shown
    assert cause_of(trio.ClosedResourceError()) == "ClosedResourceError"


async def test_other_words_are_tried_once(autojump_clock: MockClock) -> None:
    """A server that refuses both names is not asked for ever."""
    server = ModelServer()
    server.will(*2 * [Failing(status=400, message="neither max_tokens nor max_completion_tokens")])
    async with open_chat(server, chat={"max_tokens": 9}) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        assert len(server.requests) == 2


async def test_an_answer_with_calls_at_the_end(autojump_clock: MockClock) -> None:
    """When the rounds are used up, what it says counts, though it calls once more."""

    async def look() -> str:
        """Look."""
        return "seen"

    again = [ToolRequest("look")]
    server = ModelServer()
    server.will(Saying(calls=again), Saying(text="It is up.", calls=again))
    async with open_chat(server, tools=[look], chat={"max_steps": 1}) as chat:
        query = await chat.ask()
    assert (query.status, query.answer_text) == ("done", "It is up.")
    assert "has used up its rounds of tool calls (1)" in " ".join(query.logs)


def test_a_long_name_of_a_tool() -> None:
    """OpenAI takes 64 characters, and refuses all that follows when one has more."""
    message = ToolCall("a", "look at" + "x" * 100, "{}").to_message()
    assert message["function"]["name"] == "look_at" + "x" * 57


# --- No answer -----------------------------------------------------------------------------------

USED_UP = "The model had used up its greatest length before it began to answer."

NONE = [
    (Saying(refusal="I can't help with that."), "The model refuses to answer: I can't help with that."),
    (Saying(text="Well", finish="content_filter"), "The model's content filter has stopped the answer."),
    (
        Failing(status=400, message="maximum context length", code="context_length_exceeded"),
        "The query, with what it needs, is too long for the model.",
    ),
    (Saying(text="", finish="length"), USED_UP),
    (Saying(text="<think>It may be", finish="model_length"), USED_UP),
    (
        Saying(text="It is", finish="length"),
        "The model's answer was cut off at its greatest length. It began:\n\nIt is",
    ),
    (
        Failing(status=400, message="It was filtered.", code="content_filter"),
        "The model's content filter has stopped the answer.",
    ),
    (Saying(text=" \n"), "The model has given an empty answer."),
    (Saying(text="<think>I never stop"), "The model has given an empty answer."),
    (Saying(text=LONG, cut_after=9), "The model's answer broke off in the middle. Please ask again."),
    (Saying(text=LONG, error_after=9), "The model's answer broke off in the middle. Please ask again."),
    (
        Saying(text=LONG, finish="", ends=False),
        "The model's answer broke off in the middle. Please ask again.",
    ),
    (
        Failing(status=413, body="too much"),
        "The query, with what it needs, is too long for the model.",
    ),
]


# As these servers send them: vLLM until 0.9, and twice since; SGLang; llama.cpp before it had a type for
# that, since then, and with the status that it had first.
FULL = [
    (
        400,
        '{"object":"error","message":"This model\'s maximum context length is 4096 tokens. However, you '
        "requested 4472 tokens (376 in the messages, 4096 in the completion). Please reduce the length of "
        'the messages or completion.","type":"BadRequestError","param":null,"code":400}',
    ),
    (
        400,
        "{\"error\":{\"message\":\"'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's "
        "maximum context length is 4096 tokens and your request has 10 input tokens (9000 > 4096 - 10)."
        '","type":"BadRequestError","param":null,"code":400}}',
    ),
    (
        400,
        '{"object":"error","message":"The decoder prompt (length 10127) is longer than the maximum model '
        'length of 8192. Make sure that it is not.","type":"BadRequestError","param":null,"code":400}',
    ),
    (
        400,
        '{"object":"error","message":"The input (61709 tokens) is longer than the model\'s context length '
        '(40960 tokens).","type":"BadRequestError","param":null,"code":400}',
    ),
    (
        400,
        '{"error":{"code":400,"message":"the request exceeds the available context size. try increasing the '
        'context size or enable context shift","type":"invalid_request_error"}}',
    ),
    (
        400,
        '{"error":{"code":400,"message":"request (4476 tokens) exceeds the available context size (4096 '
        'tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":4476,'
        '"n_ctx":4096}}',
    ),
    (
        500,
        '{"error":{"code":500,"message":"no room","type":"exceed_context_size_error","n_prompt_tokens":1407,'
        '"n_ctx":256}}',
    ),
]


@pytest.mark.parametrize(("status", "body"), FULL)
async def test_a_full_context_window(status: int, body: str, autojump_clock: MockClock) -> None:
    """By what vLLM, SGLang and llama.cpp say of it: it is not asked for again, and not in another way."""
    server = ModelServer()
    server.will(Saying(text="Up."), Failing(status=status, body=body))
    async with open_chat(server, chat={"max_tokens": 9000}) as chat:
        await chat.ask()
        query = await chat.ask()
    assert query.status == "failed"
    assert query.answer_text == "The query, with what it needs, is too long for the model."
    assert len(server.requests) == 1 + 1


@pytest.mark.parametrize(("status", "body"), FULL[:2])
async def test_a_longest_answer_that_never_fits(
    status: int, body: str, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Before the model has ever answered it is not the query that is too long, but CHAT_MAX_TOKENS."""
    server = ModelServer()
    server.will(Failing(status=status, body=body))
    async with open_chat(server, chat={"max_tokens": 9000}) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        assert len(server.requests) == 1
        await chat.webbuddy.until(lambda: query.status == "done")
    (event,) = happened(events, "the model can't be used")
    assert event["reason"].endswith("; CHAT_MAX_TOKENS is 9000")


async def test_the_operator_reads_which_limit_it_was(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Whether a model has thought too long or written too long, its longest answer is set somewhere."""
    server = ModelServer()
    server.will(Saying(text="<think>It may be", finish="length"))
    async with open_chat(server) as chat:
        await chat.ask()
    (event,) = happened(events, "no answer of the model")
    assert "CHAT_MAX_TOKENS" in event["reason"]


@pytest.mark.parametrize(("answer", "sentence"), NONE)
async def test_no_answer_has_a_sentence(
    answer: Saying | Failing, sentence: str, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Each way to end without an answer is a sentence for the author and an event for the operator."""
    server = ModelServer()
    server.will(answer)
    async with open_chat(server) as chat:
        query = await chat.ask()
    assert (query.status, query.answer_text) == ("failed", sentence)
    (event,) = happened(events, "no answer of the model")
    assert event["reason"]
    assert len(server.requests) == 1


async def test_a_request_that_is_not_taken(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Also without what not all servers know: the reason is the operator's."""
    server = ModelServer()
    async with open_chat(server) as chat:
        await chat.ask()
        server.refuses = frozenset({"messages"})
        query = await chat.ask()
    assert query.answer_text.startswith("The model does not take this query.")
    (event,) = happened(events, "no answer of the model")
    assert event["reason"] == "400 Bad Request: Unrecognized request argument: messages."
    assert len(server.requests) == 1 + 2


@pytest.mark.parametrize(
    ("setting", "refusal"),
    [
        ({"temperature": 0.2}, "Unsupported value: 'temperature' does not support 0.2 with this model."),
        ({}, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
        ({}, "registry.ollama.ai/library/gemma3:latest does not support tools"),
        ({"max_tokens": 9_000}, "max_tokens is too large: 9000. This model supports at most 4096"),
    ],
    ids=["temperature", "vLLM's tools", "Ollama's tools", "max_tokens"],
)
async def test_a_request_that_was_never_taken(
    setting: dict[str, Any], refusal: str, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Before the model has ever answered, it is what is set that it does not take: no query fails by that."""
    server = ModelServer()
    server.will(*2 * [Failing(status=400, message=refusal)])
    async with open_chat(server, chat=setting) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        (event,) = happened(events, "the model can't be used")
        assert (event["log_level"], event["reason"]) == ("error", f"400 Bad Request: {refusal}")
        await chat.webbuddy.until(lambda: query.status == "done")  # the operator has mended it
    assert happened(events, "the model can be used again")


@pytest.mark.parametrize("field", attrs.fields(Sentences))
def test_a_sentence_takes_the_same_values_in_both_languages(field: Any) -> None:
    """Else a query would fail in one of the languages only."""
    english, russian = (getattr(words, field.name) for words in (ENGLISH, RUSSIAN))
    blank = re.compile("{[a-z]+}")
    assert set(blank.findall(english)) == set(blank.findall(russian))


def test_each_reason_has_a_sentence() -> None:
    """What mypy can't see: the names of the one are those of the other."""
    assert set(get_args(Why)) <= set(attrs.fields_dict(Sentences))


async def test_sentences_in_russian(autojump_clock: MockClock) -> None:
    """By WORKER_LANGUAGE."""
    server = ModelServer()
    server.will(Saying(text=""))
    async with open_chat(server, language="ru") as chat:
        assert (await chat.ask()).answer_text == "Модель дала пустой ответ."


@pytest.mark.parametrize("cut", [0, 9])
async def test_a_real_connection_that_is_cut(cut: int) -> None:
    """Over a socket: before the first word it is asked again, after that the answer has broken off."""
    server = ModelServer()
    server.will(Saying(text=LONG, cut_after=cut))
    with trio.fail_after(30):
        async with open_chat(server, sockets=True) as chat:
            query = await chat.ask("one")
    expected = (
        "You said: one" if cut == 0 else "The model's answer broke off in the middle. Please ask again."
    )
    assert query.answer_text == expected


@pytest.mark.parametrize("sockets", [False, True])
async def test_a_query_that_is_cancelled_stops_the_model(sockets: bool) -> None:
    """Past its time limit the connection is closed: nobody pays for an answer that nobody reads."""
    server = ModelServer()
    server.will(Saying(text=LONG, pause=0.2))
    with trio.fail_after(30):
        async with open_chat(server, sockets=sockets, processing_timeout=0.7) as chat:
            query = await chat.ask()
            assert (query.status, "time limit" in query.answer_text) == ("failed", True)
            await server.until(lambda: server.given_up == 1)
