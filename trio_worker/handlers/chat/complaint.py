"""What a model server says is wrong, in an error's body or amid a stream, and what to do then."""

from __future__ import annotations

import re

import attrs
import msgspec

from trio_worker.handlers.chat.failures import Declined, Misconfigured, ModelError, NoAnswer, NotNow

__all__ = ["Complaint", "judge", "read_complaint"]

# By their texts, since the codes of these servers say no more than 400: vLLM (two of its sentences, and many
# others have the first), SGLang, and llama.cpp before it had a type for that.
_TOO_LONG = re.compile(
    r"maximum context length|longer than the maximum model length"
    r"|longer than the model's context length|exceeds the available context size"
)
# Not the question alone, but with the answer that was asked for: OpenAI and vLLM, which count both.
_WITH_THE_ANSWER = re.compile(r"max_(completion_)?tokens|in the completion")

# In a stream OpenAI's names stand alone, without the status that an answer has beside them.
_STATUSES = {
    "invalid_api_key": 401,
    "insufficient_quota": 402,
    "model_not_found": 404,
    "invalid_request_error": 400,
}


@attrs.frozen
class Complaint:
    """It.

    Attributes:
        codes: What it calls the error, by its ``code`` and its ``type``.
        message: What it says, for people.
    """

    codes: frozenset[str] = frozenset()
    message: str = ""

    @property
    def status(self) -> int | None:
        """What its codes stand for, where the status itself was 200 already; None: they do not say."""
        given = (int(code) for code in self.codes if re.fullmatch("[45][0-9]{2}", code))
        named = (status for name, status in _STATUSES.items() if name in self.codes)
        return next(given, None) or next(named, None)

    @property
    def is_too_long(self) -> bool:
        """Whether the context window is full."""
        known = {"context_length_exceeded", "exceed_context_size_error"}
        return bool(self.codes & known) or bool(_TOO_LONG.search(self.message))

    @property
    def counts_the_answer(self) -> bool:
        """Whether it is only too long together with the longest answer that was asked for."""
        return bool(_WITH_THE_ANSWER.search(self.message))


def read_complaint(body: bytes | str) -> Complaint:
    """Read one: in OpenAI's shape, or in those that are near to it. What is none says nothing."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return Complaint()  # a proxy's page says no more than its status does
    error = found.get("error", found) if isinstance(found, dict) else found
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or ""
        codes = frozenset(str(error[name]) for name in ("code", "type") if error.get(name))
        return Complaint(codes, message if isinstance(message, str) else str(message))
    return Complaint(message=error if isinstance(error, str) else "")


def judge(status: int, complaint: Complaint, reason: str, *, retry_after: float | None = None) -> ModelError:
    """Say what to do after an answer that is none.

    Args:
        status: Its status.
        complaint: What its body says.
        reason: All that, for the operator.
        retry_after: Seconds that it asks to wait, or None.
    """
    if complaint.is_too_long:
        return (Declined if complaint.counts_the_answer else NoAnswer)("too_long", reason)
    if "content_filter" in complaint.codes:
        return NoAnswer("filtered", reason)
    if status == 401:
        return Misconfigured(f"refuses the key ({reason})", status=status)
    if status in (402, 403, 404, 405, 501) or status < 400 or "insufficient_quota" in complaint.codes:
        return Misconfigured(reason, status=status)
    if status in (408, 409, 425, 429) or status >= 500:
        return NotNow(reason, retry_after=retry_after)
    if status in (400, 422):
        return Declined("not_taken", reason)
    return NoAnswer("too_long" if status == 413 else "not_taken", reason)
