"""One answer of the model server, listened to up to its end."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs

from trio_worker.handlers.chat.chunk import ChunkError, read_chunk
from trio_worker.handlers.chat.complaint import judge, read_complaint
from trio_worker.handlers.chat.draft import Draft
from trio_worker.handlers.chat.events import Event, EventReader, EventTooLongError
from trio_worker.handlers.chat.failures import Declined, Misconfigured, ModelError, NoAnswer, NotNow
from trio_worker.handlers.chat.reply import Reply

__all__ = ["LINGER_SECONDS", "MOST_OF_A_STREAM", "USAGE_SECONDS", "Listener"]

USAGE_SECONDS = 3.0
"""From the end of an answer to what it has cost, and to ``[DONE]``: both come at once, or not at all."""

LINGER_SECONDS = 1.0
"""From ``[DONE]`` to the end of the stream."""

MOST_OF_A_STREAM = 268_435_456
"""Bytes: a million tokens have fewer."""

_END = "[DONE]"

# An answer that ends so has not: the server has stopped it. vLLM and SGLang (abort), OpenRouter and Mistral
# (error), DeepSeek.
_STOPPED = ("abort", "error", "insufficient_system_resource")


@attrs.define
class Listener:
    """Takes the bytes of a stream, and says in the end what came of it.

    An answer that has its ``finish_reason`` is whole, whatever happens to the connection then.

    Attributes:
        shown: Makes what the server says fit for the log.
        draft: What has come.
    """

    shown: Callable[[str], str]
    draft: Draft = attrs.field(factory=Draft, init=False)
    _events: EventReader = attrs.field(factory=EventReader, init=False)
    _count: int = attrs.field(default=0, init=False)
    _is_over: bool = attrs.field(default=False, init=False)
    _problem: ModelError | None = attrs.field(default=None, init=False)

    @property
    def patience(self) -> float:
        """Seconds that more is worth waiting for."""
        if self._problem is not None:
            return 0.0
        if self._is_over:
            return LINGER_SECONDS
        return math.inf if self.draft.finish is None else USAGE_SECONDS

    def feed(self, piece: bytes) -> bool:
        """Take some bytes, and say whether there was anything of the answer in them.

        Never raises: how much longer to read is up to `patience`.
        """
        if self._is_over:
            return False
        before = self._state()
        try:
            for event in self._events.feed(piece):
                self._take(event)
                if self._is_over:
                    break
        except EventTooLongError as error:
            self._stop(self._strange(str(error)))
        self._count += len(piece)
        if self._count > MOST_OF_A_STREAM:
            self._stop(NoAnswer("endless", f"a stream of more than {MOST_OF_A_STREAM} bytes"))
        return self._state() != before

    def lose(self, reason: str) -> None:
        """Take note that the connection has ended, otherwise than it should."""
        self._stop(self._broken(reason))

    def reply(self) -> Reply:
        """Give what came.

        Raises:
            ModelError: It is no answer.
        """
        problem, reply = self._problem, self.draft.reply()
        # Some servers leave [DONE] out, and some the finish_reason; without both it was cut.
        if problem is None and not self._is_over and reply.finish is None:
            problem = self._broken("the stream ended in the middle")
        if problem is None and reply.finish in _STOPPED:
            problem = self._broken(f"the server has stopped: finish_reason {reply.finish}")
        if problem is None:
            return reply
        if isinstance(problem, NoAnswer):
            problem.reply = reply
        raise problem

    def _state(self) -> tuple[object, ...]:
        return self.draft.size, self.draft.thought, self.draft.finish, self._is_over

    def _take(self, event: Event) -> None:
        if event.data.strip() == _END:
            self._is_over = True
            return
        try:
            chunk = read_chunk(event.data)
        except ChunkError as error:
            if event.is_error:
                self._stop(self._complained(event))
            else:
                self._stop(self._strange(f"a chunk that is none: {error}: {self.shown(event.data)}"))
            return
        if event.is_error or chunk.is_error:
            self._stop(self._complained(event))
            return
        try:
            self.draft.add(chunk)
        except NoAnswer as error:
            self._is_over, self._problem = True, error

    def _stop(self, problem: ModelError) -> None:
        """Listen to no more; a problem, unless the answer was whole by then."""
        if not self._is_over and self.draft.finish is None:
            self._problem = problem
        self._is_over = True

    def _complained(self, event: Event) -> ModelError:
        complaint = read_complaint(event.data)
        reason = f"an error in the stream: {self.shown(complaint.message or event.data)}"
        found = judge(complaint.status or 500, complaint, reason)
        # What was taken and begun is not to be put aside, or asked in other words.
        if self.draft.has_begun and (isinstance(found, Declined) or not isinstance(found, NoAnswer)):
            return self._broken(reason)
        return found

    def _broken(self, reason: str) -> ModelError:
        """Say what it means when a reply breaks off: before anything has come, it can be asked for again."""
        if self.draft.has_begun:
            return NoAnswer("broken_off", f"{reason}, after {self.draft.length} characters")
        return NotNow(reason)

    def _strange(self, reason: str) -> ModelError:
        """What it means when something else comes than a chat completion.

        It would come again, so that asking again is of no use. From the very beginning, what answers there is
        no such server, and no query has deserved that; later it may be the query.
        """
        if self.draft.has_begun:
            return NoAnswer("strange", f"{reason}, after {self.draft.length} characters")
        return Misconfigured(reason)
