"""What an answer of WebBuddy means, judged by its status and its shape; never by its text.

==================================  ========================================================
2xx with JSON                       the answer
2xx with anything else              `Unavailable`, perhaps done: a proxy's page
3xx; 404 without JSON ``detail``;   `Unavailable`, not done: the API itself never saw the call.
any 4xx without JSON, but for       Where it fits, with the question whether WEBBUDDY_URL is
the page that a long body gets      right
401                                 `AccessDenied`
404, JSON with ``detail``           `NotFound`
408, 429                            `Unavailable`, not done
other 4xx                           `Refused`, with what WebBuddy said
500                                 `Busy`
other 5xx                           `Unavailable`, perhaps done
==================================  ========================================================

Why an answer from somebody before the API is not `Refused`: a proxy answers so while the backend is
being replaced (Traefik: 404 in plain text; others redirect to a page of excuses). To take that for
WebBuddy's last word would throw away the result of an hour's work because of a minute's upgrade.
A URL that is wrong altogether shows at the log-in already.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import httpx

from trio_worker import clock
from trio_worker.errors import AccessDenied, Busy, NotFound, Refused, Unavailable, WebBuddyError

__all__ = ["call_name", "is_json", "judge", "read_json", "retry_after", "said", "server_date"]

LONGEST_DETAIL = 300

LONG_BODY = 1024 * 1024  # bytes; below, no server's 400 is about the size

_HINTS = {
    400: "the body is too long, or WebBuddy's ALLOWED_HOSTS lacks the host name in WEBBUDDY_URL",
    404: "is WEBBUDDY_URL right?",
    405: "is WEBBUDDY_URL right?",
}
"""What is wrong when such an answer does not come from the API itself (it is not JSON)."""


def judge(response: httpx.Response) -> Any:
    """Give the decoded JSON of a good answer, or raise what the answer means.

    Args:
        response: The answer, read to its end.

    Raises:
        WebBuddyError: As the table at the top of this file says.
    """
    if 200 <= response.status_code < 300:
        return _decoded(response)
    raise _error(response)


def call_name(request: httpx.Request) -> str:
    """Name a call in a message: method and path, no query string, nothing secret."""
    return f"{request.method} {request.url.path}"


def read_json(response: httpx.Response) -> Any:
    """Decode a body.

    Raises:
        ValueError: When it is not JSON in UTF-8.
    """
    try:
        return json.loads(response.content)
    except RecursionError:  # "[[[[…": valid JSON, of nobody who means it
        raise ValueError("JSON that is nested too deeply") from None


def is_json(response: httpx.Response) -> bool:
    """Whether the body is JSON; its Content-Type is not asked, proxies get it wrong."""
    try:
        read_json(response)
    except ValueError:
        return False
    return True


def said(response: httpx.Response) -> str:
    """Give what WebBuddy said in an error: a line of at most 300 characters, "" when nothing.

    Django REST framework has ``{"detail": …}``, ``{"error": …}`` (the log-in) and
    ``{"field": ["…"]}``. An HTML page gives nothing.
    """
    try:
        text = " ".join("; ".join(_sentences(read_json(response))).split())
    except (ValueError, RecursionError):
        return ""
    return text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 1] + "…"


def retry_after(response: httpx.Response) -> float | None:
    """Read ``Retry-After``, in both its forms (RFC 9110, section 10.2.3).

    Returns:
        Seconds from now, 0 or more; None when it is missing or nonsense.
    """
    text = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        until = _http_date(text)
        if until is None:
            return None
        # By the server's own clock when it shows it: the two clocks may differ.
        seconds = (until - (server_date(response) or clock.utc_now())).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def server_date(response: httpx.Response) -> datetime | None:
    """Read ``Date``: the server's (or a proxy's) clock, aware, whole seconds; None without it."""
    return _http_date(response.headers.get("Date", ""))


def _decoded(response: httpx.Response) -> Any:
    try:
        return read_json(response)
    except ValueError:
        raise Unavailable(
            f"{_answered(response)}, which is not the API's answer", status=response.status_code
        ) from None


def _error(response: httpx.Response) -> WebBuddyError:
    status = response.status_code
    if status == 500:
        return Busy(_answered(response), status=status, retry_after=retry_after(response))
    if status in (408, 429):
        return Unavailable(
            _answered(response), status=status, retry_after=retry_after(response), maybe_done=False
        )
    if status > 500:
        return Unavailable(_answered(response), status=status, retry_after=retry_after(response))
    if status < 400:
        return Unavailable(
            _redirected(response), status=status, retry_after=retry_after(response), maybe_done=False
        )
    if status == 401:
        return AccessDenied(_answered(response), status=status)
    if status == 404 and _has_detail(response):
        return NotFound(_answered(response), status=status, detail=said(response))
    if status == 404 or not (is_json(response) or _too_long(response)):
        return Unavailable(
            _answered(response), status=status, retry_after=retry_after(response), maybe_done=False
        )
    return Refused(_answered(response), status=status, detail=said(response))


def _too_long(response: httpx.Response) -> bool:
    """Whether an error page is about the size of what was sent: that will never be taken.

    Django and Django REST framework answer 400 to it, with HTML, which they also do to a host name
    that is not in ALLOWED_HOSTS; nginx answers 413.
    """
    status = response.status_code
    return status == 413 or (status == 400 and len(response.request.content) > LONG_BODY)


def _answered(response: httpx.Response) -> str:
    """Say what came, for the operator; of HTML (up to 100 kB of it) only that it came."""
    sentence = f"{call_name(response.request)}: WebBuddy answered {response.status_code}"
    if is_json(response):
        return f"{sentence}: {said(response) or 'no reason given'}"
    hint = _HINTS.get(response.status_code)
    return f"{sentence} with {_shape(response)}" + (f" ({hint})" if hint else "")


def _redirected(response: httpx.Response) -> str:
    location = response.headers.get("Location", "")
    sentence = f"{call_name(response.request)}: WebBuddy answered {response.status_code}"
    if not location:
        return f"{sentence} without saying where to"
    return f"{sentence}, a redirect to {location[:LONGEST_DETAIL]}: set WEBBUDDY_URL to where that is"


def _shape(response: httpx.Response) -> str:
    start = response.content[:1024].lstrip().lower()
    if not start:
        return "an empty body"
    if start.startswith((b"<!doctype", b"<html")) or "html" in response.headers.get("Content-Type", ""):
        return "an HTML page"
    return "something that is not JSON"


def _has_detail(response: httpx.Response) -> bool:
    try:
        data = read_json(response)
    except ValueError:
        return False
    return isinstance(data, dict) and "detail" in data


def _sentences(data: object) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            named = key not in ("detail", "error", "non_field_errors", "code")
            for sentence in _sentences(value):
                yield f"{key}: {sentence}" if named else sentence
    elif isinstance(data, list):
        for item in data:
            yield from _sentences(item)
    elif data is not None:
        yield str(data)


@lru_cache(1)  # each answer has one, and they are the same for a second
def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
