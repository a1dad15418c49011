"""Functions that the model calls: what it is told of them, what it sends, and what it gets back."""

from __future__ import annotations

import enum
import threading
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.chats import open_chat
from trio_worker import Context, PlainContext, QueryFailed, RetryLater
from trio_worker.errors import HandlerError
from trio_worker.handlers.chat.tools import ArgumentsError, load_tools, make_tool
from trio_worker.testing import ModelServer, Saying, ToolRequest


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


async def look(
    page: str,
    ctx: Context,
    depth: int = 1,
    kind: Literal["full", "short"] = "short",
    colours: list[Colour] | None = None,
) -> str:
    """Look at a page.

    Twice, if need be.

    Args:
        page: Its path,
            from the root.
        depth (int): How far.
    """
    ctx.log(f"looking at {page}")
    return f"{page} {depth} {kind} {colours}"


def add(a: int, b: float) -> dict[str, float]:
    """Add."""
    return {"sum": a + b}


async def burn() -> str:
    """Fail."""
    raise KeyError("matches")


def call(name: str, arguments: dict[str, Any] | str | None = None) -> Saying:
    return Saying(calls=[ToolRequest(name, {} if arguments is None else arguments)])


def test_the_schema_of_a_function() -> None:
    """Types, defaults and descriptions, and nothing of the context."""
    schema = make_tool(look).schema
    assert schema["type"] == "function"
    assert schema["function"]["name"] == "look"
    assert schema["function"]["description"] == "Look at a page.\n\nTwice, if need be."
    parameters = schema["function"]["parameters"]
    assert parameters["required"] == ["page"]
    assert parameters["additionalProperties"] is False
    assert list(parameters["properties"]) == ["page", "depth", "kind", "colours"]
    assert parameters["properties"]["page"] == {"type": "string", "description": "Its path, from the root."}
    assert parameters["properties"]["depth"] == {"type": "integer", "description": "How far.", "default": 1}
    assert parameters["properties"]["kind"] == {"enum": ["full", "short"], "default": "short"}
    assert "$defs" in parameters


def test_arguments_are_checked() -> None:
    """What fits is read into the function's types, and what does not is told by its place."""
    tool = make_tool(look)
    assert tool.read('{"page": "/", "depth": "3", "colours": ["red"]}') == {
        "page": "/",
        "depth": 3,
        "kind": "short",
        "colours": [Colour.RED],
    }
    for text, said in [
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ("{}", "missing required field `page`"),
        ('{"page": 1}', "$.page"),
        ('{"page": "/", "kind": "odd"}', "$.kind"),
        ('{"page": "/", "more": 1}', "unknown field `more`"),
    ]:
        with pytest.raises(ArgumentsError, match=said.replace("$", r"\$")):
            tool.read(text)


def no_docstring(a: int) -> int:
    return a


def no_type(a) -> int:  # type: ignore[no-untyped-def]
    """Do it."""
    return int(a)


def any_number(*a: int) -> int:
    """Do it."""
    return sum(a)


def strange(a: trio.Event) -> None:
    """Do it."""


def waits(ctx: Context) -> None:
    """Do it."""


async def does_not_wait(ctx: PlainContext) -> None:
    """Do it."""


HERE = Path(__file__).parent
good, bad, other = [add], [no_docstring, no_type, any_number, strange, 5, add, add, waits, does_not_wait], 7


def test_what_can_not_be_told_to_a_model_is_refused() -> None:
    """At the start, all of it at once, in sentences."""
    assert [tool.name for tool in load_tools(f"{__name__}:good", HERE)] == ["add"]
    with pytest.raises(HandlerError) as caught:
        load_tools(f"{__name__}:bad", HERE)
    said = [problem.partition("': ")[2] for problem in caught.value.problems]
    assert said[0] == "no_docstring has no docstring, which tells the model what it is for"
    assert said[1] == "no_type does not say of which type a is"
    assert said[2] == "any_number has *a: 'int', which can't be passed by its name"
    assert said[3].startswith("a type of strange can't be told to a model: ")
    assert said[4] == "5 is no function with a name of 64 ASCII characters at most"
    assert said[5] == "two of its functions are named add"
    assert said[6] == "waits is plain: ctx is a PlainContext there, not a Context"
    assert said[7] == "does_not_wait is async: ctx is a Context there, not a PlainContext"


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("{module}:number", "that is int; expected a list or tuple of functions"),
        ("{module}:tool", "has no tool; did you mean tools?"),
        ("{module}x:tools", "nor installed; did you mean {module}?"),
        ("{module}_broken:tools", "raised ValueError: no ({path}_broken.py:3)"),
        ("{module}_poor:tools", "({path}_poor.py:1) imports not_there_at_all, which is not installed here"),
    ],
)
def test_tools_that_can_not_be_imported(tmp_path: Path, name: str, end: str) -> None:
    """What is wrong, with the nearest name, and the line in the user's own file."""
    module = tmp_path.name  # no other test's
    (tmp_path / f"{module}.py").write_text("tools, number = [], 7\ndef toolx(): ...\n")
    (tmp_path / f"{module}_broken.py").write_text("\n\nraise ValueError('no')\n")
    (tmp_path / f"{module}_poor.py").write_text("import not_there_at_all\n")
    with pytest.raises(HandlerError) as caught:
        load_tools(name.format(module=module), tmp_path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"CHAT_TOOLS is '{name.format(module=module)}': ")
    assert problem.endswith(end.format(module=module, path=tmp_path / module))


async def test_the_model_calls_a_tool(autojump_clock: MockClock) -> None:
    """It asks in pieces, is told what came of it, and answers; the author sees a line for the call."""
    server = ModelServer()
    calls = [ToolRequest("look", {"page": "/login"}), ToolRequest("look", {"page": "/вход", "depth": 2})]
    server.will(Saying(text="Let me see.", calls=calls), Saying(text="Both are up."))
    async with open_chat(server, tools=[look, burn]) as chat:
        query = await chat.ask()
        assert query.answer_text == "Both are up."
        assert [tool["function"]["name"] for tool in server.requests[0]["tools"]] == ["look", "burn"]
        asked, first, second = chat.said()[2:]
    assert (asked["role"], asked["content"]) == ("assistant", "Let me see.")
    assert [call["id"] for call in asked["tool_calls"]] == ["call_0", "call_1"]
    assert asked["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"page": "/login"}'}
    assert first == {"role": "tool", "tool_call_id": "call_0", "content": "/login 1 short None"}
    assert second == {"role": "tool", "tool_call_id": "call_1", "content": "/вход 2 short None"}
    logs = " ".join(query.logs)
    assert logs.count("has begun to write") == 1
    assert "looking at /login" in logs
    assert 'look({"page": "/login"}): /login 1 short None' in logs


async def test_plain_tools_have_the_context_of_plain_handlers() -> None:
    """Nothing of it has to be awaited, and what one has saved the next finds."""

    def note(ctx: PlainContext) -> str:
        """Note."""
        kept = [*(ctx.saved or ()), str(ctx.attempt)]
        ctx.save(kept)
        ctx.token_usage(model_name="small", request="a", answer="b")
        project = ctx.project()
        assert project is not None
        return f"{kept} {project.name}"

    server = ModelServer()
    server.will(call("note"), call("note"))
    with trio.fail_after(30):
        async with open_chat(server, tools=[note]) as chat:
            query = await chat.ask()
            assert chat.said()[-1]["content"] == "['1', '1'] Portal"
            await chat.webbuddy.until(lambda: len(query.token_usage) == 5, within=30)


async def test_a_plain_tool_that_hangs_is_left_behind(events: list[EventDict]) -> None:
    """Its thread is counted and named until it ends, and keeps no other from its own."""
    release, ended = threading.Event(), threading.Event()

    def hang() -> str:
        """Hang."""
        release.wait(60)
        ended.set()
        return "late"

    server = ModelServer()
    server.will(call("hang"), call("hang"), call("add", {"a": 1, "b": 2}))
    with trio.fail_after(60):
        async with open_chat(server, tools=[hang, add], num_workers=2, processing_timeout=2) as chat:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chat.ask)
                nursery.start_soon(chat.ask)
            left = [event for event in events if event["event"].startswith("a thread was left behind")]
            assert [(event["tool"], event["left_behind"]) for event in left] == [("hang", 1), ("hang", 2)]
            assert not ended.is_set()
            query = await chat.ask("again")
            assert query.answer_text == "You said: again"
            release.set()
            # A real thread, in real time: there is nothing to wait on but our own line.
            while "a thread that was left behind has ended" not in str(events):  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_plain_tool_runs_in_a_thread() -> None:
    """And a result that is no text is told as JSON."""
    server = ModelServer()
    server.will(call("add", {"a": 1, "b": 2.5}))
    with trio.fail_after(30):
        async with open_chat(server, tools=[add]) as chat:
            await chat.ask()
            assert chat.said()[-1]["content"] == '{"sum":3.5}'


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            call("look", '{"page": '),
            'Error: the arguments do not fit: Input data was truncated. You wrote: {"page": ',
        ),
        (
            call("look", '{"page": ' + "[" * 50_000),
            'Error: the arguments do not fit: they are nested too deeply. You wrote: {"page": ' + "[" * 991,
        ),
        (
            call("look", {"page": 5}),
            "Error: the arguments do not fit: Expected `str`, got `int` - at `$.page`",
        ),
        (call("sing"), "Error: there is no tool 'sing'. There are: look, burn"),
        (call("burn"), "Error: KeyError: 'matches'"),
    ],
    ids=["no JSON", "too deep", "wrong type", "unknown tool", "exception"],
)
async def test_errors_are_told_to_the_model(
    asked: Saying, told: str, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """It may do better, or without."""
    server = ModelServer()
    server.will(asked, Saying(text="I could not look."))
    async with open_chat(server, tools=[look, burn]) as chat:
        query = await chat.ask()
        assert query.answer_text == "I could not look."
        assert chat.said()[-1]["content"] == told
    assert told[:60] in " ".join(query.logs)
    raised = [event for event in events if event["event"] == "a tool of the model has raised"]
    assert len(raised) == ("KeyError" in told)


class BrokenError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SystemExit(2), "Error: SystemExit: 2"),
        (BrokenError(), "Error: BrokenError: <BrokenError that can't be shown: ZeroDivisionError>"),
        (
            BaseExceptionGroup("", [SystemExit(1), ExceptionGroup("", [ValueError("b"), OSError("c")])]),
            "Error: SystemExit: 1; ValueError: b; OSError: c",
        ),
    ],
    ids=["exit", "broken", "group"],
)
async def test_whatever_a_tool_raises_is_told(
    error: BaseException, told: str, autojump_clock: MockClock
) -> None:
    """It ends the call, and nothing else."""

    async def fail() -> str:
        """Fail."""
        raise error

    server = ModelServer()
    server.will(call("fail"), Saying(text="It does not work."))
    async with open_chat(server, tools=[fail]) as chat:
        query = await chat.ask()
        assert chat.said()[-1]["content"] == told
    assert query.answer_text == "It does not work."


async def test_a_call_without_a_result_is_in_the_log(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """One that hangs until the deadline, also with something else that goes wrong as it is cancelled, and one
    that ends the query."""

    async def hang() -> str:
        """Hang."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in the clean-up")

    async def stop(why: str) -> str:
        """Stop."""
        raise QueryFailed(why)

    server = ModelServer()
    server.will(call("hang"), call("stop", {"why": "No account."}))
    async with open_chat(server, tools=[hang, stop], processing_timeout=50) as chat:
        query = await chat.ask()
        assert "time limit of 50 s" in query.answer_text
        assert "hang({})" in " ".join(query.logs)
        assert "a tool of the model has raised" not in str(events)
        query = await chat.ask()
        assert query.answer_text == "No account."
        assert 'stop({"why": "No account."})' in " ".join(query.logs)


@pytest.mark.parametrize(
    "arguments", ['{"page": ', "[]", '"/"', "", "{'page': '/'}", "[" * 5_000, '{"page": NaN}']
)
async def test_a_model_is_told_back_what_its_server_can_read(
    arguments: str, autojump_clock: MockClock
) -> None:
    """vLLM and llama.cpp refuse all that follows a call whose arguments are no object."""
    server = ModelServer()
    calls = [
        ToolRequest("look", arguments),
        ToolRequest("functions.look me up", {"page": "/"}),
        ToolRequest(""),
    ]
    server.will(Saying(calls=calls), Saying(text="Well."))
    async with open_chat(server, tools=[look]) as chat:
        assert (await chat.ask()).answer_text == "Well."
        asked, *results = chat.said()[2:]
    told = [call["function"] for call in asked["tool_calls"]]
    assert [function["arguments"] for function in told] == ["{}", '{"page": "/"}', "{}"]
    assert [function["name"] for function in told] == ["look", "functions_look_me_up", "unknown"]
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in asked["tool_calls"]]
    assert results[0]["content"].startswith("Error: the arguments do not fit: ")


async def test_a_result_that_can_not_be_encoded(autojump_clock: MockClock) -> None:
    """Half an emoji in a text, in what becomes JSON and in an error is replaced."""

    async def read() -> str:
        """Read."""
        return "half \ud83d"

    async def table() -> dict[str, list[str]]:
        """Read more."""
        return {"name \ud83d": ["\ude00"]}

    async def fail() -> str:
        """Fail."""
        raise OSError("no file \udcff")

    server = ModelServer()
    server.will(Saying(calls=[ToolRequest("read"), ToolRequest("table"), ToolRequest("fail")]))
    async with open_chat(server, tools=[read, table, fail]) as chat:
        query = await chat.ask("one")
        assert [message["content"] for message in chat.said()[3:]] == [
            "half \ufffd",
            '{"name \ufffd":["\ufffd"]}',
            "Error: OSError: no file \ufffd",
        ]
        assert query.answer_text == "You said: one"
        await chat.webbuddy.until(lambda: len(query.token_usage) == 2, within=60)


async def test_a_tool_may_end_the_query(autojump_clock: MockClock) -> None:
    """By what a handler would raise, also out of a nursery of its own."""

    async def stop() -> str:
        """Stop."""
        async with trio.open_nursery():
            raise QueryFailed("No account.")

    async def wait() -> str:
        """Wait."""
        raise RetryLater(60, "Busy.")

    server = ModelServer()
    server.will(call("stop"), call("wait"))
    async with open_chat(server, tools=[stop, wait]) as chat:
        query = await chat.ask()
        assert (query.status, query.answer_text) == ("failed", "No account.")
        query = await chat.ask("later")
        assert query.answer_text == "You said: later"
        assert "Put aside for 60 s: Busy." in " ".join(query.logs)


async def test_a_long_result_is_cut(autojump_clock: MockClock) -> None:
    """What does not fit into a model is not sent to it."""

    async def read() -> str:
        """Read."""
        return "x" * 30_000

    server = ModelServer()
    server.will(call("read"))
    async with open_chat(server, tools=[read]) as chat:
        await chat.ask()
        assert chat.said()[-1]["content"] == "x" * 20_000 + "\n[10000 more characters were cut off]"


async def test_calls_without_end(autojump_clock: MockClock) -> None:
    """After CHAT_MAX_STEPS rounds it has to answer; it may, or the query has failed."""
    server = ModelServer()
    again = [call("look", {"page": "/"})] * 2
    server.will(*again, Saying(text="Enough."), *again, call("look", {"page": "/"}))
    async with open_chat(server, tools=[look], chat={"max_steps": 2}) as chat:
        query = await chat.ask()
        assert query.answer_text == "Enough."
        assert "tools" not in server.requests[2]
        assert [message["role"] for message in chat.said()[2:]] == ["assistant", "tool"] * 2
        assert chat.said()[-1]["content"].startswith("/ 1 short None\n\n[Not from the tool: you have no tool")
        assert "no tool calls left" not in chat.said(-2)[-1]["content"]
        query = await chat.ask()
    assert (query.status, query.answer_text) == (
        "failed",
        "The model goes on calling tools instead of answering (rounds so far: 2).",
    )
    assert len(server.requests) == 6
