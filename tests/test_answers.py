"""What an answer means goes by its status and shape: the table, row by row."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from trio_worker.answers import is_json, judge, retry_after, said, server_date
from trio_worker.errors import AccessDenied, Busy, NotFound, Refused, Unavailable, WebBuddyError

HTML: dict[str, Any] = {"html": "<!doctype html><title>Oops</title><p>secret stack trace"}
DETAIL: dict[str, Any] = {"json": {"detail": "No such thing"}}
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def answer(status: int, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    request = httpx.Request("POST", "http://webbuddy/api/logs/?page=2")
    return httpx.Response(status, headers=headers, request=request, **body)


def judged(response: httpx.Response) -> WebBuddyError:
    with pytest.raises(WebBuddyError) as caught:
        judge(response)
    assert str(caught.value).startswith("POST /api/logs/: WebBuddy answered ")
    assert "secret stack trace" not in str(caught.value)
    assert caught.value.status == response.status_code
    return caught.value


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("data", [{}, {"id": 1}, [], None, "text"])
def test_success_with_json_is_the_answer(status: int, data: object) -> None:
    """Whatever the JSON is; what it has to look like is the call's matter."""
    assert judge(answer(status, content=json.dumps(data))) == data


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, HTML, Unavailable),
        (200, {}, Unavailable),
        (204, {}, Unavailable),
        (200, {"content": b'{"id": 1'}, Unavailable),
        (200, {"content": b'{"id": "\xff\xfe"}'}, Unavailable),
        (200, {"content": b"[" * 100_000}, Unavailable),
        (301, HTML, Unavailable),
        (302, {}, Unavailable),
        (307, {}, Unavailable),
        (308, DETAIL, Unavailable),
        (400, DETAIL, Refused),
        (400, HTML, Unavailable),
        (400, {"json": {"log_data": ["This field may not be blank."]}}, Refused),
        (401, DETAIL, AccessDenied),
        (401, HTML, AccessDenied),
        (403, DETAIL, Refused),
        (403, HTML, Unavailable),
        (404, DETAIL, NotFound),
        (404, HTML, Unavailable),
        (404, {"text": "404 page not found"}, Unavailable),
        (404, {"json": {"message": "no Route matched"}}, Unavailable),
        (404, {"json": ["detail"]}, Unavailable),
        (405, DETAIL, Refused),
        (405, HTML, Unavailable),
        (405, {}, Unavailable),
        (406, DETAIL, Refused),
        (408, HTML, Unavailable),
        (413, HTML, Refused),
        (415, DETAIL, Refused),
        (429, DETAIL, Unavailable),
        (500, HTML, Busy),
        (500, DETAIL, Busy),
        (501, HTML, Unavailable),
        (502, HTML, Unavailable),
        (503, DETAIL, Unavailable),
        (504, {}, Unavailable),
        (520, HTML, Unavailable),
    ],
)
def test_each_row_of_the_table(status: int, body: dict[str, Any], kind: type[WebBuddyError]) -> None:
    """Exactly this class, no subclass."""
    assert type(judged(answer(status, **body))) is kind


@pytest.mark.parametrize(
    ("status", "body", "maybe"),
    [
        (200, HTML, True),
        (301, {}, False),
        (404, HTML, False),
        (405, HTML, False),
        (408, HTML, False),
        (429, HTML, False),
        (500, HTML, True),
        (502, HTML, True),
        (503, HTML, True),
        (504, HTML, True),
    ],
)
def test_whether_the_call_may_have_been_carried_out(status: int, body: dict[str, Any], maybe: bool) -> None:
    """Not, where the API never saw it or said so; else perhaps."""
    error = judged(answer(status, **body))
    assert isinstance(error, Unavailable)
    assert error.maybe_done is maybe


# --- Messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (502, HTML, "502 with an HTML page"),
        (502, {}, "502 with an empty body"),
        (502, {"text": "bad gateway"}, "502 with something that is not JSON"),
        (200, HTML, "200 with an HTML page, which is not the API's answer"),
        (404, HTML, "404 with an HTML page (is WEBBUDDY_URL right?)"),
        (400, HTML, "400 with an HTML page (the body is too long, or WebBuddy's ALLOWED_HOSTS lacks"),
        (400, {"json": {"log_data": ["Not blank."]}}, "400: log_data: Not blank."),
        (400, {"json": {}}, "400: no reason given"),
        (429, DETAIL, "429: No such thing"),
    ],
)
def test_the_message_says_what_came_and_what_to_do(status: int, body: dict[str, Any], message: str) -> None:
    """Plain English, for the operator; never HTML."""
    assert f"WebBuddy answered {message}" in str(judged(answer(status, **body)))


def test_a_redirect_names_its_goal() -> None:
    """It is what WEBBUDDY_URL should be."""
    error = judged(answer(301, {"Location": "https://webbuddy.example/api/logs/"}))
    assert "a redirect to https://webbuddy.example/api/logs/: set WEBBUDDY_URL" in str(error)
    assert "without saying where to" in str(judged(answer(302)))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"detail": "Not found."}, "Not found."),
        ({"error": "Invalid credentials"}, "Invalid credentials"),
        ({"log_data": ["Not blank.", "Too long."]}, "log_data: Not blank.; log_data: Too long."),
        ({"non_field_errors": ["Wrong."], "query": ["Gone."]}, "Wrong.; query: Gone."),
        ({"detail": "Two\n  lines"}, "Two lines"),
        ({"a": {"b": ["c"]}}, "a: b: c"),
        ({"a": None}, ""),
        (["x", 1], "x; 1"),
        ("плохо", "плохо"),
        ({}, ""),
    ],
)
def test_what_webbuddy_said_is_one_line(data: object, text: str) -> None:
    """DRF's shapes, and any other."""
    assert said(answer(400, json=data)) == text


def test_what_webbuddy_said_is_shortened() -> None:
    """300 characters at most; a page of HTML says nothing at all."""
    long = said(answer(400, json={"detail": "ж" * 5000}))
    assert len(long) == 300
    assert long.endswith("ж…")
    assert said(answer(400, **HTML)) == ""
    error = judged(answer(400, json={"detail": "ж" * 5000}))
    assert isinstance(error, Refused)
    assert error.detail == long


@pytest.mark.parametrize("nested", [b"[" * 600 + b"]" * 600, b"[" * 100_000 + b"]" * 100_000])
def test_nesting_without_end_is_no_crash(nested: bytes) -> None:
    """JSON made to break a parser is an error like any other."""
    assert judged(answer(400, content=nested))


def test_the_content_type_does_not_matter() -> None:
    """Proxies get it wrong in both directions."""
    assert is_json(answer(200, {"Content-Type": "text/html"}, content=b"{}"))
    assert not is_json(answer(200, {"Content-Type": "application/json"}, content=b"<html>"))


# --- Headers -------------------------------------------------------------------------------------


def date(seconds: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60),
        (" 60 ", 60),
        ("0", 0),
        ("1.5", 1.5),
        ("-5", 0),
        (date(90), 90),
        (date(-90), 0),
        ("Mon, 23 Nov 2026 12:01:00 -0000", 60),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("Mon, 99 Nov 2026 12:00:00 GMT", None),
        ("Mon, 23 Nov 99999999999 12:00:00 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [429, 500, 503])
def test_retry_after_in_both_its_forms(status: int, text: str, seconds: float | None) -> None:
    """Seconds, or a date by the server's own clock; nonsense is nothing, the past is now."""
    error = judged(answer(status, {"Retry-After": text, "Date": date(0)}))
    assert isinstance(error, Unavailable)
    assert error.retry_after == seconds


def test_a_retry_after_date_without_the_servers_date_goes_by_our_clock() -> None:
    """The best that is left."""
    until = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    seconds = retry_after(answer(503, {"Retry-After": until}))
    assert seconds is not None
    assert 7000 < seconds <= 7200


def test_the_servers_date() -> None:
    """Aware; None when it is missing or nonsense."""
    assert server_date(answer(200, {"Date": date(0)})) == NOW
    assert server_date(answer(200, {"Date": "yesterday"})) is None
    assert server_date(answer(200)) is None
