"""``GET /openapi.json``: all that listens, as OpenAPI 3.1 says it to programs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Container
from typing import Any

from quart import Response

from trio_worker.web.guard import Guard
from trio_worker.web.livez import LIVE_PATH
from trio_worker.web.metrics import METRICS_PATH
from trio_worker.web.push_endpoint import PUSH_PATH
from trio_worker.web.readiness import READY_PATH

__all__ = ["OPENAPI_PATH", "document", "openapi"]

OPENAPI_PATH = "/openapi.json"

Json = dict[str, Any]


def openapi(paths: Callable[[], Container[str]], guard: Guard) -> Callable[[], Awaitable[Response]]:
    """Make the endpoint.

    Args:
        paths: Says which there are, when somebody asks.
        guard: Knows where a token is needed.
    """

    async def handle() -> Response:
        return Response(json.dumps(document(paths(), guard)), content_type="application/json")

    return handle


def document(paths: Container[str], guard: Guard) -> Json:
    """Make the document.

    Args:
        paths: Which there are: it is about those alone.
        guard: Knows where a token is needed.
    """
    described: Json = {path: {"get": get, "head": _without_bodies(get)} for path, get in _PAGES.items()}
    described[PUSH_PATH] = {"post": _PUSH}
    schemes: Json = {}
    there = {path: methods for path, methods in described.items() if path in paths}
    for path, methods in there.items():
        kind, token = ("push", guard.push_token) if path == PUSH_PATH else ("admin", guard.admin_token)
        if token is not None and path != LIVE_PATH:
            schemes |= _schemes(kind)
            there[path] = {method: _locked(operation, kind) for method, operation in methods.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "trio-worker", "version": "1.0", "description": _ABOUT},
        "paths": there,
        "components": {"schemas": _SCHEMAS, "securitySchemes": schemes},
    }


_ABOUT = (
    "What a worker listens for. A path is the same with slashes doubled in it, and with one behind it. A path"
    " that is not here is answered with 404, another method with 405; where a token is needed, both with 401."
    " What is no HTTP is answered by the server alone, with an empty 400, or not at all."
)


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: Json, *media_types: str) -> Json:
    content = {media_type: {"schema": schema} for media_type in media_types or ("application/json",)}
    return {"description": description, "content": content}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": [*properties]}


_TEXT: Json = {"type": "string"}
_REASONS: Json = {"type": "object", "additionalProperties": _TEXT}
_SOME: Json = {**_REASONS, "minProperties": 1}
_NONE: Json = {**_REASONS, "maxProperties": 0}


def _noted(answer: Json) -> Json:
    notes = {**_SOME, "description": "What is not as it should be all the same; left out where all is well."}
    return {**answer, "properties": {**answer["properties"], "notes": notes}}


_SCHEMAS: Json = {
    "Push": {
        "type": "object",
        "properties": {
            "query_id": {
                "type": "integer",
                "minimum": 1,
                "maximum": 2**63 - 1,
                "description": "Which query is new. The worker claims the next one, whichever it is.",
            },
            "webbuddy_url": {
                "description": "Who pushes. It is compared with the worker's WEBBUDDY_URL, and never called.",
                "examples": ["http://localhost:8000"],
            },
        },
        "required": ["query_id"],
    },
    "Accepted": _object(status={"const": "accepted"}),
    "Detail": _object(detail={**_TEXT, "description": "What was wrong, for people."}),
    "Live": _object(live={"const": True}, reasons=_NONE),
    "NotLive": _object(live={"const": False}, reasons=_SOME),
    "Ready": _noted(_object(ready={"const": True}, reasons=_NONE)),
    "NotReady": _noted(_object(ready={"const": False}, reasons=_SOME)),
}

_ALWAYS: Json = {
    "400": _answer("A length and chunks: two servers could read it in two ways.", _ref("Detail")),
    "500": _answer("A bug of the worker's; its log has it.", _ref("Detail")),
}


def _page(name: str, summary: str, **answers: Json) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {status.strip("_"): answer for status, answer in answers.items()} | _ALWAYS,
    }


_PUSH: Json = _page(
    "push",
    "WebBuddy says that there is a new query: the worker looks into the queue.",
    _200=_answer("Heard.", _ref("Accepted")),
    _408=_answer("The body did not arrive within 2 seconds.", _ref("Detail")),
    _413=_answer("The body has more than 64 KiB.", _ref("Detail")),
) | {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Push")}}}}
_PUSH["responses"]["400"] = _answer("No push; or a length and chunks.", _ref("Detail"))

_EVENTS = (
    'Server-sent events, without an end. `snapshot`: `{"now": Unix time, "is": what the page shows}`,'
    " when that has changed, at most once a second. `beat`: the time, after 3 seconds of silence."
    " `full`: 8 look already, and it ends there."
)

_PAGES: dict[str, Json] = {
    LIVE_PATH: _page(
        "livez",
        "Whether each of the worker's loops goes on in time.",
        _200=_answer("They do.", _ref("Live")),
        _503=_answer("Those that are more than 30 s late, by name: only a restart helps.", _ref("NotLive")),
    ),
    READY_PATH: _page(
        "readyz",
        "Whether the worker takes queries.",
        _200=_answer("It does.", _ref("Ready")),
        _503=_answer("What keeps it from that, by name.", _ref("NotReady")),
    ),
    METRICS_PATH: _page(
        "metrics",
        "What the worker does, in figures.",
        _200=_answer(
            "Prometheus's own format, or OpenMetrics for those who accept it.",
            _TEXT,
            "text/plain",
            "application/openmetrics-text",
        ),
    ),
    "/": _page("status", "What the worker does, for people.", _200=_answer("The page.", _TEXT, "text/html")),
    "/status/events": _page(
        "events", "What the page shows, while it changes.", _200=_answer(_EVENTS, _TEXT, "text/event-stream")
    ),
    "/status.css": _page("style", "The page's style.", _200=_answer("It.", _TEXT, "text/css")),
    "/status.js": _page("script", "The page's script.", _200=_answer("It.", _TEXT, "text/javascript")),
    "/icon.svg": _page("icon", "The page's icon.", _200=_answer("It.", _TEXT, "image/svg+xml")),
    OPENAPI_PATH: _page(
        "openapi",
        "This document.",
        _200=_answer("It.", _object(openapi={"const": "3.1.0"}, paths={"type": "object"})),
    ),
}


def _without_bodies(get: Json) -> Json:
    answers = {status: {"description": answer["description"]} for status, answer in get["responses"].items()}
    return get | {"operationId": f"{get['operationId']}_head", "responses": answers}


def _locked(operation: Json, kind: str) -> Json:
    refused = _answer("A token is needed, or another one.", _ref("Detail"))
    refused["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    if operation["operationId"].endswith("_head"):
        del refused["content"]
    return operation | {
        "security": [{name: []} for name in _schemes(kind)],
        "responses": operation["responses"] | {"401": refused},
    }


def _schemes(kind: str) -> Json:
    token = f"WORKER_{kind.upper()}_TOKEN"
    return {
        f"{kind}_bearer": {"type": "http", "scheme": "bearer", "description": token},
        f"{kind}_basic": {
            "type": "http",
            "scheme": "basic",
            "description": f"Any user; the password is {token}",
        },
    }
