"""What the embedded WebBuddy takes at ``POST /api/token-usage/``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_worker.testing import rest_framework as drf

if TYPE_CHECKING:
    from trio_worker.testing.webbuddy import WebBuddy

__all__ = ["REQUIRED_USAGE", "usage_fields"]

_NAMES = ("ai_agent_name", "model_name", "model_role")
_TEXTS = ("request_to_ai_agent", "ai_agent_answer")
_NUMBERS = (
    *("prompt_tokens", "completion_tokens", "total_tokens"),
    *("precached_prompt_tokens", "input_tokens", "output_tokens"),
)
_PROMPTS = ("system_prompt", "user_prompt", "agent_prompt")

REQUIRED_USAGE = frozenset({"project", "query", *_NAMES, *_TEXTS})


def usage_fields(webbuddy: WebBuddy) -> dict[str, drf.Check]:
    """Give a check for each field."""
    return {
        "project": drf.key(webbuddy.projects.__contains__),
        "query": drf.key(webbuddy.queries.__contains__),
        **dict.fromkeys(_NAMES, drf.text(most=50)),
        **dict.fromkeys(_TEXTS, drf.text()),
        **dict.fromkeys(_NUMBERS, drf.whole_number),
        **dict.fromkeys(_PROMPTS, drf.text(blank=True)),
    }
