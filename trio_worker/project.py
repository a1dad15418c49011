"""A project's settings, as WebBuddy keeps them for its agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Project"]


def _masked(_secret: str) -> str:
    return "[MASKED]"


@attrs.frozen(kw_only=True)
class Project:
    """The settings of a project.

    Of the keys that WebBuddy gives those are known; others are left out. What is not set is an empty text.

    Attributes:
        id: Its number.
        name: Its name.
        context: What people have written about it, for agents.
        test_it_token: A secret, which its ``repr`` does not show.
        test_it_project_id: Its number at Test IT.
        jira_token: A secret, too.
        jira_project_id: Its key or number at Jira.
    """

    id: int
    name: str = ""
    context: str = ""
    test_it_token: str = attrs.field(default="", repr=_masked)
    test_it_project_id: str = ""
    jira_token: str = attrs.field(default="", repr=_masked)
    jira_project_id: str = ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be read by anybody else."""
        return tuple(secret for secret in (self.test_it_token, self.jira_token) if secret)

    @classmethod
    def from_json(cls, number: int, data: Mapping[str, Any]) -> Project:
        """Read what ``GET /api/projects/{id}/tokens/`` answers."""

        def text(key: str) -> str:
            value = data.get(key)
            return "" if value is None else str(value)

        return cls(
            id=number,
            name=text("project_name"),
            context=text("project_context"),
            test_it_token=text("test_it_token"),
            test_it_project_id=text("test_it_project_id"),
            jira_token=text("jira_token"),
            jira_project_id=text("jira_project_id"),
        )
