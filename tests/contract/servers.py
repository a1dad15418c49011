"""The servers that the contract suite runs against, all with the same face."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import attrs
import httpx
import jwt

from tests import servers
from trio_worker.testing import WebBuddy, serve_webbuddy
from trio_worker.testing.signing import KEY

__all__ = [
    "PROJECT_SETTINGS",
    "Backstage",
    "Credentials",
    "Server",
    "embedded_server",
    "external_server",
    "real_server",
]

PROJECT_SETTINGS = ("test_it_token", "test_it_project_id", "jira_token", "jira_project_id", "project_context")
SECONDS = 30  # for one call; generous, the machine may be busy


@attrs.frozen
class Credentials:
    """Somebody who can log in."""

    username: str
    password: str = attrs.field(repr=False)


class Backstage(Protocol):
    """What a worker can't do to a server, but a test has to."""

    signing_key: str

    def delete_query(self, number: int) -> None:
        """Delete a query."""

    def set_active(self, username: str, *, active: bool) -> None:
        """Disable or enable an account."""

    def set_project(self, number: int, settings: Mapping[str, str]) -> None:
        """Give a project some of its settings."""


@attrs.frozen
class Server:
    """A server under contract.

    Attributes:
        anonymous: A client that is not logged in.
        service: Its main account.
        member: An account of the project 1, where there is one.
        stranger: An account without a project, where there is one.
        project: The project to create queries in.
        backstage: None for a server that is not ours.
    """

    anonymous: httpx.AsyncClient
    service: Credentials
    member: Credentials | None = None
    stranger: Credentials | None = None
    project: int = 1
    backstage: Backstage | None = None

    @asynccontextmanager
    async def client(self, credentials: Credentials) -> AsyncIterator[httpx.AsyncClient]:
        """Log in, and give a client that carries the token."""
        tokens = await self.log_in(credentials)
        headers = {**self.anonymous.headers, "Authorization": f"Bearer {tokens['access']}"}
        # The connections are the anonymous client's; it closes them.
        yield httpx.AsyncClient(
            transport=_Shared(self.anonymous), base_url=self.anonymous.base_url, headers=headers
        )

    async def log_in(self, credentials: Credentials) -> dict[str, Any]:
        """Log in, and give the whole answer."""
        answer = await self.anonymous.post("/api/login/", json=attrs.asdict(credentials))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def sign(self, claims: Mapping[str, object]) -> str:
        """Sign a token that the server never issued."""
        assert self.backstage is not None
        return jwt.encode(dict(claims), self.backstage.signing_key, "HS256")


@attrs.frozen
class _Shared(httpx.AsyncBaseTransport):
    """Another client's transport, without closing it."""

    owner: httpx.AsyncClient

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.owner._transport.handle_async_request(request)


@attrs.frozen
class EmbeddedBackstage:
    """Behind the embedded WebBuddy."""

    webbuddy: WebBuddy
    signing_key: str = KEY

    def delete_query(self, number: int) -> None:
        """Delete a query."""
        self.webbuddy.delete_query(number)

    def set_active(self, username: str, *, active: bool) -> None:
        """Disable or enable an account."""
        for number, account in self.webbuddy.accounts.items():
            if account.username == username:
                self.webbuddy.accounts[number] = attrs.evolve(account, is_active=active)

    def set_project(self, number: int, settings: Mapping[str, str]) -> None:
        """Give a project some of its settings."""
        self.webbuddy.project_settings[number] = dict(settings)


@attrs.frozen
class DjangoBackstage:
    """Behind the Django server: its database."""

    server: servers.DjangoServer
    signing_key: str = servers.SIGNING_KEY

    def delete_query(self, number: int) -> None:
        """Delete a query."""
        self.server.execute("DELETE FROM webbuddy_logentry WHERE query_id = ?", number)
        self.server.execute("DELETE FROM webbuddy_query WHERE id = ?", number)

    def set_active(self, username: str, *, active: bool) -> None:
        """Disable or enable an account."""
        self.server.execute("UPDATE auth_user SET is_active = ? WHERE username = ?", active, username)

    def set_project(self, number: int, settings: Mapping[str, str]) -> None:
        """Give a project some of its settings."""
        changes = ", ".join(f"{name} = ?" for name in settings)
        self.server.execute(
            f"UPDATE webbuddy_project SET {changes} WHERE id = ?",  # noqa: S608 - names of ours
            *settings.values(),
            number,
        )

    def reset(self) -> None:
        """Forget what the test before did."""
        self.server.execute("DELETE FROM webbuddy_logentry")
        self.server.execute("DELETE FROM webbuddy_query")
        self.server.execute("UPDATE auth_user SET is_active = 1")
        for number in (1, 2):
            self.set_project(number, dict.fromkeys(PROJECT_SETTINGS, ""))


@asynccontextmanager
async def embedded_server(webbuddy: WebBuddy, *, sockets: bool) -> AsyncIterator[Server]:
    """Run the embedded WebBuddy, in-process or on a socket."""
    webbuddy.allowed_hosts = frozenset({"localhost", "127.0.0.1"})
    async with webbuddy.running():
        if sockets:
            async with serve_webbuddy(webbuddy) as url, _plain_client(url) as client:
                yield _embedded(webbuddy, client)
        else:
            async with httpx.AsyncClient(transport=webbuddy.transport(), base_url=webbuddy.url) as client:
                yield _embedded(webbuddy, client)


def _embedded(webbuddy: WebBuddy, client: httpx.AsyncClient) -> Server:
    names = ("worker", "member", "stranger")
    service, member, stranger = (Credentials(name, "secret") for name in names)
    return Server(client, service, member, stranger, backstage=EmbeddedBackstage(webbuddy))


@asynccontextmanager
async def real_server(django: servers.DjangoServer) -> AsyncIterator[Server]:
    """Give the Django server, emptied."""
    backstage = DjangoBackstage(django)
    backstage.reset()
    names = ("worker", "member", "stranger")
    service, member, stranger = (Credentials(name, servers.PASSWORD) for name in names)
    async with _plain_client(django.url) as client:
        yield Server(client, service, member, stranger, backstage=backstage)


@asynccontextmanager
async def external_server() -> AsyncIterator[Server]:
    """Give the server that ``TEST_WEBBUDDY_URL`` names, its queue emptied by claiming.

    It is one for tests: whatever is queued there is claimed and ends as ``failed``.
    """
    account = Credentials(os.environ["TEST_WEBBUDDY_USERNAME"], os.environ["TEST_WEBBUDDY_PASSWORD"])
    async with _plain_client(os.environ["TEST_WEBBUDDY_URL"].rstrip("/")) as client:
        server = Server(client, account)
        async with server.client(account) as api:
            await _empty_queue(api)
            me = (await api.get("/api/users/me/")).json()
            yield attrs.evolve(server, project=me.get("project") or 1)
            await _empty_queue(api)


async def _empty_queue(api: httpx.AsyncClient) -> None:
    while True:
        answer = await api.post("/api/queries/claim_next/")
        if answer.status_code != 200:
            return
        number = answer.json()["id"]
        await api.patch(f"/api/queries/{number}/", json={"status": "failed", "answer_text": "a test's"})


def _plain_client(url: str) -> httpx.AsyncClient:
    # verify=False, trust_env=False: neither certificates nor proxies are what is tested here.
    return httpx.AsyncClient(base_url=url, timeout=SECONDS, verify=url.startswith("https"), trust_env=False)
