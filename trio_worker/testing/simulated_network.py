"""A network, and a server, of bad habits between a worker and the embedded WebBuddy."""

from __future__ import annotations

import json
import random

import httpx
import trio

__all__ = ["REFUSED", "Losing", "Way"]

REFUSED = "<refused>"
"""An answer that begins so is refused, in whichever call it comes."""

SHARE = 0.4  # of the answers


class Losing(httpx.AsyncBaseTransport):
    """Loses a part of the answers: what was asked for is done nevertheless.

    Args:
        inner: What carries the requests.
        chance: Decides which.
        most: How many in all.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, chance: random.Random, *, most: int) -> None:
        self._inner = inner
        self._chance = chance
        self._left = most

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry a request; perhaps its answer."""
        response = await self._inner.handle_async_request(request)
        if self._left and self._chance.random() < SHARE:
            self._left -= 1
            raise httpx.RemoteProtocolError(
                "Server disconnected without sending a response.", request=request
            )
        return response


class Way(httpx.AsyncBaseTransport):
    """The way to WebBuddy, which may be cut; at its end, answers that begin with `REFUSED` are refused.

    Such a refusal is for good, as a newer validator of WebBuddy's might have it.

    Args:
        inner: What carries the requests.

    Attributes:
        is_cut: Whether nothing gets through, though WebBuddy is there for others.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.is_cut = False
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry a request.

        Raises:
            httpx.ConnectError: The way is cut.
        """
        if self.is_cut:
            await trio.lowlevel.checkpoint()
            raise httpx.ConnectError("All connection attempts failed", request=request)
        if request.method == "PATCH":
            answer = json.loads(await request.aread()).get("answer_text") or ""
            if answer.startswith(REFUSED):
                return httpx.Response(400, json={"answer_text": ["Not this one."]})
        return await self._inner.handle_async_request(request)
