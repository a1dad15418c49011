"""What a worker may rely on, checked against the embedded WebBuddy and against real ones alike.

Section by section what is documented and what the servers do. The tests use plain httpx and
nothing of the worker's: they are about the servers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import jwt
import pytest

from tests.contract.servers import PROJECT_SETTINGS, Backstage, Credentials, Server

CLAIM = "/api/queries/claim_next/"
BODY_LIMIT = 2_621_440
JSON = {"Content-Type": "application/json"}
ENGLISH = {"Accept-Language": "en"}


async def create(api: httpx.AsyncClient, server: Server, text: str = "Протестировать авторизацию") -> int:
    """Create a query, as a user does."""
    answer = await api.post("/api/queries/", json={"project": server.project, "query_text": text})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def read(api: httpx.AsyncClient, number: int) -> dict[str, Any]:
    """Read a query."""
    answer = await api.get(f"/api/queries/{number}/")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def log(api: httpx.AsyncClient, server: Server, number: int, data: object) -> httpx.Response:
    """Post a log entry."""
    body = {"project": server.project, "query": number, "log_data": data}
    return await api.post("/api/logs/", json=body)


async def logged(api: httpx.AsyncClient, number: int) -> list[str]:
    """Read the texts of a query's log entries."""
    answer = await api.get(f"/api/queries/{number}/logs/")
    return [entry["log_data"] for entry in answer.json()["results"]]


def is_json(answer: httpx.Response) -> bool:
    """Tell whether an answer says that it is JSON."""
    return answer.headers["content-type"].startswith("application/json")


def is_html(answer: httpx.Response) -> bool:
    """Tell whether an answer says that it is a page."""
    return answer.headers["content-type"].startswith("text/html")


def bearer(token: str) -> dict[str, str]:
    """Give the header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


def claims_of(token: str) -> dict[str, Any]:
    """Read a token as a worker does: it has no key."""
    return dict(jwt.decode(token, options={"verify_signature": False}))


# Logging in.


async def test_login_gives_two_tokens_and_the_user(server: Server) -> None:
    """A log-in answers with ``access``, ``refresh`` and ``user``."""
    tokens = await server.log_in(server.service)
    assert {"access", "refresh", "user"} <= tokens.keys()
    assert tokens["user"]["username"] == server.service.username


async def test_tokens_say_when_they_end(server: Server) -> None:
    """Both tokens carry an ``exp`` that anybody can read; the refresh token lives longer."""
    tokens = await server.log_in(server.service)
    access, refresh = claims_of(tokens["access"]), claims_of(tokens["refresh"])
    assert time.time() < access["exp"] < refresh["exp"]
    assert (access["token_type"], refresh["token_type"]) == ("access", "refresh")
    assert access["exp"] > access["iat"]
    assert access["jti"] != refresh["jti"]
    assert jwt.get_unverified_header(tokens["access"])["alg"] == "HS256"


@pytest.mark.usefixtures("ours_only")
async def test_tokens_live_a_day_and_a_week(server: Server) -> None:
    """Access tokens live 24 h and refresh tokens 7 days."""
    tokens = await server.log_in(server.service)
    access, refresh = claims_of(tokens["access"]), claims_of(tokens["refresh"])
    assert access["exp"] - access["iat"] == 24 * 3600
    assert refresh["exp"] - refresh["iat"] == 7 * 24 * 3600


@pytest.mark.parametrize("username", ["", "nobody of that name"])
async def test_wrong_login(server: Server, anonymous: httpx.AsyncClient, username: str) -> None:
    """A wrong password or name is 401 with ``error``, in English whatever was asked for."""
    body = {"username": username or server.service.username, "password": "wrong"}
    answer = await anonymous.post("/api/login/", json=body)
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid credentials"})


async def test_disabled_account_cant_log_in(
    server: Server, anonymous: httpx.AsyncClient, backstage: Backstage, known_member: Credentials
) -> None:
    """To a disabled account the password is a wrong one."""
    backstage.set_active(known_member.username, active=False)
    body = {"username": known_member.username, "password": known_member.password}
    answer = await anonymous.post("/api/login/", json=body)
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid credentials"})


# Refreshing.


async def test_refresh(server: Server, anonymous: httpx.AsyncClient) -> None:
    """A refresh token brings a new access token, which works."""
    tokens = await server.log_in(server.service)
    answer = await anonymous.post("/api/token/refresh/", json={"refresh": tokens["refresh"]})
    assert answer.status_code == 200
    access = answer.json()["access"]
    assert access != tokens["access"]
    assert (await anonymous.get("/api/users/me/", headers=bearer(access))).status_code == 200


@pytest.mark.usefixtures("ours_only")
async def test_refresh_token_stays_good(server: Server, anonymous: httpx.AsyncClient) -> None:
    """Without rotation the answer has no ``refresh``, and the old one is good for more."""
    body = {"refresh": (await server.log_in(server.service))["refresh"]}
    for _ in range(2):
        answer = await anonymous.post("/api/token/refresh/", json=body)
        assert answer.status_code == 200
        assert answer.json().keys() == {"access"}


async def test_refresh_with_garbage(anonymous: httpx.AsyncClient) -> None:
    """What is no token is refused as an invalid one."""
    answer = await anonymous.post("/api/token/refresh/", json={"refresh": "garbage"})
    assert answer.status_code == 401
    assert answer.json() == {"detail": "Token is invalid", "code": "token_not_valid"}


async def test_refresh_with_access_token(server: Server, anonymous: httpx.AsyncClient) -> None:
    """An access token refreshes nothing."""
    tokens = await server.log_in(server.service)
    answer = await anonymous.post("/api/token/refresh/", json={"refresh": tokens["access"]})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_not_valid")


@pytest.mark.usefixtures("ours_only")
async def test_refresh_with_expired_token(server: Server, anonymous: httpx.AsyncClient) -> None:
    """An expired refresh token is 401 and says so."""
    claims = claims_of((await server.log_in(server.service))["refresh"])
    expired = server.sign({**claims, "exp": int(time.time()) - 1})
    answer = await anonymous.post("/api/token/refresh/", json={"refresh": expired})
    assert answer.status_code == 401
    assert answer.json() == {"detail": "Token is expired", "code": "token_not_valid"}


@pytest.mark.usefixtures("ours_only")
async def test_refresh_for_a_deleted_account(server: Server, anonymous: httpx.AsyncClient) -> None:
    """The server breaks: 500 with a page."""
    claims = claims_of((await server.log_in(server.service))["refresh"])
    orphan = server.sign({**claims, "user_id": "999999"})
    answer = await anonymous.post("/api/token/refresh/", json={"refresh": orphan})
    assert answer.status_code == 500
    assert is_html(answer)


async def test_refresh_for_a_disabled_account(
    server: Server, anonymous: httpx.AsyncClient, backstage: Backstage, known_member: Credentials
) -> None:
    """A disabled account gets 401, without ``code``."""
    tokens = await server.log_in(known_member)
    backstage.set_active(known_member.username, active=False)
    answer = await anonymous.post("/api/token/refresh/", json={"refresh": tokens["refresh"]})
    assert (answer.status_code, answer.json().keys()) == (401, {"detail"})


async def test_refresh_without_a_token(anonymous: httpx.AsyncClient) -> None:
    """The field is required."""
    answer = await anonymous.post("/api/token/refresh/", json={})
    assert (answer.status_code, answer.json().keys()) == (400, {"refresh"})


# Access tokens.


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic d29ya2VyOng="}])
async def test_no_token(anonymous: httpx.AsyncClient, headers: Mapping[str, str]) -> None:
    """Without a token: 401 without ``code``, with a challenge."""
    answer = await anonymous.post(CLAIM, headers=headers)
    assert answer.status_code == 401
    assert answer.json().keys() == {"detail"}
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_malformed_authorization(anonymous: httpx.AsyncClient) -> None:
    """A header that is no token is 401, never with the ``code`` of a token that expired."""
    answer = await anonymous.post(CLAIM, headers={"Authorization": "Bearer"})
    assert answer.status_code == 401
    assert answer.json().get("code") != "token_not_valid"


def assert_token_not_valid(answer: httpx.Response) -> None:
    """Assert the 401 for a token that is not good."""
    assert answer.status_code == 401
    body = answer.json()
    assert body.keys() == {"detail", "code", "messages"}
    assert body["code"] == "token_not_valid"
    assert body["messages"][0]["token_type"] == "access"


async def test_invalid_access_token(anonymous: httpx.AsyncClient) -> None:
    """Garbage is 401 ``token_not_valid``."""
    assert_token_not_valid(await anonymous.post(CLAIM, headers=bearer("garbage")))


async def test_refresh_token_as_access_token(server: Server, anonymous: httpx.AsyncClient) -> None:
    """A refresh token opens nothing."""
    tokens = await server.log_in(server.service)
    assert_token_not_valid(await anonymous.post(CLAIM, headers=bearer(tokens["refresh"])))


async def test_token_signed_by_somebody_else(server: Server, anonymous: httpx.AsyncClient) -> None:
    """A token with good claims and another signature opens nothing."""
    claims = claims_of((await server.log_in(server.service))["access"])
    forged = jwt.encode(claims, "a key that no server of ours has ever used", "HS256")
    assert_token_not_valid(await anonymous.post(CLAIM, headers=bearer(forged)))


@pytest.mark.usefixtures("ours_only")
async def test_expired_access_token(server: Server, anonymous: httpx.AsyncClient) -> None:
    """An expired token is 401 ``token_not_valid``."""
    claims = claims_of((await server.log_in(server.service))["access"])
    expired = server.sign({**claims, "exp": int(time.time()) - 1})
    answer = await anonymous.post(CLAIM, headers=bearer(expired))
    assert_token_not_valid(answer)
    assert answer.json()["messages"][0]["message"] == "Token is expired"


@pytest.mark.usefixtures("ours_only")
async def test_token_of_a_deleted_account(server: Server, anonymous: httpx.AsyncClient) -> None:
    """The account is gone: 401 ``user_not_found``."""
    claims = claims_of((await server.log_in(server.service))["access"])
    orphan = server.sign({**claims, "user_id": "999999"})
    answer = await anonymous.post(CLAIM, headers=bearer(orphan))
    assert (answer.status_code, answer.json()["code"]) == (401, "user_not_found")


async def test_token_of_a_disabled_account(
    server: Server, member: httpx.AsyncClient, backstage: Backstage, known_member: Credentials
) -> None:
    """The account was disabled: 401 ``user_inactive``."""
    backstage.set_active(known_member.username, active=False)
    answer = await member.post(CLAIM)
    assert (answer.status_code, answer.json()["code"]) == (401, "user_inactive")


# Claiming.


async def test_empty_queue(api: httpx.AsyncClient) -> None:
    """An empty queue is 404 JSON with ``detail``."""
    answer = await api.post(CLAIM)
    assert answer.status_code == 404
    assert is_json(answer)
    assert answer.json() == {"detail": "No queued queries available"}


async def test_claim(server: Server, api: httpx.AsyncClient) -> None:
    """A claim hands out the query, already in progress and with its times."""
    number = await create(api, server)
    answer = await api.post(CLAIM)
    assert answer.status_code == 200
    query = answer.json()
    assert query["id"] == number
    assert query["project"] == server.project
    assert isinstance(query["user"], int)
    assert query["query_text"] == "Протестировать авторизацию"
    assert query["status"] == "in_progress"
    assert datetime.fromisoformat(query["query_created"]) <= datetime.fromisoformat(query["query_started"])
    assert (await read(api, number))["status"] == "in_progress"


@pytest.mark.usefixtures("ours_only")
async def test_claim_has_more_keys(server: Server, api: httpx.AsyncClient) -> None:
    """Current servers send more than is documented, and times with their offset."""
    await create(api, server)
    query = (await api.post(CLAIM)).json()
    more = {"project_name", "user_name", "answer_text", "query_finished", "logs_count"}
    documented = {"id", "project", "user", "query_text", "status", "query_created", "query_started"}
    assert query.keys() == documented | more
    assert (query["logs_count"], query["query_finished"], query["answer_text"]) == (0, None, "")
    assert datetime.fromisoformat(query["query_created"]).utcoffset() == timedelta(hours=3)


async def test_claims_come_in_the_order_of_creation(server: Server, api: httpx.AsyncClient) -> None:
    """First in, first out, one query for each claim, none twice."""
    created = [await create(api, server, f"query {number}") for number in range(5)]
    claimed = [(await api.post(CLAIM)).json()["id"] for _ in created]
    assert claimed == created
    assert (await api.post(CLAIM)).status_code == 404


async def test_requeued_query_is_handed_out_again(server: Server, api: httpx.AsyncClient) -> None:
    """A query put back to ``queued`` keeps its place and its old answer."""
    first, second = await create(api, server), await create(api, server)
    await api.post(CLAIM)
    await api.patch(f"/api/queries/{first}/", json={"status": "queued", "answer_text": "half"})
    again = (await api.post(CLAIM)).json()
    assert (again["id"], again["answer_text"]) == (first, "half")
    assert (await api.post(CLAIM)).json()["id"] == second


async def test_claim_ignores_its_body(api: httpx.AsyncClient) -> None:
    """A claim has no body; one that is sent does no harm, whatever its type."""
    answer = await api.post(CLAIM, content=b"nonsense", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 404


async def test_claim_is_a_post(api: httpx.AsyncClient) -> None:
    """Other methods are 405, as JSON."""
    answer = await api.get(CLAIM)
    assert (answer.status_code, answer.json().keys()) == (405, {"detail"})


async def test_method_is_judged_after_the_token(anonymous: httpx.AsyncClient) -> None:
    """Who is not logged in learns nothing of methods."""
    assert (await anonymous.get(CLAIM)).status_code == 401


# Accounts.


async def test_me(server: Server, api: httpx.AsyncClient) -> None:
    """``users/me`` names the account."""
    answer = await api.get("/api/users/me/")
    assert answer.status_code == 200
    assert {"id", "username", "project"} <= answer.json().keys()
    assert answer.json()["username"] == server.service.username


async def test_me_without_a_token(anonymous: httpx.AsyncClient) -> None:
    """``users/me`` checks a token."""
    assert (await anonymous.get("/api/users/me/")).status_code == 401


async def test_me_tells_the_project(member: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    """An account without a project has ``project: null``."""
    assert (await member.get("/api/users/me/")).json()["project"] == 1
    assert (await stranger.get("/api/users/me/")).json()["project"] is None


async def test_account_without_a_project(
    server: Server, api: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """It sees an empty queue, never a 403, however much is queued."""
    number = await create(api, server)
    answer = await stranger.post(CLAIM)
    assert (answer.status_code, answer.json()) == (404, {"detail": "No queued queries available"})
    assert (await stranger.get("/api/queries/")).json()["count"] == 0
    assert (await stranger.get(f"/api/queries/{number}/")).status_code == 404


async def test_ordinary_account_sees_its_own_project(
    api: httpx.AsyncClient, member: httpx.AsyncClient
) -> None:
    """It gets its own project's queries only; the others do not exist for it."""
    other = (await api.post("/api/queries/", json={"project": 2, "query_text": "x"})).json()["id"]
    own = (await api.post("/api/queries/", json={"project": 1, "query_text": "x"})).json()["id"]
    assert (await member.post(CLAIM)).json()["id"] == own
    assert (await member.post(CLAIM)).status_code == 404
    assert (await member.get("/api/queries/")).json()["count"] == 1
    foreign = await member.patch(f"/api/queries/{other}/", json={"status": "done"})
    assert (foreign.status_code, foreign.json().keys()) == (404, {"detail"})


@pytest.mark.usefixtures("ours_only")
async def test_service_account_sees_all_projects(api: httpx.AsyncClient) -> None:
    """It gets every project's queries."""
    for project in (2, 1):
        await api.post("/api/queries/", json={"project": project, "query_text": "x"})
    assert [(await api.post(CLAIM)).json()["project"] for _ in range(2)] == [2, 1]


# Reporting.


@pytest.mark.parametrize("status", ["done", "failed"])
async def test_report(server: Server, api: httpx.AsyncClient, status: str) -> None:
    """The documented PATCH ends a query, and answers with it."""
    number = await create(api, server)
    await api.post(CLAIM)
    body = {"status": status, "answer_text": "Готово\nвсё", "query_finished": "2025-11-11T12:05:00Z"}
    answer = await api.patch(f"/api/queries/{number}/", json=body)
    assert answer.status_code == 200
    for query in (answer.json(), await read(api, number)):
        assert (query["id"], query["status"], query["answer_text"]) == (number, status, "Готово\nвсё")


@pytest.mark.usefixtures("ours_only")
@pytest.mark.parametrize("value", ["2025-11-11T12:05:00Z", "nonsense", None])
async def test_query_finished_is_read_only(server: Server, api: httpx.AsyncClient, value: object) -> None:
    """``query_finished`` is accepted, whatever it is, and ignored."""
    number = await create(api, server)
    answer = await api.patch(f"/api/queries/{number}/", json={"query_finished": value, "unknown": 1})
    assert (answer.status_code, answer.json()["query_finished"]) == (200, None)


async def test_every_status_may_follow_every_other(server: Server, api: httpx.AsyncClient) -> None:
    """There is no state machine: a late report overwrites a newer one, and repeating is harmless."""
    number = await create(api, server)
    for status in (
        "done",
        "done",
        "failed",
        "in_progress",
        "done",
        "queued",
        "failed",
        "queued",
        "in_progress",
    ):
        answer = await api.patch(f"/api/queries/{number}/", json={"status": status})
        assert (answer.status_code, answer.json()["status"]) == (200, status)


@pytest.mark.parametrize("status", ["finished", "", None, 5, []])
async def test_unknown_status(server: Server, api: httpx.AsyncClient, status: object) -> None:
    """Other words are refused, by the field's name."""
    number = await create(api, server)
    answer = await api.patch(f"/api/queries/{number}/", json={"status": status})
    assert (answer.status_code, answer.json().keys()) == (400, {"status"})
    assert (await read(api, number))["status"] == "queued"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        pytest.param("  both \n ends\t", "both \n ends", id="stripped"),
        pytest.param("", "", id="empty"),
        pytest.param(" \n ", "", id="blank"),
        pytest.param("\x1f\u2028x\u00a0", "x", id="strange-whitespace"),
        pytest.param("\U0001f600 \x07 \u200b", "\U0001f600 \x07 \u200b", id="kept"),
        pytest.param(5, "5", id="number"),
    ],
)
async def test_answer_taken(server: Server, api: httpx.AsyncClient, sent: object, kept: str) -> None:
    """Answers lose the whitespace at both ends and nothing else."""
    number = await create(api, server)
    answer = await api.patch(f"/api/queries/{number}/", json={"answer_text": sent})
    assert (answer.status_code, answer.json()["answer_text"]) == (200, kept)


REFUSED = [
    pytest.param(b"null", id="null"),
    pytest.param(b'"a\\u0000b"', id="nul"),
    pytest.param(b'"\\ud800"', id="high-surrogate"),
    pytest.param(b'"x\\udc00y"', id="low-surrogate"),
    pytest.param(b'["a"]', id="list"),
    pytest.param(b'{"a": 1}', id="object"),
    pytest.param(b"true", id="boolean"),
]


@pytest.mark.parametrize("value", REFUSED)
async def test_answer_refused(server: Server, api: httpx.AsyncClient, value: bytes) -> None:
    """What is no clean text is refused, and nothing of the call is done."""
    number = await create(api, server)
    body = b'{"status": "done", "answer_text": %b}' % value
    answer = await api.patch(f"/api/queries/{number}/", content=body, headers=JSON)
    assert (answer.status_code, answer.json().keys()) == (400, {"answer_text"})
    assert isinstance(answer.json()["answer_text"][0], str)
    assert (await read(api, number))["status"] == "queued"


async def test_surrogate_pair_is_one_character(server: Server, api: httpx.AsyncClient) -> None:
    """A pair of surrogate escapes is a letter like any other."""
    number = await create(api, server)
    body = b'{"answer_text": "\\ud83d\\ude00"}'
    answer = await api.patch(f"/api/queries/{number}/", content=body, headers=JSON)
    assert answer.json()["answer_text"] == "\U0001f600"


async def test_query_text_and_project_can_be_changed(server: Server, api: httpx.AsyncClient) -> None:
    """A PATCH may also change ``query_text`` and ``project``, but not to nothing."""
    number = await create(api, server)
    body = {"query_text": " other ", "project": server.project}
    answer = await api.patch(f"/api/queries/{number}/", json=body)
    assert (answer.status_code, answer.json()["query_text"]) == (200, "other")
    answer = await api.patch(f"/api/queries/{number}/", json={"query_text": " ", "project": 999999})
    assert (answer.status_code, answer.json().keys()) == (400, {"query_text", "project"})


async def test_empty_patch(server: Server, api: httpx.AsyncClient) -> None:
    """A PATCH of nothing changes nothing and is fine."""
    number = await create(api, server)
    before = await read(api, number)
    answer = await api.patch(f"/api/queries/{number}/", json={})
    assert (answer.status_code, answer.json()) == (200, before)


@pytest.mark.parametrize("number", ["999999999", "nonsense"])
async def test_unknown_query(api: httpx.AsyncClient, number: str) -> None:
    """A query that does not exist is 404 JSON with ``detail``, for every call."""
    path = f"/api/queries/{number}/"
    calls = [
        await api.patch(path, json={"status": "done"}),
        await api.get(path),
        await api.get(f"{path}logs/"),
    ]
    for answer in calls:
        assert (answer.status_code, answer.json().keys()) == (404, {"detail"})


async def test_deleted_query(server: Server, api: httpx.AsyncClient, backstage: Backstage) -> None:
    """A query that was deleted is 404 to report to and to read."""
    number = await create(api, server)
    backstage.delete_query(number)
    answer = await api.patch(f"/api/queries/{number}/", json={"status": "done"})
    assert (answer.status_code, answer.json().keys()) == (404, {"detail"})
    assert (await api.get(f"/api/queries/{number}/")).status_code == 404


# Logs.


async def test_log_entry(server: Server, api: httpx.AsyncClient) -> None:
    """An entry is 201 and stands in the query's log."""
    number = await create(api, server)
    answer = await log(api, server, number, "Начинаю")
    assert answer.status_code == 201
    assert answer.json()["query"] == number
    assert await logged(api, number) == ["Начинаю"]
    assert (await read(api, number)).get("logs_count", 1) == 1


async def test_log_entries_keep_their_order(server: Server, api: httpx.AsyncClient) -> None:
    """Entries posted one after the other stand so; the same twice stands twice."""
    number = await create(api, server)
    for text in ("one", "two", "two", "three"):
        assert (await log(api, server, number, text)).status_code == 201
    assert await logged(api, number) == ["one", "two", "two", "three"]


async def test_log_entry_is_stripped(server: Server, api: httpx.AsyncClient) -> None:
    """Whitespace at both ends goes; lines within stay."""
    number = await create(api, server)
    await log(api, server, number, "\n one\n  two \n")
    assert await logged(api, number) == ["one\n  two"]


@pytest.mark.parametrize(
    "value", [*REFUSED, pytest.param(b'""', id="empty"), pytest.param(b'" \\n"', id="blank")]
)
async def test_log_refused(server: Server, api: httpx.AsyncClient, value: bytes) -> None:
    """What is blank or no clean text is refused, by the field's name."""
    number = await create(api, server)
    body = b'{"project": %d, "query": %d, "log_data": %b}' % (server.project, number, value)
    answer = await api.post("/api/logs/", content=body, headers=JSON)
    assert (answer.status_code, answer.json().keys()) == (400, {"log_data"})
    assert await logged(api, number) == []


async def test_bulk_log_refused(server: Server, api: httpx.AsyncClient) -> None:
    """A list of entries is refused as a whole."""
    number = await create(api, server)
    entry = {"project": server.project, "query": number, "log_data": "x"}
    answer = await api.post("/api/logs/", json=[entry, entry])
    assert (answer.status_code, answer.json().keys()) == (400, {"non_field_errors"})
    assert await logged(api, number) == []


async def test_log_for_a_deleted_query(server: Server, api: httpx.AsyncClient, backstage: Backstage) -> None:
    """It is 400, by the field's name, not 404."""
    number = await create(api, server)
    backstage.delete_query(number)
    answer = await log(api, server, number, "x")
    assert (answer.status_code, answer.json().keys()) == (400, {"query"})


async def test_log_without_fields(api: httpx.AsyncClient) -> None:
    """All that is missing is said at once."""
    answer = await api.post("/api/logs/", json={})
    assert (answer.status_code, answer.json().keys()) == (400, {"project", "query", "log_data"})


@pytest.mark.parametrize("query", ["nonsense", None, True, []])
async def test_log_for_no_query(server: Server, api: httpx.AsyncClient, query: object) -> None:
    """A query's number has to be one."""
    body = {"project": server.project, "query": query, "log_data": "x"}
    answer = await api.post("/api/logs/", json=body)
    assert (answer.status_code, answer.json().keys()) == (400, {"query"})


async def test_logs_are_posted(api: httpx.AsyncClient) -> None:
    """There is nothing to GET at ``/api/logs/``."""
    answer = await api.get("/api/logs/")
    assert (answer.status_code, answer.json().keys()) == (405, {"detail"})


# Creating.


@pytest.mark.usefixtures("ours_only")
async def test_create(api: httpx.AsyncClient) -> None:
    """A new query is queued, its author is the account, its text is stripped."""
    answer = await api.post(
        "/api/queries/", json={"project": 1, "query_text": "  x ", "user": 999, "id": 999}
    )
    assert answer.status_code == 201
    query = answer.json()
    assert (query["status"], query["query_text"], query["query_started"]) == ("queued", "x", None)
    assert query["user"] == (await api.get("/api/users/me/")).json()["id"]
    assert query["id"] != 999


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"project", "query_text"}),
        ({"project": 999999, "query_text": " "}, {"project", "query_text"}),
        ({"project": None, "query_text": None}, {"project", "query_text"}),
        ({"project": "x", "query_text": []}, {"project", "query_text"}),
        ([], {"non_field_errors"}),
        ("text", {"non_field_errors"}),
    ],
)
async def test_create_refused(api: httpx.AsyncClient, body: object, fields: set[str]) -> None:
    """Validation is 400 with the fields' names, each with a list of texts."""
    answer = await api.post("/api/queries/", json=body)
    assert (answer.status_code, answer.json().keys()) == (400, fields)
    assert all(isinstance(texts, list) and texts for texts in answer.json().values())
    assert (await api.post(CLAIM)).status_code == 404


# Reading.


async def test_list_has_pages_of_50(server: Server, api: httpx.AsyncClient) -> None:
    """Lists come in pages, which name each other."""
    number = await create(api, server)
    for text in range(51):
        await log(api, server, number, f"entry {text}")
    first = (await api.get(f"/api/queries/{number}/logs/")).json()
    assert first.keys() == {"count", "next", "previous", "results"}
    assert (first["count"], len(first["results"]), first["previous"]) == (51, 50, None)
    assert first["results"][0]["log_data"] == "entry 0"
    second = (await api.get(first["next"])).json()
    assert (second["count"], second["next"]) == (51, None)
    assert [entry["log_data"] for entry in second["results"]] == ["entry 50"]
    assert second["previous"].endswith("/logs/")
    assert (await api.get(second["previous"])).json() == first


@pytest.mark.parametrize("page", ["0", "2", "nonsense"])
async def test_pages_that_are_not_there(server: Server, api: httpx.AsyncClient, page: str) -> None:
    """They are 404 JSON; the first page is always there."""
    number = await create(api, server)
    answer = await api.get(f"/api/queries/{number}/logs/", params={"page": page})
    assert (answer.status_code, answer.json().keys()) == (404, {"detail"})
    assert (await api.get(f"/api/queries/{number}/logs/")).json()["results"] == []


async def test_list(server: Server, api: httpx.AsyncClient) -> None:
    """The list holds every query that the account sees, as it is read one by one."""
    numbers = {await create(api, server) for _ in range(3)}
    answer = (await api.get("/api/queries/")).json()
    assert answer.keys() == {"count", "next", "previous", "results"}
    listed = {query["id"]: query for query in answer["results"]}
    assert numbers <= listed.keys()
    for number in numbers:
        assert listed[number] == await read(api, number)


async def test_by_status(server: Server, api: httpx.AsyncClient) -> None:
    """``by_status`` lists the queries of one status, in pages."""
    claimed, queued = await create(api, server), await create(api, server)
    await api.post(CLAIM)
    for status, number in (("in_progress", claimed), ("queued", queued)):
        answer = (await api.get("/api/queries/by_status/", params={"status": status})).json()
        assert answer.keys() == {"count", "next", "previous", "results"}
        listed = {query["id"] for query in answer["results"]}
        assert number in listed
        assert ({claimed, queued} - {number}).isdisjoint(listed)
        assert {query["status"] for query in answer["results"]} == {status}


@pytest.mark.usefixtures("ours_only")
async def test_by_status_keeps_its_status_over_pages(api: httpx.AsyncClient) -> None:
    """The address of the next page carries the status along."""
    for _ in range(51):
        await api.post("/api/queries/", json={"project": 1, "query_text": "x"})
    first = (await api.get("/api/queries/by_status/", params={"status": "queued"})).json()
    second = (await api.get(first["next"])).json()
    assert (len(first["results"]), len(second["results"])) == (50, 1)
    empty = (await api.get("/api/queries/by_status/", params={"status": "done"})).json()
    assert empty == {"count": 0, "next": None, "previous": None, "results": []}


# Projects' settings, which newer servers have.


USAGE = {
    "ai_agent_name": "trio-worker",
    "request_to_ai_agent": "Привет",
    "ai_agent_answer": "Здравствуйте",
    "model_name": "gpt",
    "model_role": "assistant",
}


async def use(api: httpx.AsyncClient, server: Server, **fields: object) -> httpx.Response:
    """Post what a model has used for a new query."""
    body = {"project": server.project, "query": await create(api, server), **USAGE, **fields}
    answer = await api.post("/api/token-usage/", json=body)
    if answer.status_code == 405 and is_html(answer):
        pytest.skip("this WebBuddy is an older one, and takes no token usage")
    return answer


async def test_token_usage(server: Server, api: httpx.AsyncClient) -> None:
    """All that is needed; numbers and prompts as well."""
    for fields in ({}, {"prompt_tokens": 5, "total_tokens": None, "user_prompt": ""}):
        answer = await use(api, server, **fields)
        assert (answer.status_code, answer.json()["model_name"]) == (201, "gpt"), answer.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_name", "x" * 51),
        ("model_role", ""),
        ("ai_agent_name", None),
        ("ai_agent_answer", " "),
        ("request_to_ai_agent", "a\0b"),
        ("prompt_tokens", "many"),
        ("project", 999999999),
        ("query", 999999999),
    ],
)
async def test_token_usage_refused(server: Server, api: httpx.AsyncClient, field: str, value: object) -> None:
    """The field that is wrong is named."""
    answer = await use(api, server, **{field: value})
    assert (answer.status_code, set(answer.json())) == (400, {field})


async def test_token_usage_is_not_blank(api: httpx.AsyncClient) -> None:
    """What is needed."""
    answer = await api.post("/api/token-usage/", json={})
    if answer.status_code == 405 and is_html(answer):
        pytest.skip("this WebBuddy is an older one, and takes no token usage")
    assert (answer.status_code, set(answer.json())) == (400, {"project", "query", *USAGE})


def tokens_of(project: object) -> str:
    """Give the path of a project's settings."""
    return f"/api/projects/{project}/tokens/"


async def test_project(server: Server, api: httpx.AsyncClient) -> None:
    """An object with the project's number; a server that has no such call, or not for us, says so."""
    answer = await api.get(tokens_of(server.project))
    if answer.status_code == 200 and is_json(answer):
        assert answer.json()["id"] == server.project
    else:
        assert server.backstage is None, "ours have it"
        assert answer.status_code in (403, 404, 405) or is_html(answer)


async def test_settings_of_a_project(api: httpx.AsyncClient, backstage: Backstage) -> None:
    """Secrets are shown in full; what is not set is an empty text."""
    project = {"id": 1, "project_name": "Portal"}
    assert (await api.get(tokens_of(1))).json() == project | dict.fromkeys(PROJECT_SETTINGS, "")
    settings = {name: f"{name} » {number}" for number, name in enumerate(PROJECT_SETTINGS)}
    backstage.set_project(1, settings)
    answer = await api.get(tokens_of(1))
    assert (answer.status_code, answer.json()) == (200, project | settings)


async def test_ordinary_account_sees_its_own_project_only(
    api: httpx.AsyncClient, member: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """Another one's settings are 404, as if there were none; a service account sees all."""
    found = [(await client.get(tokens_of(n))).status_code for client in (api, member) for n in (1, 2)]
    assert found == [200, 200, 200, 404]
    answer = await stranger.get(tokens_of(1))
    assert (answer.status_code, answer.json()) == (404, {"detail": "No Project matches the given query."})


@pytest.mark.usefixtures("ours_only")
@pytest.mark.parametrize("project", ["999999", "nonsense"])
async def test_project_that_is_not_there(api: httpx.AsyncClient, project: str) -> None:
    """404, as JSON."""
    answer = await api.get(tokens_of(project))
    assert (answer.status_code, answer.json().keys()) == (404, {"detail"})


@pytest.mark.usefixtures("ours_only")
async def test_project_needs_a_token_and_is_read_only(
    api: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    """401 for whoever is not logged in; other methods are 405."""
    assert (await anonymous.get(tokens_of(1))).status_code == 401
    for method in ("POST", "PATCH"):
        answer = await api.request(method, tokens_of(1), json={"jira_token": "x"})
        assert (answer.status_code, answer.json().keys()) == (405, {"detail"})


@pytest.mark.usefixtures("ours_only")
@pytest.mark.parametrize("path", ["/api/projects/", "/api/projects/1/", "/api/projects/1/tokens"])
async def test_nothing_else_of_projects(api: httpx.AsyncClient, path: str) -> None:
    """Any other path there is a matter of the page."""
    answer = await api.get(path)
    assert (answer.status_code, is_html(answer)) == (200, True)


# What is not the API, or not as the API wants it.


@pytest.mark.usefixtures("ours_only")
@pytest.mark.parametrize("path", ["/api/nothing/", "/nothing", "/api/queries/claim_next", "/api/users/me"])
async def test_paths_that_are_not_there(api: httpx.AsyncClient, path: str) -> None:
    """An unknown path, or a missing slash, is a matter of the page: 200 HTML, or 405 and empty."""
    answer = await api.get(path)
    assert (answer.status_code, is_html(answer)) == (200, True)
    for method in ("POST", "PATCH"):
        answer = await api.request(method, path, json={})
        assert (answer.status_code, is_html(answer), answer.content) == (405, True, b"")


async def test_the_page_needs_no_token(anonymous: httpx.AsyncClient) -> None:
    """The page is for everybody."""
    assert is_html(await anonymous.get("/"))


@pytest.mark.usefixtures("ours_only")
async def test_html_is_not_acceptable(api: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    """Who accepts HTML only gets 406, as JSON, before the token is looked at."""
    for client in (api, anonymous):
        answer = await client.post(CLAIM, headers={"Accept": "text/html"})
        assert (answer.status_code, is_json(answer)) == (406, True)
        assert answer.json().keys() == {"detail"}


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/*", "text/html, */*;q=0.1"])
async def test_acceptable(api: httpx.AsyncClient, accept: str) -> None:
    """Who accepts JSON among others gets it."""
    assert (await api.get("/api/users/me/", headers={"Accept": accept})).status_code == 200


async def test_wrong_content_type(server: Server, api: httpx.AsyncClient) -> None:
    """A body of another type is 415, as JSON, and nothing is done."""
    number = await create(api, server)
    body = b'{"status": "done"}'
    answer = await api.patch(f"/api/queries/{number}/", content=body, headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json().keys()) == (415, {"detail"})
    assert (await read(api, number))["status"] == "queued"


@pytest.mark.parametrize(
    "body", [b"{", b'{"status": "\xff"}', b'{"status": NaN}', b'{"answer_text": "\xed\xa0\x80"}']
)
async def test_body_that_is_no_json(server: Server, api: httpx.AsyncClient, body: bytes) -> None:
    """What is not JSON, or not UTF-8, is 400 with ``detail``."""
    number = await create(api, server)
    answer = await api.patch(f"/api/queries/{number}/", content=body, headers=JSON)
    assert (answer.status_code, answer.json().keys()) == (400, {"detail"})


@pytest.mark.usefixtures("ours_only")
@pytest.mark.parametrize(("size", "status"), [(BODY_LIMIT, 200), (BODY_LIMIT + 1, 400)])
async def test_body_limit(server: Server, api: httpx.AsyncClient, size: int, status: int) -> None:
    """2 621 440 bytes are taken; one more is 400 with a page, not JSON."""
    number = await create(api, server)
    start, end = b'{"answer_text": "', b'"}'
    body = start + b"x" * (size - len(start) - len(end)) + end
    answer = await api.patch(f"/api/queries/{number}/", content=body, headers=JSON)
    assert (answer.status_code, is_html(answer)) == (status, status == 400)


@pytest.mark.usefixtures("ours_only")
async def test_cyrillic_counts_in_utf_8(server: Server, api: httpx.AsyncClient) -> None:
    """UTF-8 takes 2 bytes a letter: a text fits that would not as ``\\uXXXX`` escapes."""
    number = await create(api, server)
    text = "ж" * 1_000_000
    fits = '{"answer_text": "' + text + '"}'
    answer = await api.patch(f"/api/queries/{number}/", content=fits.encode(), headers=JSON)
    assert (answer.status_code, answer.json()["answer_text"]) == (200, text)
    escaped = fits.replace("ж", "\\u0436")
    answer = await api.patch(f"/api/queries/{number}/", content=escaped.encode(), headers=JSON)
    assert answer.status_code == 400


@pytest.mark.usefixtures("ours_only")
async def test_host_that_is_not_allowed(api: httpx.AsyncClient) -> None:
    """A host name that the server does not know is 400 with a page."""
    answer = await api.post(CLAIM, headers={"Host": "webbuddy:8000"})
    assert (answer.status_code, is_html(answer)) == (400, True)


async def test_every_answer_is_dated(api: httpx.AsyncClient) -> None:
    """The ``Date`` header tells the server's clock, to the second and in UTC."""
    date = parsedate_to_datetime((await api.get("/api/users/me/")).headers["date"])
    assert abs(date.timestamp() - time.time()) < 300


# Languages.


@pytest.mark.usefixtures("ours_only")
@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (None, "Учетные данные не были предоставлены."),
        ("ru", "Учетные данные не были предоставлены."),
        ("de", "Учетные данные не были предоставлены."),
        ("en", "Authentication credentials were not provided."),
        ("en-GB", "Authentication credentials were not provided."),
        ("de, en;q=0.5, ru;q=0.4", "Authentication credentials were not provided."),
        ("en;q=0.3, ru;q=0.4", "Учетные данные не были предоставлены."),
    ],
)
async def test_language(anonymous: httpx.AsyncClient, wish: str | None, text: str) -> None:
    """Texts are in Russian unless the caller asks for English."""
    headers = {} if wish is None else {"Accept-Language": wish}
    assert (await anonymous.post(CLAIM, headers=headers)).json() == {"detail": text}


@pytest.mark.usefixtures("ours_only")
@pytest.mark.parametrize(
    ("method", "path", "body", "russian", "english"),
    [
        (
            *("POST", "/api/queries/", {}),
            {"project": ["Обязательное поле."], "query_text": ["Обязательное поле."]},
            {"project": ["This field is required."], "query_text": ["This field is required."]},
        ),
        (
            *("POST", "/api/queries/", {"project": 99, "query_text": ""}),
            {
                "project": ['Недопустимый первичный ключ "99" - объект не существует.'],
                "query_text": ["Это поле не может быть пустым."],
            },
            {
                "project": ['Invalid pk "99" - object does not exist.'],
                "query_text": ["This field may not be blank."],
            },
        ),
        (
            *("POST", "/api/queries/", {"project": [], "query_text": None}),
            {
                "project": ["Некорректный тип. Ожидалось значение первичного ключа, получен list."],
                "query_text": ["Это поле не может быть пустым."],
            },
            {
                "project": ["Incorrect type. Expected pk value, received list."],
                "query_text": ["This field may not be null."],
            },
        ),
        (
            *("POST", "/api/queries/", {"project": 1, "query_text": "\0", "status": "x"}),
            {
                "query_text": ["Данные содержат запрещённый символ: ноль-байт"],
                "status": ["Значения x нет среди допустимых вариантов."],
            },
            {
                "query_text": ["Null characters are not allowed."],
                "status": ['"x" is not a valid choice.'],
            },
        ),
        (
            *("POST", "/api/queries/", []),
            {"non_field_errors": ["Недопустимые данные. Ожидался dictionary, но был получен list."]},
            {"non_field_errors": ["Invalid data. Expected a dictionary, but got list."]},
        ),
        (
            *("PUT", "/api/queries/1/", {}),
            {"detail": 'Метод "PUT" не разрешен.'},
            {"detail": 'Method "PUT" not allowed.'},
        ),
        (
            *("GET", "/api/queries/?page=7", None),
            {"detail": "Неправильная страница"},
            {"detail": "Invalid page."},
        ),
        (
            *("GET", "/api/queries/x/", None),
            {"detail": "Страница не найдена."},
            {"detail": "Not found."},
        ),
        (
            *("GET", "/api/queries/999999/", None),
            {"detail": "No Query matches the given query."},
            {"detail": "No Query matches the given query."},
        ),
        (
            *("GET", "/api/projects/x/tokens/", None),
            {"detail": "Страница не найдена."},
            {"detail": "Not found."},
        ),
    ],
)
async def test_texts(
    api: httpx.AsyncClient, method: str, path: str, body: object, russian: object, english: object
) -> None:
    """The whole of an error's body is the same on every server, in both languages."""
    assert (await api.request(method, path, json=body)).json() == russian
    assert (await api.request(method, path, json=body, headers=ENGLISH)).json() == english
