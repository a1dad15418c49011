"""Requests and answers that are made at the least cost are what httpx's own constructors make."""

from __future__ import annotations

import httpx
import pytest

from trio_worker.messages import ReadResponse, ReadyHeaders, ReadyRequest, url_below

BASES = [
    "http://127.0.0.1:8000/",
    "https://webbuddy.example/",
    "https://webbuddy.example:8443/portal/",
    "http://[::1]:8000/",
    "https://bücher.example/a%20b/",
]
PATHS = ["api/queries/claim_next/", "api/logs/", "api/queries/4711/"]
PAIRS = [(b"Content-Type", b"application/json"), (b"X-Odd", b"caf\xe9"), (b"Vary", b"a"), (b"vary", b"b")]


def attributes(thing: object) -> dict[str, object]:
    """What a constructor has left behind, in a form that can be compared."""
    found = dict(vars(thing))
    found["stream"] = list(found["stream"])
    found["headers"] = found["headers"].raw
    return found


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("path", PATHS)
def test_the_url_of_a_path(base: str, path: str) -> None:
    """It is the one that `join` gives, part by part."""
    url, expected = url_below(httpx.URL(base), path), httpx.URL(base).join(path)
    assert url == expected
    assert (url.scheme, url.host, url.port, url.netloc) == (
        expected.scheme,
        expected.host,
        expected.port,
        expected.netloc,
    )
    assert (url.path, url.raw_path, url.query, str(url)) == (
        expected.path,
        expected.raw_path,
        expected.query,
        str(expected),
    )
    assert str(url.copy_merge_params({"status": "queued"})) == f"{expected}?status=queued"


def test_headers() -> None:
    """Read, changed and sent like any others; a byte that is no ASCII is one of Latin-1."""
    headers, expected = ReadyHeaders(PAIRS), httpx.Headers(PAIRS, encoding="latin-1")
    assert headers == expected
    assert headers.raw == expected.raw == PAIRS
    assert headers["x-odd"] == "café"
    assert headers.get_list("VARY") == ["a", "b"]
    assert "content-type" in headers
    headers["Vary"] = expected["Vary"] = "c"
    assert headers.raw == expected.raw
    del headers["x-odd"]
    assert "X-Odd" not in headers


@pytest.mark.parametrize("extensions", [None, {"a": 1}])
def test_a_request(extensions: dict[str, int] | None) -> None:
    """Attribute by attribute."""
    url = httpx.URL("http://webbuddy/api/logs/")
    headers = ReadyHeaders([(b"Host", b"webbuddy"), (b"Content-Length", b"4")])
    request = ReadyRequest("POST", url, headers=headers, content=b"text", extensions=extensions)
    expected = httpx.Request("POST", url, headers=headers, content=b"text", extensions=extensions)
    assert attributes(request) == attributes(expected)
    assert request.read() == request.content == b"text"


async def test_an_answer() -> None:
    """Attribute by attribute, after httpx has read its own."""
    request = httpx.Request("GET", "http://webbuddy/")
    response = ReadResponse(200, ReadyHeaders([(b"A", b"b")]), b'{"a": 1}', request)
    expected = httpx.Response(
        200, headers=[(b"A", b"b")], stream=httpx.ByteStream(b'{"a": 1}'), request=request
    )
    await expected.aread()
    ours, theirs = attributes(response), attributes(expected)
    del theirs["_decoder"]  # of a coding, with which its body has been read
    assert ours == theirs
    assert await response.aread() == response.content == b'{"a": 1}'
    assert response.json() == {"a": 1}
    assert response.is_success
