"""The embedded WebBuddy's API: one method for each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from wsgiref.handlers import format_date_time

import attrs
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.routing import BaseConverter

from trio_worker.testing import rest_framework as drf
from trio_worker.testing.database import DatabaseLockedError
from trio_worker.testing.rest_framework import BodyTooLargeError, RefusalError, json_response, say
from trio_worker.testing.serializers import show_account, show_entry, show_project, show_query
from trio_worker.testing.signing import BadTokenError
from trio_worker.testing.usage_fields import REQUIRED_USAGE, usage_fields

if TYPE_CHECKING:
    from trio_worker.testing.state import Account, Call, LogEntry, StoredQuery
    from trio_worker.testing.webbuddy import WebBuddy

__all__ = ["CALL", "Api", "make_app"]

CALL = "trio_worker.testing.call"  # the key of this request's `Call` in its ASGI scope

STATUSES = ("queued", "in_progress", "done", "failed")
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="api"'}
PAGE = '<!doctype html><title>WebBuddy</title><div id="root"></div>'
# Django's page for an error, under DEBUG, shows the source around every frame.
LOCKED = "database is locked " + "<pre>" + "&nbsp;" * 15_000 + "</pre>"


def make_app(webbuddy: WebBuddy) -> QuartTrio:
    """Build the app that answers for this WebBuddy."""
    app = QuartTrio("trio_worker.testing")
    # A fault of our own must not look like one of WebBuddy's.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.config["MAX_CONTENT_LENGTH"] = None  # the limit is Django's, and so is the answer
    app.url_map.converters["key"] = KeyConverter
    api = Api(webbuddy)
    for name, method, path, view in api.routes():
        app.add_url_rule(path, name, view, methods=[method], provide_automatic_options=False)
    app.before_request(api.before)
    app.after_request(api.after)
    app.register_error_handler(RefusalError, api.refuse)
    app.register_error_handler(DatabaseLockedError, api.refuse_locked)
    app.register_error_handler(BodyTooLargeError, api.refuse_body)
    return app


class KeyConverter(BaseConverter):
    """Takes what Django's router takes for a query's number: anything but the other paths there."""

    regex = r"(?!(?:claim_next|by_status)/?$)[^/.]+"


@attrs.frozen
class Api:
    """Answers calls from the state of a WebBuddy."""

    webbuddy: WebBuddy

    def routes(self) -> list[tuple[str, str, str, Any]]:
        """List the endpoints: name, method, path and view."""
        return [
            ("login", "POST", "/api/login/", self.login),
            ("refresh", "POST", "/api/token/refresh/", self.refresh),
            ("me", "GET", "/api/users/me/", self.me),
            ("list", "GET", "/api/queries/", self.list_queries),
            ("create", "POST", "/api/queries/", self.create),
            ("claim_next", "POST", "/api/queries/claim_next/", self.claim_next),
            ("by_status", "GET", "/api/queries/by_status/", self.by_status),
            ("read", "GET", "/api/queries/<key:number>/", self.read),
            ("patch", "PATCH", "/api/queries/<key:number>/", self.patch),
            ("query_logs", "GET", "/api/queries/<key:number>/logs/", self.query_logs),
            ("logs", "POST", "/api/logs/", self.logs),
            ("token_usage", "POST", "/api/token-usage/", self.token_usage),
            ("project", "GET", "/api/projects/<key:number>/tokens/", self.project),
        ]

    # Around every call.

    async def before(self) -> Response | None:
        """Answer what is no call of the API."""
        host = request.host.partition(":")[0]
        if self.webbuddy.allowed_hosts is not None and host not in self.webbuddy.allowed_hosts:
            return drf.html(400, "Bad Request (400)")
        problem = request.routing_exception
        if isinstance(problem, MethodNotAllowed):
            return self._method_not_allowed(problem)
        if problem is not None or request.endpoint in self.webbuddy.missing:
            return self._page()
        drf.require_acceptable()
        return None

    async def after(self, response: Response) -> Response:
        """Add what every answer has."""
        response.headers["Date"] = format_date_time(self.webbuddy.now())
        return response

    async def refuse(self, error: RefusalError) -> Response:
        """Answer with what went wrong."""
        return json_response(error.body, error.status, error.headers)

    async def refuse_body(self, error: BodyTooLargeError) -> Response:
        """Answer as Django does, not DRF: it refuses to read such a body."""
        return drf.html(400, "Bad Request (400)")

    async def refuse_locked(self, error: DatabaseLockedError) -> Response:
        """Answer as Django does when SQLite says "database is locked"."""
        return Response(LOCKED, 500, content_type="text/html; charset=utf-8")

    def _method_not_allowed(self, problem: MethodNotAllowed) -> Response:
        drf.require_acceptable()
        if request.path not in ("/api/login/", "/api/token/refresh/"):
            self._account()
        allowed = {"Allow": ", ".join(problem.valid_methods or [])}
        return json_response({"detail": say(drf.BAD_METHOD, method=request.method)}, 405, allowed)

    def _page(self) -> Response:
        """Answer any other path: it is a matter of the page, which only knows GET."""
        if request.method in ("GET", "HEAD"):
            return Response(PAGE, 200, content_type="text/html; charset=utf-8")
        return Response("", 405, {"Allow": "GET, HEAD, OPTIONS"}, content_type="text/html; charset=utf-8")

    # Tokens and accounts.

    async def login(self) -> Response:
        """``POST /api/login/``."""
        data = await drf.read_json()
        account = self._find(data.get("username"), data.get("password"))
        if account is None:
            raise RefusalError(401, {"error": "Invalid credentials"})
        issue = self.webbuddy.signer.issue
        access, refresh = issue(account, "access"), issue(account, "refresh")
        return json_response({"access": access, "refresh": refresh, "user": show_account(account)})

    async def refresh(self) -> Response:
        """``POST /api/token/refresh/``."""
        data = drf.Checks({"refresh": drf.text()}, frozenset({"refresh"})).run(await drf.read_json())
        signer = self.webbuddy.signer
        try:
            claims = signer.read(data["refresh"], "refresh")
        except BadTokenError as error:
            raise _bad_token(str(error)) from None
        account = self.webbuddy.accounts.get(int(claims["user_id"]))
        if account is None:
            return drf.html(500, "Server Error (500)")  # SimpleJWT does not expect this
        if not account.is_active:
            raise RefusalError(401, {"detail": "No active account found for the given token."}, CHALLENGE)
        answer = {"access": signer.issue(account, "access")}
        if self.webbuddy.rotate_refresh_tokens:
            signer.blacklist(claims)
            answer["refresh"] = signer.issue(account, "refresh")
        return json_response(answer)

    async def me(self) -> Response:
        """``GET /api/users/me/``."""
        return json_response(show_account(self._account()))

    def _find(self, username: object, password: object) -> Account | None:
        if self.webbuddy.refuse_logins:
            return None
        for account in self.webbuddy.accounts.values():
            if account.is_active and (account.username, account.password) == (username, password):
                return account
        return None

    def _account(self) -> Account:
        """Give the account whose token the call carries."""
        kind, _, token = request.headers.get("Authorization", "").strip().partition(" ")
        if kind != "Bearer":
            raise RefusalError(401, {"detail": say(drf.NO_CREDENTIALS)}, CHALLENGE)
        if not token or " " in token.strip():
            message = "Authorization header must contain two space-delimited values"
            raise _unauthorized(message, "bad_authorization_header")
        claims = self._claims(token.strip())
        account = self.webbuddy.accounts.get(int(claims["user_id"]))
        if account is None:
            raise _unauthorized("User not found", "user_not_found")
        if not account.is_active:
            raise _unauthorized("User is inactive", "user_inactive")
        return account

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            claims = self.webbuddy.signer.read(token, "access")
        except BadTokenError as error:
            message = {"token_class": "AccessToken", "token_type": "access", "message": str(error)}
            raise _bad_token("Given token not valid for any token type", [message]) from None
        if "user_id" not in claims:
            raise _bad_token("Token contained no recognizable user identification")
        return claims

    # Queries.

    async def claim_next(self) -> Response:
        """``POST /api/queries/claim_next/``."""
        account = self._account()
        await self.webbuddy.database.select()
        query = self.webbuddy.next_queued(account)
        if query is None:
            raise RefusalError(404, {"detail": "No queued queries available"})
        async with self.webbuddy.database.upgrade():
            self.webbuddy.claim(query, account)
        self._note(query.id)
        return json_response(self._show(query))

    async def create(self) -> Response:
        """``POST /api/queries/``."""
        account = self._account()
        checks = drf.Checks(self._query_fields(), frozenset({"project", "query_text"}))
        values = checks.run(await drf.read_json())
        async with self.webbuddy.database.write():
            query = self.webbuddy.add_query(
                values["query_text"],
                project=values["project"],
                user=account.id,
                status=values.get("status", "queued"),
                answer_text=values.get("answer_text", ""),
                push=False,
            )
        self._note(query.id)
        self.webbuddy.push(query.id)
        return json_response(self._show(query), 201)

    async def list_queries(self) -> Response:
        """``GET /api/queries/``."""
        return drf.page_of(self._seen(), self._show)

    async def by_status(self) -> Response:
        """``GET /api/queries/by_status/?status=…``."""
        wanted = request.args.get("status", "")
        return drf.page_of([query for query in self._seen() if query.status == wanted], self._show)

    async def read(self, number: str) -> Response:
        """``GET /api/queries/{id}/``."""
        return json_response(self._show(self._query(self._account(), number)))

    async def patch(self, number: str) -> Response:
        """``PATCH /api/queries/{id}/``."""
        account = self._account()
        query = self._query(account, number)
        values = drf.Checks(self._query_fields()).run(await drf.read_json())
        async with self.webbuddy.database.write():
            status = values.pop("status", None)
            for name, value in values.items():
                setattr(query, name, value)
            if status is not None:
                self.webbuddy.set_status(query, status, account)
        return json_response(self._show(query))

    async def query_logs(self, number: str) -> Response:
        """``GET /api/queries/{id}/logs/``."""
        return drf.page_of(self._query(self._account(), number).entries, self._show_entry)

    async def logs(self) -> Response:
        """``POST /api/logs/``."""
        self._account()
        fields = {
            "project": drf.key(self.webbuddy.projects.__contains__),
            "query": drf.key(self.webbuddy.queries.__contains__),
            "log_data": drf.text(),
        }
        values = drf.Checks(fields, frozenset(fields)).run(await drf.read_json())
        query = self.webbuddy.queries[values["query"]]
        self._note(query.id)
        async with self.webbuddy.database.write():
            entry = self.webbuddy.add_entry(query, values["project"], values["log_data"])
        return json_response(self._show_entry(entry), 201)

    async def token_usage(self) -> Response:
        """``POST /api/token-usage/``, of newer versions."""
        self._account()
        values = drf.Checks(usage_fields(self.webbuddy), REQUIRED_USAGE).run(await drf.read_json())
        query = self.webbuddy.queries[values["query"]]
        self._note(query.id)
        async with self.webbuddy.database.write():
            query.token_usage.append(values)
            self.webbuddy.announce()
        return json_response(values, 201)

    async def project(self, number: str) -> Response:
        """``GET /api/projects/{id}/tokens/``, of newer versions."""
        account = self._account()
        if not number.isdecimal():
            raise RefusalError(404, {"detail": say(drf.NOT_FOUND)})
        if int(number) not in self.webbuddy.projects or not account.sees_project(int(number)):
            raise RefusalError(404, {"detail": "No Project matches the given query."})
        return json_response(show_project(self.webbuddy, int(number)))

    def _query_fields(self) -> dict[str, drf.Check]:
        return {
            "project": drf.key(self.webbuddy.projects.__contains__),
            "query_text": drf.text(),
            "answer_text": drf.text(blank=True),
            "status": drf.choice(*STATUSES),
        }

    def _seen(self) -> list[StoredQuery]:
        account = self._account()
        return [query for query in reversed(self.webbuddy.queries.values()) if account.sees(query)]

    def _query(self, account: Account, number: str) -> StoredQuery:
        if not number.isdecimal():
            raise RefusalError(404, {"detail": say(drf.NOT_FOUND)})
        self._note(int(number))
        query = self.webbuddy.queries.get(int(number))
        if query is None or not account.sees(query):
            raise RefusalError(404, {"detail": "No Query matches the given query."})
        return query

    def _note(self, query: int) -> None:
        cast("dict[str, Call]", request.scope)[CALL].query = query

    def _show(self, query: StoredQuery) -> dict[str, object]:
        return show_query(self.webbuddy, query)

    def _show_entry(self, entry: LogEntry) -> dict[str, object]:
        return show_entry(self.webbuddy, entry)


def _unauthorized(detail: str, code: str) -> RefusalError:
    return RefusalError(401, {"detail": detail, "code": code}, CHALLENGE)


def _bad_token(detail: str, messages: object = None) -> RefusalError:
    body: dict[str, object] = {"detail": detail, "code": "token_not_valid"}
    if messages is not None:
        body["messages"] = messages
    return RefusalError(401, body, CHALLENGE)
