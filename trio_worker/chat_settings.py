"""What the operator sets for ``trio_worker.handlers.chat``: read when that is the handler, and only then.

Apart from the handler, which needs an extra: which names there are is also asked by what looks for misspelt
ones.
"""

# ruff: noqa: RUF009 - as in `trio_worker.settings`

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from trio_worker.setting_kinds import (
    URL,
    Kind,
    printable,
    shown_url,
    split_handler_path,
    whole_number,
)
from trio_worker.variables import Variable, read_variables, setting, variables_of

__all__ = ["CHAT_HANDLER", "CHAT_VARIABLES", "ChatSettings"]

CHAT_HANDLER = "trio_worker.handlers.chat:handler"
"""What ``WORKER_HANDLER`` is when these settings are read."""

_LONGEST_PROMPT = 1_000_000  # characters; no model takes more


def _read_key(text: str) -> str:
    # It goes into a header, where a line break or a letter that is not ASCII can't stand.
    key = text.strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError
    return key


def _read_prompt(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        path = Path(text.removeprefix("@"))
        if not path.is_file():  # a pipe would hold the start up
            raise ValueError
        prompt = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError from error
    if not 0 < len(prompt) <= _LONGEST_PROMPT:
        raise ValueError
    return prompt


def _read_temperature(text: str) -> float:
    if not re.fullmatch(r"[0-9](\.[0-9]{1,9})?", text) or float(text) > 2:
        raise ValueError
    return float(text)


def _read_tools(text: str) -> str:
    split_handler_path(text)
    return text


_KEY = Kind(_read_key, "the key of the model server: printable ASCII")
_KEY_FILE = Kind(
    lambda text: Path(text).absolute(), "the path of a readable file that holds the key and nothing else"
)
_MODEL = printable("the name of a model, such as llama3.2", longest=200)
_PROMPT = Kind(_read_prompt, "a text, or @ and the path of a readable file with a text in UTF-8")
_TEMPERATURE = Kind(_read_temperature, "a number from 0 to 2, such as 0.7")
_TOOLS = Kind(_read_tools, "module:name of a list of functions, such as trio_worker.handlers.chat.web:tools")


@attrs.frozen(kw_only=True)
class ChatSettings:
    """What the operator has set for the model, checked.

    Attributes:
        base_url: Of the API, without a trailing slash.
        api_key: None: the server wants none. Never in the ``repr``.
        api_key_file: Where it stood, or None.
        model: Its name.
        system_prompt: None: the built-in one.
        temperature: None: the server's own.
        max_tokens: The longest answer, in tokens; None: the server's own.
        tools: ``module:name`` of the functions that the model may call; None: it may call none.
        max_steps: How many times the model may ask for tools in one query.
    """

    base_url: str = setting(
        "CHAT_BASE_URL",
        URL,
        "Where the model server is: what stands before `/chat/completions`.",
        example="http://localhost:11434/v1",
        show=shown_url,
    )
    api_key: str | None = setting(
        "CHAT_API_KEY",
        _KEY,
        "Its key, if it wants one. Never printed or logged.",
        words="none",
        example="change-me-sk-0123456789",
        otherwise=None,
        secret=True,
        or_file="api_key_file",
    )
    api_key_file: Path | None = setting(
        "CHAT_API_KEY_FILE",
        _KEY_FILE,
        "Instead of `CHAT_API_KEY`: a mounted secret. Read at the start.",
        words="none",
        example="/run/secrets/chat-api-key",
        otherwise=None,
    )
    model: str = setting("CHAT_MODEL", _MODEL, "The model.", example="llama3.2")
    system_prompt: str | None = setting(
        "CHAT_SYSTEM_PROMPT",
        _PROMPT,
        "What the model is told first: a text, or `@` and a file's path. The project's context follows.",
        words="what a tester needs",
        example="@prompt.txt",
        otherwise=None,
    )
    temperature: float | None = setting(
        "CHAT_TEMPERATURE",
        _TEMPERATURE,
        "From 0 to 2.",
        words="the server's",
        example="0.2",
        otherwise=None,
    )
    max_tokens: int | None = setting(
        "CHAT_MAX_TOKENS",
        whole_number(1, 10_000_000),
        "The longest answer, in tokens.",
        words="the server's",
        example="4096",
        otherwise=None,
    )
    tools: str | None = setting(
        "CHAT_TOOLS",
        _TOOLS,
        "Functions that the model may call: a list of them, as `module:name`.",
        words="none",
        example="trio_worker.handlers.chat.web:tools",
        otherwise=None,
    )
    max_steps: int = setting(
        "CHAT_MAX_STEPS",
        whole_number(1, 1_000),
        "How many times the model may ask for tools in one query; then it has to answer.",
        default="10",
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> ChatSettings:
        """Read the settings from a mapping such as `read_environment` gives.

        Reads the files that it names, too, and blocks while it does.

        Raises:
            SettingsError: With everything that is wrong, one sentence each.
        """
        return cls(**read_variables(variables_of(cls), environ))


CHAT_VARIABLES: tuple[Variable, ...] = tuple(variables_of(ChatSettings).values())
"""Every variable that is read, in the order of the table in docs/settings.md."""
