"""The stream of a model's answer: as many servers send it, and with an end, whatever they send."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.chats import open_chat
from trio_worker.handlers.chat.draft import MOST_CALLS, MOST_OF_A_REPLY
from trio_worker.handlers.chat.events import MOST_OF_AN_EVENT
from trio_worker.handlers.chat.failures import Declined, Misconfigured, ModelError, NoAnswer, NotNow
from trio_worker.handlers.chat.listener import MOST_OF_A_STREAM, Listener
from trio_worker.handlers.chat.reply import Reply
from trio_worker.testing import ModelServer, Streaming

DONE = b"data: [DONE]\n\n"


def event(data: object) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more})


UP = chunk({"content": "Up."})
FINE = chunk({"content": "fi"}) + chunk({"content": "ne"}) + chunk(finish="stop") + DONE


def listen(*pieces: bytes) -> Reply:
    """What comes of a stream that ends as it should."""
    listener = Listener(str)
    for piece in pieces:
        listener.feed(piece)
    return listener.reply()


def problem(*pieces: bytes) -> ModelError:
    with pytest.raises(ModelError) as caught:
        listen(*pieces)
    return caught.value


# --- Events --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stream",
    [
        FINE,
        FINE.replace(b"\n", b"\r\n"),
        FINE.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + FINE,
        FINE.replace(b"data: ", b"data:"),
        FINE.replace(b'"choices"', b'\ndata: "choices"'),
        FINE.replace(b'"choices"', b'\r\ndata: "choices"'),
        b": OPENROUTER PROCESSING\n\n" + FINE,
        b"retry: 3000\n\n" + FINE,
        FINE.replace(b"\n\n", b"\n\nevent: ping\n\n"),
        FINE.replace(b"data:", b"id: 1\nevent: message\ndata:").replace(b"\n\n", b"\n\n\n: alive\n\n"),
        FINE.replace(b"\n\n", b"\n\ndata:\n\ndata: \n\n"),
        FINE.replace(b"[DONE]", b" [DONE] "),
    ],
)
def test_events_of_all_kinds(stream: bytes) -> None:
    """Whole or a byte at a time, with what other servers put between them."""
    assert listen(stream).text == "fine"
    assert listen(*(stream[at : at + 1] for at in range(len(stream)))).text == "fine"


def test_what_is_no_utf8_is_replaced() -> None:
    """As a browser does: a letter that is cut in two by a server is no reason to lose the answer."""
    assert listen(FINE.replace(b"fi", b"\xd0")).text == "\ufffdne"


def test_halves_of_an_emoji_are_joined() -> None:
    """Servers that count in UTF-16 send one half to a piece; a half that stays alone is replaced."""
    halves = [chunk({"content": half}) for half in ("\ud83d", "\ude00", " \ud83d")]
    assert listen(*halves, chunk(finish="stop")).text == "\U0001f600 \ufffd"


def test_parts_instead_of_a_text() -> None:
    """Mistral's thinking models send the parts of a message; what they think is none of the answer."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    assert listen(chunk({"content": [thought, {"type": "text", "text": "Up."}]}), DONE).text == "Up."


THOUGHTS = [
    {"reasoning_content": "Hm, hm."},
    {"reasoning": "Hm, hm."},
    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]},
]


@pytest.mark.parametrize("thought", THOUGHTS)
async def test_a_model_that_thinks(thought: dict[str, Any], autojump_clock: MockClock) -> None:
    """Its thoughts are none of the answer, but its author is told, once; and then when it writes."""
    server = ModelServer()
    server.will(Streaming(pieces=[*3 * [chunk(thought)], UP, chunk(finish="stop"), DONE]))
    async with open_chat(server) as chat:
        query = await chat.ask()
    assert query.answer_text == "Up."
    said = " ".join(query.logs)
    assert said.count("The model is thinking") == 1
    assert said.index("The model is thinking") < said.index("The model has begun to write")


def test_a_thought_is_no_answer_yet() -> None:
    """What breaks off then can be asked for again."""
    listener = Listener(str)
    assert listener.feed(chunk(THOUGHTS[0]))
    listener.lose("cut")
    with pytest.raises(NotNow):
        listener.reply()


def test_usage_that_makes_no_sense_is_left_out() -> None:
    """Numbers are kept, whatever stands beside them."""
    usage = {"prompt_tokens": 3, "completion_tokens": "7", "total_tokens": True, "prompt_tokens_details": []}
    assert listen(FINE, event({"usage": usage})).usage == {}  # after [DONE] nothing is read
    assert listen(event({"usage": usage}), FINE).usage == {"prompt_tokens": 3}
    assert listen(event({"usage": 5}), FINE).usage == {}


# --- Tool calls ----------------------------------------------------------------------------------


def call(index: int | None, id: str | None, name: str | None, arguments: Any) -> bytes:
    piece = {"index": index, "id": id, "function": {"name": name, "arguments": arguments}}
    return chunk({"tool_calls": [piece]})


FIRST, SECOND = ("a", "look", '{"x":1}'), ("b", "look", '{"x":2}')


@pytest.mark.parametrize(
    "pieces",
    [
        [call(0, *FIRST), call(1, *SECOND)],
        [call(1, *SECOND), call(0, *FIRST)],
        [call(0, *FIRST), call(0, *SECOND)],
        [
            call(0, "a", "look", '{"x"'),
            call(0, "", None, ":1}"),
            call(0, "b", "look", ""),
            call(0, "", None, '{"x":2}'),
        ],
        [
            call(0, "a", "look", ""),
            call(0, "a", "look", '{"x":1}'),
            call(0, "b", "look", ""),
            call(0, "b", None, '{"x":2}'),
        ],
        [call(0, "a", "look", ""), call(0, "other", None, '{"x":1}'), call(1, *SECOND)],
        [call(None, *FIRST), call(None, *SECOND)],
        [call(None, "a", "look", '{"x"'), call(None, None, None, ":1}"), call(None, *SECOND)],
        [
            call(0, "a", "look", ""),
            call(1, "b", "look", '{"x"'),
            call(0, None, None, '{"x":1}'),
            call(1, None, None, ":2}"),
        ],
    ],
    ids=[
        "OpenAI",
        "turned",
        "Ollama",
        "vLLM",
        "SGLang",
        "Poolside",
        "no index",
        "no index, in pieces",
        "mixed",
    ],
)
def test_two_calls(pieces: list[bytes]) -> None:
    """Told apart by their index, by their ids where all have the same, or without either by their names."""
    calls = listen(*pieces, chunk(finish="tool_calls"), DONE).calls
    assert [(call.id, call.name, call.arguments) for call in calls] == [FIRST, SECOND]


def test_arguments_as_an_object() -> None:
    """Some servers do not write them down as JSON."""
    (found,) = listen(call(0, "a", "look", {"page": "/вход"}), DONE).calls
    assert found.arguments == '{"page": "/вход"}'


@pytest.mark.parametrize("arguments", [None, "", " ", "null"])
def test_no_arguments(arguments: str | None) -> None:
    """For a tool that has none, models write this or that."""
    (found,) = listen(call(0, "a", "look", arguments), DONE).calls
    assert (found.arguments, found.is_object) == ("{}", True)


# --- The end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "then", "wait"),
    [
        ([UP, chunk(finish="stop"), DONE], "cut", 0),
        ([UP, chunk(finish="stop")], "cut", 0),
        ([UP, DONE], "cut", 0),
        ([UP, chunk(finish="stop")], "silence", 3),
        ([UP, chunk(finish="stop"), b": alive\n\n"], "silence", 3),
        ([UP, DONE], "silence", 1),
        ([UP, chunk(finish="stop"), b"data: {\n\n"], "end", 0),
        ([UP, chunk(finish="stop"), event({"error": {"message": "no usage"}}), DONE], "end", 0),
    ],
)
async def test_a_whole_answer_is_kept(
    pieces: list[bytes], then: Literal["end", "cut", "silence"], wait: float, autojump_clock: MockClock
) -> None:
    """Once it is complete, nothing that happens to the stream matters, and not much is waited for."""
    server = ModelServer()
    server.will(Streaming(pieces=pieces, then=then))
    async with open_chat(server) as chat:
        began = trio.current_time()
        assert (await chat.ask()).answer_text == "Up."
        assert wait <= trio.current_time() - began < wait + 1
    assert len(server.requests) == 1


async def test_what_it_cost_comes_behind_the_end(autojump_clock: MockClock) -> None:
    """It is waited for, also where [DONE] never comes."""
    server = ModelServer()
    usage = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    server.will(Streaming(pieces=[UP, chunk(finish="stop"), usage], then="silence"))
    async with open_chat(server) as chat:
        query = await chat.ask()
        await chat.webbuddy.until(lambda: bool(query.token_usage), within=60)
    assert query.token_usage[0]["prompt_tokens"] == 5


async def test_what_a_stopped_answer_has_cost(autojump_clock: MockClock) -> None:
    """It is no answer, and WebBuddy is told its tokens all the same."""
    server = ModelServer()
    usage = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    server.will(Streaming(pieces=[UP, chunk(finish="error"), usage, DONE]))
    async with open_chat(server) as chat:
        query = await chat.ask()
        await chat.webbuddy.until(lambda: bool(query.token_usage), within=60)
    assert query.status == "failed"
    assert (query.token_usage[0]["prompt_tokens"], query.token_usage[0]["ai_agent_answer"]) == (5, "Up.")


async def test_a_real_connection_that_is_cut_behind_the_end() -> None:
    """Over a socket: a server that closes without the last zero chunk has said all the same."""
    server = ModelServer()
    server.will(Streaming(pieces=[UP, chunk(finish="stop"), DONE], then="cut"))
    with trio.fail_after(30):
        async with open_chat(server, sockets=True) as chat:
            assert (await chat.ask()).answer_text == "Up."


def test_a_finish_in_each_chunk_ends_nothing() -> None:
    """As long as more of the answer comes, it is listened to."""
    listener = Listener(str)
    assert listener.feed(chunk({"content": "a"}, "stop"))
    assert listener.patience == 3
    assert listener.feed(chunk({"content": "b"}, "stop"))
    assert not listener.feed(chunk({}, "stop") + b": alive\n\n")
    assert listener.reply().text == "ab"


@pytest.mark.parametrize("finish", ["abort", "error", "insufficient_system_resource"])
def test_an_answer_that_the_server_has_stopped(finish: str) -> None:
    """It is no answer, [DONE] or not; without a word of one it can be asked for again."""
    assert isinstance(problem(chunk(finish=finish), DONE), NotNow)
    cut = problem(UP, chunk(finish=finish), DONE)
    assert isinstance(cut, NoAnswer)
    assert (cut.sentence, finish in cut.reason) == ("broken_off", True)


# --- Errors in the stream ------------------------------------------------------------------------


def named(message: str, code: str, type: str = "some_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("said", "kind", "sentence"),
    [
        (event({"error": {"message": "Overloaded", "code": 529}}), NotNow, None),
        (event({"error": {"message": "Provider disconnected", "code": "server_error"}}), NotNow, None),
        (event({"error": "out of memory"}), NotNow, None),
        (event({"object": "error", "message": "cancelled", "type": "X", "code": 500}), NotNow, None),
        (b"event: error\ndata: it went wrong\n\n", NotNow, None),
        (b'error: {"code":500,"message":"slot is gone","type":"server_error"}\n\n', NotNow, None),
        (event({"error": {"message": "No credits", "code": 402}}), Misconfigured, None),
        (event({"error": {"message": "Bad image", "code": 400}}), Declined, "not_taken"),
        (event(named("filtered", "content_filter")), NoAnswer, "filtered"),
        (event(named("You exceeded your quota", "insufficient_quota")), Misconfigured, None),
        (event(named("No such model", "model_not_found", "invalid_request_error")), Misconfigured, None),
        (event(named("Incorrect API key", "invalid_api_key", "invalid_request_error")), Misconfigured, None),
        (event(named("Bad image", "invalid_value", "invalid_request_error")), Declined, "not_taken"),
        (event(named("Slow down", "rate_limit_exceeded", "requests")), NotNow, None),
        (
            b'error: {"code":400,"message":"the request exceeds the available context size","type":'
            b'"exceed_context_size_error","n_prompt_tokens":14429,"n_ctx":8192}\n\n',
            NoAnswer,
            "too_long",
        ),
    ],
)
def test_errors_in_the_stream(said: bytes, kind: type[ModelError], sentence: str | None) -> None:
    """By their code, since the status was 200 already; behind a part of the answer it has broken off."""
    found = problem(said, DONE)
    assert type(found) is kind
    assert getattr(found, "sentence", None) == sentence
    assert "an error in the stream: " in found.reason
    broken = problem(UP, said, DONE)
    assert isinstance(broken, NoAnswer)
    assert broken.sentence == ("broken_off" if sentence in (None, "not_taken") else sentence)


STRANGE = [
    b"data: hello\n\n",
    event([1]),
    event({"choices": "none"}),
    b'data: {"usage":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n\n",
    b"data: " + b"9" * 5_000 + b"\n\n",
]


@pytest.mark.parametrize("said", STRANGE, ids=range(len(STRANGE)))
def test_what_is_no_chunk(said: bytes) -> None:
    """Asking again would bring it again: from the beginning it is for the operator, later the query's end."""
    found = problem(said, DONE)
    assert type(found) is Misconfigured
    assert found.reason.startswith("a chunk that is none: ")
    found = problem(UP, said, DONE)
    assert isinstance(found, NoAnswer)
    assert found.sentence == "strange"


async def test_another_language_is_told_to_the_operator(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """At once, with what came; the query is put aside, and its author reads none of it."""
    server = ModelServer()
    server.will(Streaming(pieces=[event({"choices": "none"})]))
    async with open_chat(server) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
        assert len(server.requests) == 1
        await chat.webbuddy.until(lambda: query.status == "done")
    (told,) = [event for event in events if "the model can't be used" in event["event"]]
    assert told["reason"].endswith('at `$.choices`: {"choices": "none"}')
    assert "choices" not in " ".join(query.logs)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            Streaming(pieces=[b"<html>"], content_type="text/html"),
            "answers with no stream, but with 'text/html'",
        ),
        (
            Streaming(pieces=[b'{"error": "no such model"}'], content_type="application/json"),
            "answers with no stream, but with 'application/json': no such model",
        ),
    ],
)
async def test_no_stream_at_all(
    answer: Streaming, reason: str, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """A page, or a message: another server than one that streams."""
    server = ModelServer()
    server.will(answer)
    async with open_chat(server) as chat:
        query = chat.webbuddy.add_query("one")
        await chat.webbuddy.until(lambda: "Put aside" in " ".join(query.logs))
    assert [event["reason"] for event in events if "the model can't be used" in event["event"]] == [reason]


# --- No end --------------------------------------------------------------------------------------


def a_line_without_end() -> Iterator[bytes]:
    yield b"data: "
    for _ in range(MOST_OF_AN_EVENT // 65_536):
        yield b"x" * 65_536


def an_event_without_end() -> Iterator[bytes]:
    for _ in range(MOST_OF_AN_EVENT // 4_096):
        yield b"data:" + b"x" * 4_096 + b"\n"


def lines_without_data() -> Iterator[bytes]:
    for _ in range(MOST_OF_A_STREAM // 1_048_576 + 1):
        yield (b": " + b"x" * 1_021 + b"\n") * 1_024


def an_answer_without_end() -> Iterator[bytes]:
    for _ in range(MOST_OF_A_REPLY // 100_000 + 1):
        yield chunk({"content": "x" * 100_000})


def arguments_without_end() -> Iterator[bytes]:
    yield call(0, None, None, "x")
    for _ in range(MOST_OF_A_REPLY // 100_000):
        yield call(0, None, None, "x" * 100_000)


def thoughts_without_end() -> Iterator[bytes]:
    for _ in range(MOST_OF_A_REPLY // 100_000 + 1):
        yield chunk({"reasoning": "x" * 100_000})


def calls_without_end() -> Iterator[bytes]:
    for number in range(MOST_CALLS + 1):
        yield call(number, None, "look", "")


@pytest.mark.parametrize(
    ("flood", "sentence"),
    [
        (a_line_without_end, None),
        (an_event_without_end, None),
        (lines_without_data, "endless"),
        (an_answer_without_end, "endless"),
        (arguments_without_end, "endless"),
        (thoughts_without_end, "endless"),
        (calls_without_end, "endless"),
    ],
)
def test_nothing_is_endless(flood: Any, sentence: str | None) -> None:
    """An event, a stream and an answer have a greatest size, behind which nothing more is read."""
    listener = Listener(str)
    for piece in flood():
        assert listener.patience > 0
        listener.feed(piece)
    assert listener.patience == 0
    with pytest.raises(ModelError) as caught:
        listener.reply()
    assert getattr(caught.value, "sentence", None) == sentence
    assert isinstance(caught.value, NoAnswer if sentence else Misconfigured)


def test_the_longest_event_is_taken() -> None:
    """Up to its size, as a tool call that comes whole may have; it counts for itself, not with others."""
    long = chunk({"content": "x" * (MOST_OF_AN_EVENT - 100)})
    assert len(listen(long[:70_000], long[70_000:], DONE).text) == MOST_OF_AN_EVENT - 100
    comments: Sequence[bytes] = [b": " + b"x" * 65_000 + b"\n"] * 40
    assert listen(*comments, FINE).text == "fine"


async def test_a_flood_is_left() -> None:
    """Over a real socket, from a server that never stops: the connection is closed, the query has failed."""

    class Flood(Sequence[bytes]):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: Any) -> Any:
            return chunk({"content": "x" * 10_000})

    server = ModelServer()
    server.will(Streaming(pieces=Flood()))
    with trio.fail_after(60):
        async with open_chat(server, sockets=True) as chat:
            query = await chat.ask()
            await server.until(lambda: server.given_up == 1)
    assert (query.status, query.answer_text) == ("failed", "The model's answer had no end, and was stopped.")
