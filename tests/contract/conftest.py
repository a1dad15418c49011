"""Runs every test of the contract against every server that there is.

With ``TEST_WEBBUDDY_URL``, ``TEST_WEBBUDDY_USERNAME`` and ``TEST_WEBBUDDY_PASSWORD`` set, also
against that one: a server for tests, whose queue is emptied.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.contract.servers import (
    Backstage,
    Credentials,
    Server,
    embedded_server,
    external_server,
    real_server,
)
from tests.servers import DjangoServer, start_django
from trio_worker.testing import WebBuddy

KINDS = ["embedded", "embedded-sockets", "django"]
if "TEST_WEBBUDDY_URL" in os.environ:
    KINDS.append("external")


@pytest.fixture(scope="session")
def django_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DjangoServer]:
    """One Django server for all tests; it takes two seconds to start."""
    with start_django(tmp_path_factory.mktemp("django")) as server:
        yield server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which server."""
    return str(request.param)


@pytest.fixture
def django_if_wanted(kind: str, request: pytest.FixtureRequest) -> DjangoServer | None:
    """Start Django only for those who want it."""
    return request.getfixturevalue("django_server") if kind == "django" else None


@pytest.fixture
async def server(kind: str, django_if_wanted: DjangoServer | None) -> AsyncIterator[Server]:
    """The server, with an empty queue."""
    if django_if_wanted is not None:
        async with real_server(django_if_wanted) as server:
            yield server
    elif kind == "external":
        async with external_server() as server:
            yield server
    else:
        async with embedded_server(WebBuddy(), sockets=kind == "embedded-sockets") as server:
            yield server


@pytest.fixture
def anonymous(server: Server) -> httpx.AsyncClient:
    """A client that is not logged in."""
    return server.anonymous


@pytest.fixture
async def api(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service account."""
    async with server.client(server.service) as client:
        yield client


@pytest.fixture
def ours_only(kind: str) -> None:
    """Skip where a test needs what only servers of ours have or certainly do.

    Not async, and what skips may not be: pytest-trio would report the skip as an exception group,
    and it never runs an async fixture that is only named by ``usefixtures``.
    """
    if kind == "external":
        pytest.skip("needs accounts, settings or a reach behind the API that only our own servers give")


@pytest.fixture
async def member(server: Server, ours_only: None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an ordinary account, of project 1."""
    assert server.member is not None
    async with server.client(server.member) as client:
        yield client


@pytest.fixture
async def stranger(server: Server, ours_only: None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an account without a project."""
    assert server.stranger is not None
    async with server.client(server.stranger) as client:
        yield client


@pytest.fixture
def backstage(server: Server, ours_only: None) -> Backstage:
    """What only works with servers of ours."""
    assert server.backstage is not None
    return server.backstage


@pytest.fixture
def known_member(server: Server, ours_only: None) -> Credentials:
    """The ordinary account's name and password."""
    assert server.member is not None
    return server.member
