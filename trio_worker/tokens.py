"""Access tokens: log in, renew before the end, renew when refused; one at a time.

::

    no usable token ──▶ a refresh token? ──yes──▶ POST api/token/refresh/ ──2xx──▶ a token
                              │no                     │ 4xx, 500 (a deleted account), HTML
                              ▼                       ▼
                              └──────────▶ POST api/login/ ──2xx──▶ a token
                                               │ 401, or 400/403 from the API itself
                                               ▼
                                          AccessDenied, remembered
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import attrs
import httpx
import jwt
import trio

from trio_worker import clock
from trio_worker.answers import call_name, is_json, judge, read_json, retry_after, said, server_date
from trio_worker.errors import AccessDenied, Unavailable
from trio_worker.masks import masks
from trio_worker.tallies import Count

__all__ = ["REFUSAL_HOLDS", "WANTED", "CredentialsSource", "TokenAuth"]

ASSUMED_LIFE = 24 * 3600.0
"""Seconds. WebBuddy's documentation says so; taken where a token does not. A wrong guess costs one
401, after which the token is renewed all the same."""

LONGEST_LEEWAY = 60.0
"""Seconds before its end in which a token is renewed rather than used; at most a tenth of its life."""

REFUSAL_HOLDS = 60.0
"""Seconds for which a refused log-in is not tried again."""

WANTED = "trio_worker.wanted"
"""A request's extension: a function that is asked just before the request is sent, with its token at
hand; when it says no, nothing is sent."""

_OWN_HEADERS = ("Accept", "Accept-Encoding", "Accept-Language", "User-Agent")


class CredentialsSource(Protocol):
    """Where the name and the password come from; asked at each log-in, so that they may change."""

    async def read(self) -> tuple[str, str]:
        """Give the user's name and the password."""
        ...


@attrs.frozen(eq=False)
class _Token:
    access: str = attrs.field(repr=False)
    life: float  # seconds, as a whole
    renew_at: float  # on Trio's clock


@attrs.frozen
class _Ask:
    """A request for a token, and what to do with its answer."""

    request: httpx.Request = attrs.field(repr=False)  # the password is in its body
    take: Callable[[httpx.Response], _Token | None] = attrs.field(repr=False)
    logs_in: bool = attrs.field(kw_only=True)


class TokenAuth(httpx.Auth):
    """Puts ``Authorization: Bearer …`` on each request, and sees to it that the token is good.

    However many requests want a token at once, one of them fetches it and the others wait for it;
    when that one is cancelled, the next one does it. A 401 renews the token (unless another task
    has done so meanwhile) and sends that request once more. Should a refreshed token be refused
    as well, a log-in is tried; when the token of a log-in is, that is the end.

    How long a token is good is measured on Trio's clock from the moment of asking, and its life is
    taken as ``exp`` - ``iat``: so it does not matter whether the two machines agree on the time. For a
    refreshed token at most the life that the log-in's token had, since SimpleJWT copies ``iat`` from
    the refresh token: there the difference grows with each refresh, the life does not.

    A log-in that was refused is not tried again for `REFUSAL_HOLDS` seconds (or until
    `forget_refusal`): `AccessDenied` is raised without network. Five consumers, a ticker and the
    reports would otherwise hammer it, and some servers lock an account for that.

    Whether the log-in was *refused* goes by status and shape: 401, or 400 or 403 with JSON, is
    WebBuddy's word about these credentials. Anything else that is not a token (404, 405, a
    redirect, an HTML page) is `Unavailable`, although it most likely means that WEBBUDDY_URL is
    wrong, and the message asks so: a proxy also answers like that while its backend is being replaced
    (Traefik: 404), and a worker that gave up then would have to be started again by hand.

    Exceptions of the transport (`httpx.RequestError`) come through, with ``.request`` being the one
    that failed: the log-in's, or the caller's own.

    Args:
        credentials: Asked at each log-in.
        login_url: Of ``POST api/login/``, absolute.
        refresh_url: Of ``POST api/token/refresh/``, absolute.

    Attributes:
        renewals: How often there was a new token, by ``login`` and ``refresh``.
    """

    def __init__(
        self, credentials: CredentialsSource, *, login_url: httpx.URL | str, refresh_url: httpx.URL | str
    ) -> None:
        self._credentials = credentials
        self._login_url = login_url
        self._refresh_url = refresh_url
        self._lock = trio.Lock()
        self._token: _Token | None = None
        self._refresh: str | None = None
        self._refusal: AccessDenied | None = None
        self._refusal_holds_until = -math.inf
        self._life_at_log_in = math.inf
        self._logged_in = False
        self.renewals = Count("login", "refresh")

    def __repr__(self) -> str:
        return f"<TokenAuth logged_in={self._logged_in} refused={self._refusal is not None}>"

    @property
    def logged_in(self) -> bool:
        """Whether there has ever been a token."""
        return self._logged_in

    @property
    def refusal(self) -> str | None:
        """Why the last log-in was refused, or None."""
        return None if self._refusal is None else str(self._refusal)

    def forget_refusal(self) -> None:
        """Try the log-in again at the next call, though it was refused."""
        self._refusal = None

    # The lock is held over a `yield`, which is right here alone: httpx runs this generator in the task
    # of the call and closes it there, whatever happens to the call (`_send_handling_auth`).
    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send the request with a good token, after fetching one where needed.

        The header is on the request exactly while it is, or may be, at WebBuddy: so that whoever
        cancels the call can tell whether it may have been carried out.

        Raises:
            AccessDenied: The log-in is refused, or a token fresh from the log-in is.
            Unavailable: There was no token to be had just now.
        """
        refused: _Token | None = None
        while True:
            token = self._usable(refused)
            logged_in = False
            if token is None:
                await self._lock.acquire()
                try:
                    # Somebody else may have fetched one while we waited for the lock.
                    token = self._usable(refused)
                    while token is None:
                        ask = await self._next_ask(request)
                        answer = yield ask.request
                        await answer.aread()
                        token = ask.take(answer)
                        logged_in = ask.logs_in
                finally:
                    self._lock.release()
            if not request.extensions.get(WANTED, _always)():
                raise Unavailable(f"{call_name(request)}: not sent, no longer wanted", maybe_done=False)
            request.headers["Authorization"] = f"Bearer {token.access}"
            answer = yield request
            if answer.status_code != 401:
                return
            await answer.aread()
            del request.headers["Authorization"]
            if logged_in:
                raise self._fresh_token_refused(answer)
            if refused is not None:
                self._refresh = None  # two in a row: the next is from a log-in
            refused = token

    def _usable(self, refused: _Token | None) -> _Token | None:
        token = self._token
        if token is None or token is refused or trio.current_time() >= token.renew_at:
            return None
        return token

    # --- Asking ---------------------------------------------------------------------------------

    async def _next_ask(self, cause: httpx.Request) -> _Ask:
        """Say what to ask WebBuddy for: a refresh as long as there is a refresh token, else a log-in."""
        if self._refresh is not None:
            request = _request(cause, self._refresh_url, {"refresh": self._refresh})
            return _Ask(request, partial(self._take_refreshed, trio.current_time()), logs_in=False)
        self._raise_remembered()
        name, password = await self._credentials.read()
        request = _request(cause, self._login_url, {"username": name, "password": password})
        return _Ask(request, partial(self._take_logged_in, trio.current_time(), name, password), logs_in=True)

    # --- What came ------------------------------------------------------------------------------

    def _take_refreshed(self, asked: float, answer: httpx.Response) -> _Token | None:
        """Take a refreshed token; None when the refresh token is of no more use."""
        # Not a 500: that is what the refresh for a deleted account gets. If it was another, then
        # the log-in shows it.
        if answer.status_code != 500:
            _raise_if_for_later(answer)
        token = self._take(answer, asked, longest_life=self._life_at_log_in)
        if token is None:
            self._refresh = None
        else:
            self.renewals.add("refresh")
        return token

    def _take_logged_in(self, asked: float, username: str, password: str, answer: httpx.Response) -> _Token:
        status = answer.status_code
        if status == 401 or (status in (400, 403) and is_json(answer)):
            raise self._remembered(_refusal_message(answer, username, password), status)
        _raise_if_for_later(answer)
        token = self._take(answer, asked, longest_life=math.inf)
        if token is None:
            raise Unavailable(
                f"{call_name(answer.request)}: WebBuddy answered {status} without an access token"
                " (is WEBBUDDY_URL right?)",
                status=status,
                retry_after=retry_after(answer),
                maybe_done=False,
            )
        self._logged_in = True
        self.renewals.add("login")
        self._refusal = None
        self._life_at_log_in = token.life
        return token

    def _take(self, answer: httpx.Response, asked: float, *, longest_life: float) -> _Token | None:
        """Keep the tokens of an answer; None when there is no access token in it."""
        data = _object(answer)
        access = _header_safe(data.get("access"))
        if access is None:
            return None
        life = min(_life(access, answer), longest_life)
        self._token = _Token(access, life, renew_at=asked + life - min(LONGEST_LEEWAY, life / 10))
        # Kept when it was rotated: the old one is then of no more use.
        self._refresh = _header_safe(data.get("refresh")) or self._refresh
        masks.know("tokens", access, self._refresh)
        return self._token

    # --- Refused --------------------------------------------------------------------------------

    def _fresh_token_refused(self, answer: httpx.Response) -> AccessDenied:
        return self._remembered(
            f"{call_name(answer.request)}: WebBuddy refused the token of a log-in that it had just"
            f" accepted: {said(answer) or 'without a reason'}",
            answer.status_code,
        )

    def _remembered(self, message: str, status: int) -> AccessDenied:
        self._token = self._refresh = None
        self._refusal = AccessDenied(message, status=status)
        self._refusal_holds_until = trio.current_time() + REFUSAL_HOLDS
        return AccessDenied(message, status=status)

    def _raise_remembered(self) -> None:
        if self._refusal is not None and trio.current_time() < self._refusal_holds_until:
            # A new one each time: an exception raised by many tasks would gather all their tracebacks.
            raise AccessDenied(str(self._refusal), status=self._refusal.status)


def _request(cause: httpx.Request, url: httpx.URL | str, body: Mapping[str, str]) -> httpx.Request:
    headers = {name: cause.headers[name] for name in _OWN_HEADERS if name in cause.headers}
    # As UTF-8, whatever is in a password; what UTF-8 can't hold (it came from a file with broken
    # bytes) WebBuddy refuses like any other wrong password.
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    return httpx.Request(
        "POST", url, content=content, headers={**headers, "Content-Type": "application/json"}
    )


def _always() -> bool:
    return True


def _raise_if_for_later(answer: httpx.Response) -> None:
    if answer.status_code in (408, 429) or answer.status_code >= 500:
        try:
            judge(answer)
        except Unavailable as error:
            error.maybe_done = False  # the call that wanted the token was not sent
            raise


def _refusal_message(answer: httpx.Response, username: str, password: str) -> str:
    message = f"WebBuddy refused the log-in of user {username!r} ({answer.status_code})"
    detail = said(answer)
    # A server that quotes what it was sent must not bring the password into a log.
    return message if not detail or password in detail else f"{message}: {detail}"


def _object(answer: httpx.Response) -> Mapping[str, Any]:
    """The JSON object of a good answer, or an empty one."""
    if not answer.is_success:
        return {}
    try:
        data = read_json(answer)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _header_safe(value: object) -> str | None:
    """A token that can be sent: what is not a printable ASCII word could not even be a header."""
    if isinstance(value, str) and value.isascii() and value.isprintable() and value.strip():
        return value
    return None


def _life(access: str, answer: httpx.Response) -> float:
    """How many seconds a token lives from the moment it was made."""
    claims = _claims(access)
    end = _number(claims.get("exp"))
    if end is None:
        return ASSUMED_LIFE
    start = _number(claims.get("iat"))
    if start is None:
        date = server_date(answer)
        start = date.timestamp() if date is not None else clock.now()
    # A life that is already over says that a clock or a claim is wrong, not that the token is.
    return end - start if end > start else ASSUMED_LIFE


def _claims(access: str) -> Mapping[str, Any]:
    """Read a token's claims. They are WebBuddy's to verify; here they only say when to renew."""
    try:
        claims: Mapping[str, Any] = jwt.decode(access, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return {}
    return claims


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
