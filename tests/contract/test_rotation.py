"""Servers that rotate refresh tokens, and end them sooner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import jwt
import pytest

from tests.contract.servers import Server, embedded_server, real_server
from tests.servers import start_django
from trio_worker.testing import WebBuddy

FIVE_MINUTES, DAY = 300, 24 * 3600


@pytest.fixture(params=["embedded", "django"])
async def rotating(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """A server with SimpleJWT's default lifetimes, and with rotation."""
    if request.param == "django":
        lifetimes = ("--access-lifetime", str(FIVE_MINUTES), "--refresh-lifetime", str(DAY))
        with start_django(tmp_path, "--rotate", *lifetimes) as django:
            async with real_server(django) as server:
                yield server
    else:
        webbuddy = WebBuddy(access_lifetime=FIVE_MINUTES, refresh_lifetime=DAY, rotate_refresh_tokens=True)
        async with embedded_server(webbuddy, sockets=False) as server:
            yield server


async def refresh(server: Server, token: str) -> httpx.Response:
    """Use a refresh token."""
    return await server.anonymous.post("/api/token/refresh/", json={"refresh": token})


async def test_rotation(rotating: Server) -> None:
    """A refresh brings a new refresh token and ends the old one."""
    first = (await rotating.log_in(rotating.service))["refresh"]
    answer = await refresh(rotating, first)
    assert (answer.status_code, answer.json().keys()) == (200, {"access", "refresh"})
    second = answer.json()["refresh"]
    again = await refresh(rotating, first)
    assert (again.status_code, again.json()) == (
        401,
        {"detail": "Token is blacklisted", "code": "token_not_valid"},
    )
    assert (await refresh(rotating, second)).status_code == 200


async def test_lifetimes(rotating: Server) -> None:
    """Lifetimes are the server's choice; the tokens say them."""
    tokens = await rotating.log_in(rotating.service)
    for name, lifetime in (("access", FIVE_MINUTES), ("refresh", DAY)):
        claims = jwt.decode(tokens[name], options={"verify_signature": False})
        # SimpleJWT counts an access token's `exp` from the refresh token's moment: a second may end between.
        assert lifetime - 1 <= claims["exp"] - claims["iat"] <= lifetime
