"""What the operator sets for the model: read, refused, masked, and looked at by ``trio-worker check``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.chats import KEY, settings
from tests.commands import run_command
from trio_worker.chat_settings import CHAT_HANDLER, ChatSettings
from trio_worker.cli import check_handler
from trio_worker.errors import SettingsError
from trio_worker.handlers.chat.inspection import CHECK_SECONDS, look_at
from trio_worker.handlers.chat.model import Model, open_client
from trio_worker.handlers.chat.opening import read_chat
from trio_worker.handlers.child_environment import child_environment
from trio_worker.misspellings import misspellings
from trio_worker.testing import (
    Failing,
    ModelServer,
    Saying,
    ToolRequest,
    WebBuddy,
    serve_model,
    serve_webbuddy,
)

REQUIRED = {"CHAT_BASE_URL": "http://localhost:11434/v1/", "CHAT_MODEL": "llama3.2"}


def read(**environ: str) -> ChatSettings:
    return ChatSettings.from_environ(REQUIRED | environ)


def test_what_is_read(tmp_path: Path) -> None:
    """Defaults, and each variable; the prompt and the key from files, too."""
    settings = read()
    assert settings == ChatSettings(base_url="http://localhost:11434/v1", model="llama3.2")
    assert (settings.temperature, settings.max_tokens, settings.tools, settings.max_steps) == (
        None,
        None,
        None,
        10,
    )
    (tmp_path / "prompt").write_text("Be kind.\n", encoding="utf-8")
    (tmp_path / "key").write_text(KEY + "\n", encoding="utf-8")
    settings = read(
        CHAT_API_KEY_FILE=str(tmp_path / "key"),
        CHAT_SYSTEM_PROMPT=f"@{tmp_path / 'prompt'}",
        CHAT_TEMPERATURE="0.7",
        CHAT_MAX_TOKENS="100",
        CHAT_TOOLS="a.b:c",
        CHAT_MAX_STEPS="3",
    )
    assert (settings.api_key, settings.system_prompt, settings.temperature) == (KEY, "Be kind.", 0.7)
    assert (settings.max_tokens, settings.tools, settings.max_steps) == (100, "a.b:c", 3)
    assert KEY not in repr(settings)


def test_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    """One sentence each, and never the key."""
    environ = {
        "CHAT_BASE_URL": "localhost:11434",
        "CHAT_API_KEY": "ключ-ключ",
        "CHAT_SYSTEM_PROMPT": f"@{tmp_path / 'none'}",
        "CHAT_TEMPERATURE": "2.1",
        "CHAT_MAX_TOKENS": "0",
        "CHAT_TOOLS": "tools",
        "CHAT_MAX_STEPS": "101",
    }
    with pytest.raises(SettingsError) as caught:
        ChatSettings.from_environ(environ)
    assert [problem.split()[0] for problem in caught.value.problems] == [
        *("CHAT_BASE_URL", "CHAT_API_KEY", "CHAT_MODEL", "CHAT_SYSTEM_PROMPT", "CHAT_TEMPERATURE"),
        *("CHAT_MAX_TOKENS", "CHAT_TOOLS", "CHAT_MAX_STEPS"),
    ]
    assert "ключ" not in str(caught.value)


def test_a_prompt_of_a_file(tmp_path: Path) -> None:
    """It is text in UTF-8, not blank and not too long; a mark of its beginning is no part of it."""
    file = tmp_path / "prompt"
    file.write_bytes("\ufeffBe kind.\n".encode())
    assert read(CHAT_SYSTEM_PROMPT=f"@{file}").system_prompt == "Be kind."
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    with large.open("wb") as sparse:
        sparse.truncate(100_000_000_000)
    for path in (tmp_path, tmp_path / "none", pipe, large):
        with pytest.raises(SettingsError, match="expected a text, or @ and the path of a file with 1 to"):
            read(CHAT_SYSTEM_PROMPT=f"@{path}")
    for content in ("\n", "x" * 1_000_001, "привет".encode("cp1251")):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(SettingsError, match="characters in UTF-8"):
            read(CHAT_SYSTEM_PROMPT=f"@{file}")


def test_a_key_that_is_too_short_to_be_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[EventDict]
) -> None:
    """It is said so, and used all the same."""
    for name, value in {**REQUIRED, "CHAT_API_KEY": "short"}.items():
        monkeypatch.setenv(name, value)
    assert read_chat(tmp_path)[0].api_key == "short"
    (event,) = events
    assert event["event"].startswith("CHAT_API_KEY is too short to be masked")
    assert "short'" not in repr(event)


def test_misspelt_names_are_told_to_whoever_uses_it() -> None:
    """And to nobody else: with another handler CHAT_MODLE is another program's."""
    names = ["CHAT_MODLE", "CHAT_APIKEY", "CHAT_ROOM"]
    assert misspellings(names, CHAT_HANDLER) == [
        "CHAT_APIKEY is not a setting: did you mean CHAT_API_KEY?",
        "CHAT_MODLE is not a setting: did you mean CHAT_MODEL?",
    ]
    assert misspellings(names, "agent:handle") == []


def test_the_key_is_not_for_other_programs() -> None:
    """No child of ours gets it, nor the place where it is."""
    environ = {"CHAT_API_KEY": "short", "CHAT_API_KEY_FILE": "/run/key", "CHAT_MODEL": "m"}
    assert child_environment(environ) == {"CHAT_MODEL": "m"}


CHAT = {"WORKER_HANDLER": CHAT_HANDLER, "CHAT_MODEL": "test-model", "CHAT_API_KEY": KEY}


async def run(directory: Path, *arguments: str, server: ModelServer, **environ: str) -> tuple[int, str, str]:
    """Run a command of a worker with that model, over real sockets."""
    async with serve_webbuddy(WebBuddy()) as webbuddy_url, serve_model(server) as base_url:
        given = CHAT | {"CHAT_BASE_URL": base_url} | environ
        ended = await run_command(directory, *arguments, webbuddy_url=webbuddy_url, **given)
    assert "Traceback" not in ended.out + ended.err
    assert KEY not in ended.out + ended.err
    return ended.code, ended.out, ended.err


async def test_check_asks_the_model_server(tmp_path: Path) -> None:
    """Reachable, the key taken, the model there: each a line of the check."""
    code, out, _ = await run(
        tmp_path, "check", server=ModelServer(key=KEY), CHAT_TOOLS="trio_worker.handlers.chat.web:tools"
    )
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "✓ tools fetch_page" in lines
    assert any(
        line.startswith("✓ model server http://127.0.0.1:") and "takes the key" in line for line in lines
    )
    assert "✓ model test-model" in lines


@pytest.mark.parametrize(
    ("server", "environ", "code", "sentence"),
    [
        (ModelServer(key="another"), {}, 1, "refuses the key (401"),
        (
            ModelServer(models=("llama3", "test-modell")),
            {},
            1,
            "CHAT_MODEL is 'test-model', and the server has test-modell, llama3",
        ),
        (ModelServer(), {"CHAT_BASE_URL": "http://127.0.0.1:9/v1"}, 1, "Is it running?"),
        (ModelServer(key="another", lists=False), {}, 1, "refuses the key (401"),
        (ModelServer(), {"CHAT_TEMPERATURE": "hot"}, 2, "CHAT_TEMPERATURE is 'hot': expected a number"),
        (ModelServer(), {"CHAT_TOOLS": "nowhere:tools"}, 2, "CHAT_TOOLS is 'nowhere:tools'"),
    ],
    ids=["key", "model", "nobody", "key without a list", "setting", "tools"],
)
async def test_check_says_what_is_wrong(
    server: ModelServer, environ: dict[str, str], code: int, sentence: str, tmp_path: Path
) -> None:
    """In a sentence, and by its exit code."""
    ended, out, _ = await run(tmp_path, "check", server=server, **environ)
    assert (ended, sentence in " ".join(out.split())) == (code, True)


async def look(server: ModelServer, **values: Any) -> list[tuple[str, str, str]]:
    """The lines of the check, in virtual time."""
    said: list[tuple[str, str, str]] = []
    chosen = settings(**values)
    async with server.running(), open_client(chosen, server.transport()) as client:
        await look_at(Model(client, chosen), (), lambda *line: said.append(line))
    return said


FINE = [
    ("fine", "model server", "http://model.test/v1 answers, and takes the key"),
    ("fine", "model", "test-model"),
]


@pytest.mark.parametrize(
    "server", [ModelServer(key=KEY, lists=False), ModelServer(key=KEY, models=("test-model", "other"))]
)
async def test_the_model_itself_is_asked(server: ModelServer, autojump_clock: MockClock) -> None:
    """With a list or without one: up to its first word, with what is set, and then it stops."""
    server.will(Saying(text="Yes, I am.", pause=10))
    assert await look(server, temperature=0.2) == FINE
    (request,) = server.requests
    assert (request["model"], request["temperature"]) == ("test-model", 0.2)
    assert server.given_up == 1


async def test_a_model_by_ollamas_short_name(autojump_clock: MockClock) -> None:
    """It is in the list by its long one: what is wrong then is not its name."""
    server = ModelServer(models=("llama3.2:latest",))
    (line,) = await look(server, model="llama3.2")
    assert line[1] == "model server"
    assert "404 Not Found: The model 'llama3.2' does not exist. Check CHAT_API_KEY" in line[2]


@pytest.mark.parametrize(
    ("url", "key"), [("http://model.test", KEY), ("http://model.test/v1/x", "sk-another")]
)
async def test_a_wrong_url(url: str, key: str, autojump_clock: MockClock) -> None:
    """There is no list, and no model: nothing is fine, and the key has not been taken."""
    server = ModelServer()
    assert await look(server, base_url=url, api_key=key) == [
        (
            "problem",
            "model server",
            f"{url}: 404 Not Found: Unknown path. Check CHAT_BASE_URL (it usually ends in /v1), "
            "CHAT_API_KEY, CHAT_MODEL and the other settings that begin with CHAT_.",
        )
    ]


async def test_a_server_that_refuses_what_is_set(autojump_clock: MockClock) -> None:
    """As for a query: the reason is the server's."""
    server = ModelServer()
    server.will(*2 * [Failing(status=400, message="does not support tools")])
    ((mark, _, sentence),) = await look(server)
    assert mark == "problem"
    assert "400 Bad Request: does not support tools. Check CHAT_API_KEY, CHAT_MODEL and the other" in sentence


async def test_a_server_that_does_not_answer(autojump_clock: MockClock) -> None:
    """It is waited for a little less long than any check of a handler."""
    server = ModelServer()
    server.will(Saying(text="Yes", first=1_000))
    ((mark, _, sentence),) = await look(server)
    assert mark == "problem"
    assert "http://model.test/v1 does not answer within 25 s" in sentence
    assert CHECK_SECONDS < check_handler.PATIENCE


@pytest.mark.parametrize("command", ["run", "once"])
async def test_wrong_settings_start_nothing(command: str, tmp_path: Path) -> None:
    """Exit 2, with all of it in sentences."""
    more = ["--query", "x"] if command == "once" else []
    code, out, err = await run(
        tmp_path, command, *more, server=ModelServer(), CHAT_MODEL="", CHAT_MAX_STEPS="0"
    )
    assert code == 2
    assert "CHAT_MODEL is missing" in out + err
    assert "CHAT_MAX_STEPS is '0'" in out + err


async def test_settings_of_another_handler_are_not_read(tmp_path: Path) -> None:
    """They may be anything."""
    environ = {"WORKER_HANDLER": "trio_worker.handlers:echo", "CHAT_MAX_STEPS": "no"}
    code, out, _ = await run(tmp_path, "once", "--query", "hello", server=ModelServer(), **environ)
    assert (code, out.strip()) == (0, "hello")


async def test_a_missing_extra_is_a_sentence(tmp_path: Path) -> None:
    """With the command that installs it."""
    (tmp_path / "msgspec.py").write_text("raise ModuleNotFoundError('gone', name='msgspec')\n")
    code, out, err = await run(
        tmp_path, "once", "--query", "x", server=ModelServer(), PYTHONPATH=str(tmp_path)
    )
    assert code == 2
    assert "it needs msgspec, which is not installed here: pip install 'trio-worker[chat]'" in out + err


async def test_once_with_tools_in_the_open(tmp_path: Path) -> None:
    """The whole of it, as an operator tries it: a tool is called, the answer is printed, the log beside
    it."""
    server = ModelServer(key=KEY)
    with trio.fail_after(60):
        async with serve_webbuddy(WebBuddy()) as page:
            server.will(
                Saying(calls=[ToolRequest("fetch_page", {"url": f"{page}/login"})]),
                Saying(text=f"The login page answers with 200. ({KEY})"),
            )
            tools = "trio_worker.handlers.chat.web:intranet_tools"
            code, out, err = await run(
                tmp_path, "once", "--query", "Check the login page", server=server, CHAT_TOOLS=tools
            )
    assert (code, out.strip()) == (0, "The login page answers with 200. ([MASKED])")
    assert "Status: 200 OK" in err
    assert "has begun to write" in err
    assert server.requests[1]["messages"][-1]["content"].startswith("Status: 200 OK\nAddress: http://127")
