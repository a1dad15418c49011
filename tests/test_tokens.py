"""Tokens: fetched once however many ask, renewed in time and when refused, never fetched in vain."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import attrs
import httpx
import jwt
import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from trio_worker import tokens
from trio_worker.errors import AccessDenied, Busy, Unavailable
from trio_worker.tokens import REFUSAL_HOLDS, TokenAuth

KEY = "a key for tests, which nobody verifies by"
EPOCH = 1_795_000_000


@attrs.define
class Account:
    """Credentials that count how often they are asked."""

    username: str = "worker"
    password: str = "pass word ж"
    asked: int = 0

    async def read(self) -> tuple[str, str]:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return self.username, self.password


def token(claims: Mapping[str, Any]) -> str:
    return jwt.encode(dict(claims), KEY, algorithm="HS256")


@attrs.define(eq=False)
class Server:
    """Issues tokens, and takes those that are still good by the virtual clock."""

    life: float = 100.0
    ahead: float = 0.0  # of our clock
    rotate: bool = False
    delay: float = 0.0
    logins: int = 0
    refreshes: int = 0
    calls: list[int] = attrs.field(factory=list)
    good_until: dict[str, float] = attrs.field(factory=dict)
    refresh_tokens: set[str] = attrs.field(factory=set)
    bodies: list[dict[str, str]] = attrs.field(factory=list)
    answer_login: Callable[[], httpx.Response] | None = None
    answer_refresh: Callable[[], httpx.Response] | None = None
    login_goes_on: trio.Event | None = None
    refresh_goes_on: trio.Event | None = None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await trio.sleep(self.delay)
        if request.url.path == "/api/login/":
            if self.login_goes_on is not None:
                await self.login_goes_on.wait()
            self.logins += 1
            self.bodies.append(json.loads(request.content))
            return self.answer_login() if self.answer_login else self.issue(refresh=True)
        if request.url.path == "/api/token/refresh/":
            if self.refresh_goes_on is not None:
                await self.refresh_goes_on.wait()
            self.refreshes += 1
            return self.refreshed(json.loads(request.content)["refresh"])
        return self.called(request.headers["Authorization"].removeprefix("Bearer "))

    def refreshed(self, refresh: str) -> httpx.Response:
        if self.answer_refresh:
            return self.answer_refresh()
        if refresh not in self.refresh_tokens:
            return httpx.Response(401, json={"detail": "Token is expired", "code": "token_not_valid"})
        if self.rotate:
            self.refresh_tokens.remove(refresh)
        return self.issue(refresh=self.rotate)

    def called(self, access: str) -> httpx.Response:
        good = trio.current_time() < self.good_until.get(access, -1)
        self.calls.append(200 if good else 401)
        return httpx.Response(self.calls[-1], json={"detail": "No."})

    def issue(self, *, refresh: bool) -> httpx.Response:
        number = self.logins + self.refreshes
        now = EPOCH + self.ahead + trio.current_time()
        access = token({"exp": now + self.life, "iat": now, "jti": str(number)})
        self.good_until[access] = trio.current_time() + self.life
        answer = {"access": access}
        if refresh:
            answer["refresh"] = f"refresh-{number}"
            self.refresh_tokens.add(f"refresh-{number}")
        return httpx.Response(200, json=answer)

    def revoke(self, *, refresh: bool = False) -> None:
        self.good_until.clear()
        if refresh:
            self.refresh_tokens.clear()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def auth(account: Account) -> TokenAuth:
    return TokenAuth(
        account,
        login_url="http://webbuddy/api/login/",
        refresh_url="http://webbuddy/api/token/refresh/",
    )


@pytest.fixture
def client(server: Server, auth: TokenAuth) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(server), auth=auth, base_url="http://webbuddy")


async def call(client: httpx.AsyncClient) -> int:
    return (await client.post("api/queries/claim_next/", headers={"User-Agent": "test"})).status_code


async def many(client: httpx.AsyncClient, number: int = 50) -> list[int]:
    statuses: list[int] = []

    async def one() -> None:
        statuses.append(await call(client))

    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(one)
    return statuses


# --- One at a time -------------------------------------------------------------------------------


async def test_fifty_first_calls_are_one_log_in(
    client: httpx.AsyncClient, server: Server, auth: TokenAuth, autojump_clock: object
) -> None:
    """However many consumers start at once, one of them logs in."""
    server.delay = 1
    assert not auth.logged_in
    assert await many(client) == [200] * 50
    assert (server.logins, server.refreshes) == (1, 0)
    assert auth.logged_in


async def test_a_revocation_is_one_refresh(
    client: httpx.AsyncClient, server: Server, autojump_clock: object
) -> None:
    """Fifty calls meet a 401, one of them renews the token, each is repeated once."""
    server.delay = 1
    await call(client)
    server.revoke()
    server.calls.clear()
    assert await many(client) == [200] * 50
    assert (server.logins, server.refreshes) == (1, 1)
    assert sorted(server.calls) == [200] * 50 + [401] * 50


async def test_a_401_that_comes_late_finds_the_new_token(
    client: httpx.AsyncClient, server: Server, autojump_clock: object
) -> None:
    """Another task has renewed meanwhile: the refused token is no longer the current one."""
    await call(client)
    server.revoke()
    server.delay = 5

    async def later() -> None:
        await trio.sleep(4)  # sent with the old token, refused after the other's refresh has begun
        await call(client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, client)
        nursery.start_soon(later)
    assert (server.logins, server.refreshes) == (1, 1)
    assert server.calls.count(401) == 2


async def test_when_the_one_who_logs_in_is_cancelled_the_next_one_does(
    client: httpx.AsyncClient, server: Server
) -> None:
    """The lock is released, nothing is left half done."""
    server.login_goes_on = trio.Event()
    await cancel_the_first_of_three(client, server.login_goes_on)
    assert server.calls == [200, 200]
    assert server.logins == 1


async def test_when_the_one_who_refreshes_is_cancelled_the_next_one_does(
    client: httpx.AsyncClient, server: Server
) -> None:
    """The same in the middle of a refresh."""
    await call(client)
    server.revoke()
    server.refresh_goes_on = trio.Event()
    await cancel_the_first_of_three(client, server.refresh_goes_on)
    assert server.calls == [200, 401, 401, 401, 200, 200]
    assert (server.logins, server.refreshes) == (1, 1)


async def cancel_the_first_of_three(client: httpx.AsyncClient, goes_on: trio.Event) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as waiting:
            async with trio.open_nursery() as leading:
                leading.start_soon(call, client)
                await wait_all_tasks_blocked()
                waiting.start_soon(call, client)
                waiting.start_soon(call, client)
                await wait_all_tasks_blocked()
                leading.cancel_scope.cancel()
            goes_on.set()


# --- Expiry --------------------------------------------------------------------------------------


async def test_a_token_is_renewed_before_its_end(
    client: httpx.AsyncClient, server: Server, autojump_clock: object
) -> None:
    """A worker that calls all the time never sees a 401."""
    server.life = 3
    for _ in range(200):
        assert await call(client) == 200
        await trio.sleep(0.05)
    assert 401 not in server.calls
    assert server.logins == 1
    assert 3 <= server.refreshes <= 4


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
async def test_clocks_that_differ_do_not_matter(
    client: httpx.AsyncClient, server: Server, ahead: float, autojump_clock: object
) -> None:
    """WebBuddy's clock may be hours off: a token's life is `exp` - `iat`."""
    server.ahead = ahead
    await test_a_token_is_renewed_before_its_end(client, server, autojump_clock)


async def test_a_refreshed_token_lives_no_longer_than_the_first(
    client: httpx.AsyncClient, server: Server, autojump_clock: object
) -> None:
    """SimpleJWT copies `iat` from the refresh token: `exp` - `iat` grows, the life does not."""

    def refreshed() -> httpx.Response:
        now = EPOCH + trio.current_time()
        access = token({"exp": now + server.life, "iat": EPOCH})
        server.good_until[access] = trio.current_time() + server.life
        return httpx.Response(200, json={"access": access})

    server.answer_refresh = refreshed
    for _ in range(50):
        await call(client)
        await trio.sleep(9)
    assert 401 not in server.calls
    assert server.logins == 1


@pytest.mark.parametrize(
    ("life", "kept_for"),
    [(24 * 3600.0, 24 * 3600.0 - 60), (300.0, 300.0 - 30), (5.0, 4.5)],
)
async def test_the_leeway_is_a_minute_or_a_tenth_of_the_life(
    client: httpx.AsyncClient, server: Server, life: float, kept_for: float, autojump_clock: object
) -> None:
    """Used until then, renewed after."""
    server.life = life
    await call(client)
    await trio.sleep(kept_for - 0.01)
    await call(client)
    assert server.refreshes == 0
    await trio.sleep(0.02)
    await call(client)
    assert server.refreshes == 1


@pytest.mark.parametrize(
    ("access", "life"),
    [
        (token({"exp": EPOCH + 100, "iat": EPOCH}), 100),
        (token({"exp": EPOCH + 100.5, "iat": EPOCH}), 100.5),
        (token({"exp": EPOCH + 100}), 100),  # by the answer's Date
        (token({"exp": EPOCH - 100}), tokens.ASSUMED_LIFE),  # over already: some clock is wrong
        (token({"exp": EPOCH, "iat": EPOCH}), tokens.ASSUMED_LIFE),
        (token({"iat": EPOCH}), tokens.ASSUMED_LIFE),
        (token({"exp": "soon", "iat": EPOCH}), tokens.ASSUMED_LIFE),
        (token({"exp": True}), tokens.ASSUMED_LIFE),
        (token({"exp": float("inf")}), tokens.ASSUMED_LIFE),
        (token({"exp": 10**400}), tokens.ASSUMED_LIFE),
        (token({"exp": EPOCH + 100, "iat": None}), 100),
        ("not-a-jwt", tokens.ASSUMED_LIFE),
        ("a.b.c", tokens.ASSUMED_LIFE),
        ("....", tokens.ASSUMED_LIFE),
    ],
)
def test_how_long_a_token_lives(access: str, life: float) -> None:
    """From `exp` and `iat`; else by the server's clock; 24 h where it can't be read."""
    date = format_datetime(datetime.fromtimestamp(EPOCH, UTC), usegmt=True)
    assert tokens._life(access, httpx.Response(200, headers={"Date": date})) == life


def test_without_a_date_our_own_clock_must_do() -> None:
    """The last resort."""
    end = datetime.now(UTC).timestamp() + 1000
    assert 900 < tokens._life(token({"exp": end}), httpx.Response(200)) <= 1000


async def test_a_token_that_cannot_be_read_is_used_nevertheless(
    client: httpx.AsyncClient, server: Server, autojump_clock: object
) -> None:
    """For a day, or until it is refused."""

    def opaque() -> httpx.Response:
        server.good_until["opaque"] = trio.current_time() + 1000
        return httpx.Response(200, json={"access": "opaque"})

    server.answer_login = opaque
    assert await call(client) == 200
    await trio.sleep(1001)
    assert await call(client) == 200
    assert server.calls == [200, 401, 200]
    assert server.logins == 2


async def test_a_token_that_ends_at_once_is_used_once(
    client: httpx.AsyncClient, server: Server, autojump_clock: object
) -> None:
    """A life that is shorter than the way to WebBuddy does not make an endless loop of log-ins."""
    server.life, server.delay = 1.5, 1

    def refreshed() -> httpx.Response:
        return server.issue(refresh=False)

    server.answer_refresh = refreshed
    with trio.fail_after(60):
        assert await call(client) == 200
        assert await call(client) == 200
    assert server.logins == 1
    assert server.refreshes == 1


# --- Refreshing ----------------------------------------------------------------------------------


async def test_a_rotated_refresh_token_is_kept(
    client: httpx.AsyncClient, server: Server, autojump_clock: object
) -> None:
    """Each refresh uses the token that the one before brought; no second log-in."""
    server.rotate = True
    for _ in range(5):
        assert await call(client) == 200
        await trio.sleep(server.life)
    assert (server.logins, server.refreshes) == (1, 4)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, json={"detail": "Token is blacklisted", "code": "token_not_valid"}),
        httpx.Response(400, json={"refresh": ["This field may not be blank."]}),
        httpx.Response(403, json={"detail": "No."}),
        httpx.Response(404, html="<html>"),
        httpx.Response(405),
        httpx.Response(500, html="<html>"),  # of a deleted account
        httpx.Response(200, html="<html>"),  # the catch-all route
        httpx.Response(200, json={}),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"access": None}),
        httpx.Response(200, json={"access": "ж"}),
        httpx.Response(200, json={"access": "a\r\nHost: elsewhere"}),
        httpx.Response(302, headers={"Location": "/login"}),
    ],
    ids=lambda answer: f"{answer.status_code} {answer.text[:40]}",
)
async def test_a_refresh_that_brings_nothing_is_followed_by_a_log_in(
    client: httpx.AsyncClient, server: Server, answer: httpx.Response
) -> None:
    """Within the same call, and the refresh token is not tried again."""
    await call(client)
    server.revoke(refresh=True)
    server.answer_refresh = lambda: answer
    assert await call(client) == 200
    assert (server.logins, server.refreshes) == (2, 1)


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
async def test_a_refresh_that_gets_no_answer_keeps_its_token(
    client: httpx.AsyncClient, server: Server, status: int
) -> None:
    """Later it may work; a log-in now would not either."""
    await call(client)
    server.revoke()
    server.answer_refresh = lambda: httpx.Response(status, html="<html>", headers={"Retry-After": "7"})
    with pytest.raises(Unavailable, match=f"POST /api/token/refresh/.*{status}") as caught:
        await call(client)
    assert caught.value.retry_after == 7
    assert not caught.value.maybe_done
    server.answer_refresh = None
    assert await call(client) == 200
    assert (server.logins, server.refreshes) == (1, 2)


# --- Refused -------------------------------------------------------------------------------------


def wrong() -> httpx.Response:
    return httpx.Response(401, json={"error": "Invalid credentials"})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (wrong(), "WebBuddy refused the log-in of user 'worker' (401): Invalid credentials"),
        (httpx.Response(401, html="<html>"), "WebBuddy refused the log-in of user 'worker' (401)"),
        (httpx.Response(400, json={"username": ["Bad."]}), "user 'worker' (400): username: Bad."),
        (httpx.Response(403, json={"detail": "Locked."}), "user 'worker' (403): Locked."),
        (httpx.Response(401, json={"error": "not 'pass word ж'"}), "of user 'worker' (401)"),
    ],
)
async def test_a_refused_log_in_is_access_denied(
    client: httpx.AsyncClient, server: Server, auth: TokenAuth, answer: httpx.Response, message: str
) -> None:
    """With the account's name and what WebBuddy said, never the password."""
    server.answer_login = lambda: answer
    with pytest.raises(AccessDenied) as caught:
        await call(client)
    assert str(caught.value).endswith(message)
    assert "pass word" not in str(caught.value)
    assert caught.value.status == answer.status_code
    assert not auth.logged_in
    assert server.calls == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(429, json={"detail": "Slow."}, headers={"Retry-After": "7"}), Unavailable),
        (httpx.Response(500, html="<html>", headers={"Retry-After": "7"}), Busy),
        (httpx.Response(502, html="<html>", headers={"Retry-After": "7"}), Unavailable),
        (httpx.Response(200, html="<html>", headers={"Retry-After": "7"}), Unavailable),
        (httpx.Response(200, json={"token": "x"}, headers={"Retry-After": "7"}), Unavailable),
        (httpx.Response(301, headers={"Location": "/x", "Retry-After": "7"}), Unavailable),
        (httpx.Response(400, html="<html>", headers={"Retry-After": "7"}), Unavailable),
        (httpx.Response(403, html="<html>", headers={"Retry-After": "7"}), Unavailable),
        (httpx.Response(404, text="404 page", headers={"Retry-After": "7"}), Unavailable),
        (httpx.Response(405, headers={"Retry-After": "7"}), Unavailable),
    ],
    ids=lambda value: str(value.status_code) if isinstance(value, httpx.Response) else "",
)
async def test_what_is_no_answer_to_a_log_in_is_for_later(
    client: httpx.AsyncClient, server: Server, answer: httpx.Response, kind: type[Unavailable]
) -> None:
    """Not refused: a proxy says so in passing. Nothing was done, and the next call tries again."""
    server.answer_login = lambda: answer
    with pytest.raises(Unavailable, match="POST /api/login/") as caught:
        await call(client)
    assert type(caught.value) is kind
    assert caught.value.retry_after == 7
    assert not caught.value.maybe_done
    assert server.calls == []
    server.answer_login = None
    assert await call(client) == 200


@pytest.mark.parametrize("status", [200, 301, 400, 404, 405])
async def test_a_wrong_url_is_suspected_in_words(
    client: httpx.AsyncClient, server: Server, status: int
) -> None:
    """The message asks for WEBBUDDY_URL, or for ALLOWED_HOSTS in WebBuddy."""
    server.answer_login = lambda: httpx.Response(status, html="<html>")
    with pytest.raises(Unavailable, match="WEBBUDDY_URL"):
        await call(client)


async def test_a_refused_log_in_is_not_hammered(
    client: httpx.AsyncClient, server: Server, account: Account, autojump_clock: object
) -> None:
    """For a minute no caller logs in, then one does; so many callers are one log-in a minute."""
    server.answer_login = wrong
    for minute in range(1, 4):
        for _ in range(20):
            with pytest.raises(AccessDenied, match="Invalid credentials"):
                await call(client)
        assert server.logins == account.asked == minute
        await trio.sleep(REFUSAL_HOLDS)
    server.answer_login = None
    assert await call(client) == 200


async def test_a_refusal_can_be_forgotten(
    client: httpx.AsyncClient, server: Server, auth: TokenAuth, account: Account
) -> None:
    """With another password the next call works."""
    server.answer_login = wrong
    with pytest.raises(AccessDenied):
        await call(client)
    server.answer_login = None
    account.password = "new"
    with pytest.raises(AccessDenied):
        await call(client)
    auth.forget_refusal()
    assert await call(client) == 200
    assert server.bodies[-1] == {"username": "worker", "password": "new"}


async def test_each_caller_gets_an_error_of_its_own(client: httpx.AsyncClient, server: Server) -> None:
    """One exception object raised by many tasks would gather their tracebacks."""
    server.answer_login = wrong
    errors = []
    for _ in range(3):
        with pytest.raises(AccessDenied) as caught:
            await call(client)
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3


async def test_the_token_of_a_log_in_that_is_refused_is_the_end(
    client: httpx.AsyncClient, server: Server
) -> None:
    """An account that may log in but not call: no endless renewal."""
    server.life = -1  # never good

    with pytest.raises(AccessDenied, match="refused the token of a log-in"):
        await call(client)
    assert server.logins == 1
    with pytest.raises(AccessDenied):
        await call(client)
    assert server.logins == 1


async def test_a_refreshed_token_that_is_refused_is_followed_by_a_log_in(
    client: httpx.AsyncClient, server: Server
) -> None:
    """The refresh token may outlive what it stands for; only a log-in tells."""
    await call(client)
    server.revoke()
    server.answer_refresh = lambda: httpx.Response(200, json={"access": "revoked-as-well"})
    assert await call(client) == 200
    assert (server.logins, server.refreshes) == (2, 1)
    assert server.calls == [200, 401, 401, 200]


# --- What is sent, what is shown -----------------------------------------------------------------


async def test_the_log_in_is_sent_in_utf8_with_the_clients_headers(auth: TokenAuth, account: Account) -> None:
    """As the other calls, but without a token; a password may be anything, broken bytes included."""
    seen: list[httpx.Request] = []

    def app(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"access": "x"})

    account.password = "ж\udcff"
    headers = {"User-Agent": "trio-worker/1", "Accept-Language": "en"}
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(app), auth=auth, base_url="http://webbuddy", headers=headers
    ) as client:
        await client.get("api/users/me/", headers={"X-Other": "1"})
    login = seen[0]
    assert login.headers["User-Agent"] == "trio-worker/1"
    assert login.headers["Accept-Language"] == "en"
    assert login.headers["Content-Type"] == "application/json"
    assert "Authorization" not in login.headers
    assert "X-Other" not in login.headers
    assert '"ж?"'.encode() in login.content
    assert seen[1].headers["Authorization"] == "Bearer x"


async def test_no_secret_in_a_repr(client: httpx.AsyncClient, auth: TokenAuth, server: Server) -> None:
    """Neither password nor tokens."""
    await call(client)
    access = next(iter(server.good_until))
    for shown in (repr(auth), repr(auth._token)):
        assert access not in shown
        assert "pass word" not in shown
    assert "pass word" not in repr(await auth._next_ask(httpx.Request("GET", "http://webbuddy/")))


async def test_errors_of_the_transport_come_through_with_their_request(
    auth: TokenAuth, client: httpx.AsyncClient
) -> None:
    """So that the caller can tell that its own request was never sent."""

    def app(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone")

    async with httpx.AsyncClient(transport=httpx.MockTransport(app), auth=auth) as broken:
        with pytest.raises(httpx.ReadError) as caught:
            await broken.get("http://webbuddy/api/users/me/")
    assert caught.value.request.url.path == "/api/login/"
    assert await call(client) == 200  # the lock is free
