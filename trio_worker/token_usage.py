"""What one call of a language model has used, as WebBuddy's ``POST /api/token-usage/`` takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

import attrs

from trio_worker.masks import masks
from trio_worker.plain_text import clean, fit

__all__ = ["MOST_NAME", "MOST_NUMBER", "MOST_TEXT", "TokenUsage", "UsageFields"]

MOST_NAME = 50
"""Characters of a name; WebBuddy refuses more."""

MOST_TEXT = 65_536
"""Bytes of JSON that each of the texts may have: all of them together are far below what WebBuddy takes."""

MOST_NUMBER = 2**31 - 1
"""WebBuddy's integers have 32 bits."""

_MOST_GIVEN = MOST_TEXT + 1  # characters: of more, the first. One that has so many is taken for cut
_NOTHING = "—"  # WebBuddy refuses a blank text; and a model that calls a tool may say nothing


class UsageFields(TypedDict):
    """What is said of a call of a model. Texts and names that are too long are cut.

    Attributes:
        model_name: Which model has answered; 50 characters.
        request: What it was asked; 64 KiB, as all texts. May be blank.
        answer: What it has answered. May be blank.
        model_role: In which role; ``"assistant"`` is usual. 50 characters.
        ai_agent_name: The agent that has asked; None: the worker. 50 characters.
        prompt_tokens: How many tokens; so are the following. None: not known.
        completion_tokens: …
        total_tokens: …
        precached_prompt_tokens: …
        input_tokens: …
        output_tokens: …
        system_prompt: A part of what it was asked, if that is of interest by itself; so are the following.
        user_prompt: …
        agent_prompt: …
    """

    model_name: str
    request: str
    answer: str
    model_role: NotRequired[str]
    ai_agent_name: NotRequired[str | None]
    prompt_tokens: NotRequired[int | None]
    completion_tokens: NotRequired[int | None]
    total_tokens: NotRequired[int | None]
    precached_prompt_tokens: NotRequired[int | None]
    input_tokens: NotRequired[int | None]
    output_tokens: NotRequired[int | None]
    system_prompt: NotRequired[str | None]
    user_prompt: NotRequired[str | None]
    agent_prompt: NotRequired[str | None]


def _beginning(text: object) -> Any:
    return text[:_MOST_GIVEN] if isinstance(text, str) else text


def _check_text(_usage: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"token_usage: {attribute.name} is {value!r}, expected a text")


def _check_name(usage: object, attribute: attrs.Attribute[Any], value: object) -> None:
    _check_text(usage, attribute, value)
    if not clean(str(value)):
        raise ValueError(f"token_usage: {attribute.name} is {value!r}, expected a name that is not blank")


def _check_number(_usage: object, attribute: attrs.Attribute[Any], value: object) -> None:
    expected = f"token_usage: {attribute.name} is {value!r}, expected a whole number, 0 to {MOST_NUMBER}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(expected)
    if not 0 <= value <= MOST_NUMBER:
        raise ValueError(expected)


def _text(check: Callable[..., None] = _check_text, **default: Any) -> Any:
    if default.get("default", "") is None:
        return attrs.field(converter=_beginning, validator=attrs.validators.optional(check), **default)
    return attrs.field(converter=_beginning, validator=check, **default)


def _number() -> Any:
    return attrs.field(default=None, validator=attrs.validators.optional(_check_number))


@attrs.frozen(kw_only=True)
class TokenUsage:
    """One call of a model; see `UsageFields`.

    Raises:
        TypeError: A value is of a wrong type, or one is missing.
        ValueError: A number is negative or too large, a name is blank.
    """

    model_name: str = _text(_check_name)
    request: str = _text()
    answer: str = _text()
    model_role: str = _text(_check_name, default="assistant")
    ai_agent_name: str | None = _text(_check_name, default=None)
    prompt_tokens: int | None = _number()
    completion_tokens: int | None = _number()
    total_tokens: int | None = _number()
    precached_prompt_tokens: int | None = _number()
    input_tokens: int | None = _number()
    output_tokens: int | None = _number()
    system_prompt: str | None = _text(default=None)
    user_prompt: str | None = _text(default=None)
    agent_prompt: str | None = _text(default=None)

    def to_body(self, agent: str) -> dict[str, object]:
        """Make what WebBuddy is sent, without the query: nothing in it that it refuses, and no secrets.

        In the worker's own process: no other knows the secrets.

        Args:
            agent: The name where none was given.
        """
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        texts = {name: _fitted(getattr(self, name) or "") or None for name in _PROMPTS}
        body: dict[str, object] = {
            "ai_agent_name": _named(self.ai_agent_name or agent),
            "request_to_ai_agent": _fitted(self.request) or _NOTHING,
            "ai_agent_answer": _fitted(self.answer) or _NOTHING,
            "model_name": _named(self.model_name),
            "model_role": _named(self.model_role),
        }
        return {name: value for name, value in {**body, **numbers, **texts}.items() if value is not None}


_NUMBERS = tuple(name for name in UsageFields.__annotations__ if name.endswith("_tokens"))
_PROMPTS = tuple(name for name in UsageFields.__annotations__ if name.endswith("_prompt"))


def _hidden(text: str) -> str:
    # Masked before anything is cut off: half a secret is not found. One that was cut already may end in such.
    hide = masks.hide if len(text) < _MOST_GIVEN else masks.hide_in_beginning
    return hide(clean(text))


def _named(text: str) -> str:
    return _hidden(text)[:MOST_NAME].strip()


def _fitted(text: str) -> str:
    return fit(_hidden(text), most=MOST_TEXT, note=" … (+{count})")
