"""A WebBuddy that remembers which process has called: what nobody could tell from what it shows."""

from __future__ import annotations

import json
import re

import attrs
import httpx
from quart import has_request_context, request

from trio_worker.testing.simulated_crash import CALLER
from trio_worker.testing.simulated_evidence import Act, Evidence, Life, life_of
from trio_worker.testing.state import Account, LogEntry, StoredQuery
from trio_worker.testing.webbuddy import WebBuddy

__all__ = ["WatchedWebBuddy"]

ALL = "by_status"
_READ = re.compile(rf"/api/queries/(\d+|{ALL})/$")


@attrs.define(kw_only=True, eq=False)
class WatchedWebBuddy(WebBuddy):
    """A WebBuddy under the eyes of the simulation.

    Attributes:
        evidence: What is known of each query, by its text.
        lives: What is known of each process, by its number.
    """

    evidence: dict[str, Evidence]
    lives: dict[int, Life]

    def set_status(self, query: StoredQuery, status: str, account: Account) -> None:
        """Give a query a status, and note whose call it was."""
        evidence, request = self.evidence.get(query.query_text), _request()
        life = life_of(request)
        if evidence is not None and life:
            evidence.acts[len(query.history)] = Act(life, request, query.answer_text)
            if status == "in_progress":
                evidence.looks.append((self.now(), life))
        super().set_status(query, status, account)

    def add_entry(self, query: StoredQuery, project: int, text: str) -> LogEntry:
        """Append a log entry, and note whose call it was."""
        entry = super().add_entry(query, project, text)
        evidence = self.evidence.get(query.query_text)
        if evidence is not None:
            evidence.authors[entry.id] = _request()
        return entry

    def transport(self) -> httpx.AsyncBaseTransport:
        """Give a way to it, at whose end it is noted what is really shown to whom."""
        return _Shown(self, super().transport())

    def note_shown(self, request: httpx.Request) -> None:
        """Note that a process was shown how a query stands."""
        number = _read(request)
        if number is None:
            return
        look = (self.now(), life_of(request.headers[CALLER]))
        if number != ALL:
            if (evidence := self._evidence_of(number)) is not None:
                evidence.looks.append(look)
            return
        for query in self.queries.values():
            if (evidence := self.evidence.get(query.query_text)) is not None:
                evidence.lists.append(look)

    def note_lost(self, request: httpx.Request, status: int | None) -> None:
        """Note that a process has not heard what came of a request.

        Args:
            request: The request.
            status: Of the answer, if there was one.
        """
        sent, read = request.headers[CALLER], _read(request)
        life = life_of(sent)
        if read is not None:
            self.lives[life].failed_looks.append(self.now())
            if status is not None and (evidence := self._evidence_of(read)) is not None:
                evidence.failed_looks.append((self.now(), life))
        elif request.url.path.endswith("/api/logs/"):
            if (evidence := self._evidence_of(json.loads(request.content)["query"])) is not None:
                evidence.lost_entries.add(sent)
        elif request.method == "PATCH":
            number = request.url.path.strip("/").rpartition("/")[2]
            if (evidence := self._evidence_of(number)) is not None:
                body = json.loads(request.content)
                act = Act(life, sent, body.get("answer_text"))
                evidence.lost_changes.append((self.now(), body["status"], act))

    def _evidence_of(self, number: int | str) -> Evidence | None:
        query = None if number == ALL else self.queries.get(int(number))
        return None if query is None else self.evidence.get(query.query_text)


class _Shown(httpx.AsyncBaseTransport):
    """The last piece of the way: what comes back here was said by WebBuddy itself."""

    def __init__(self, webbuddy: WatchedWebBuddy, inner: httpx.AsyncBaseTransport) -> None:
        self._webbuddy = webbuddy
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry a request and its answer."""
        response = await self._inner.handle_async_request(request)
        if response.status_code == 200:
            self._webbuddy.note_shown(request)
        return response


def _read(request: httpx.Request) -> str | None:
    """Which query a request reads; `ALL`: many; None: it does not."""
    found = _READ.search(request.url.path)
    return found[1] if found and request.method == "GET" else None


def _request() -> str:
    """Which request of our processes is being answered; blank: it is none."""
    return request.headers.get(CALLER, "") if has_request_context() else ""
