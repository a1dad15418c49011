"""Headers that tell a browser to be careful with an answer. Each answer of ours has them."""

from __future__ import annotations

from hypercorn.typing import ASGISendCallable, ASGISendEvent

__all__ = ["PAGE_HEADERS", "with_page_headers"]

# A page has its style and script in files of ours, and asks nobody else.
_POLICY = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)
"""What an answer has of its own under one of these names stays, and is the only one."""


def with_page_headers(send: ASGISendCallable) -> ASGISendCallable:
    """Give ASGI's ``send`` for one request, which adds `PAGE_HEADERS` to its answer."""

    async def send_with_headers(event: ASGISendEvent) -> None:
        if event["type"] == "http.response.start":
            headers = list(event["headers"])
            own = {name.lower() for name, _ in headers}
            event["headers"] = [*headers, *(header for header in PAGE_HEADERS if header[0] not in own)]
        await send(event)

    return send_with_headers
