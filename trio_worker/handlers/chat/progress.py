"""What the query's author sees while the model writes: a few lines, not one a token."""

from __future__ import annotations

import attrs
import trio

from trio_worker.context import Context
from trio_worker.handlers.chat.draft import Draft
from trio_worker.handlers.chat.sentences import Sentences

__all__ = ["Progress"]

FIRST_PAUSE = 10.0  # seconds from the line that it has begun to the next; each pause is twice as long
LONGEST_PAUSE = 120.0


@attrs.define
class Progress:
    """Of one query: a model that says something before each call of a tool would begin with each of them.

    Attributes:
        ctx: Of the query.
        sentences: The language.
    """

    ctx: Context
    sentences: Sentences
    _pause: float = attrs.field(default=FIRST_PAUSE, init=False)
    _has_thought: bool = attrs.field(default=False, init=False)
    _next: float | None = attrs.field(default=None, init=False)

    def heard(self, draft: Draft) -> None:
        """Take note of what has come of a reply. Never waits."""
        if not draft.length:
            if draft.thought and not self._has_thought:
                self._has_thought = True
                self.ctx.log(self.sentences.thinking)
            return
        now = trio.current_time()
        if self._next is None:
            self.ctx.log(self.sentences.begun)
        elif now < self._next:
            return
        else:
            self.ctx.log(self.sentences.going_on.format(count=draft.length))
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._next = now + self._pause
