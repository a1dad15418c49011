"""A connection to Redis or Valkey: opened when it is needed, and anew after anything went wrong.

coredis' connections without its client and pool: a connection that dies while it is lent out never comes
back to the pool's count, and the retries and deadlines are the bus's own. Importing it takes 0.2 s.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from typing import Any

import anyio
import trio
from coredis.connection import TCPConnection, TCPLocation
from coredis.exceptions import BusyLoadingError, ProtocolError, ResponseError
from coredis.exceptions import ConnectionError as CoredisConnectionError

from trio_worker.bus_address import BusAddress
from trio_worker.masks import MASK
from trio_worker.setting_kinds import shown

__all__ = ["ANSWER_SECONDS", "Command", "Line", "Lost"]

ANSWER_SECONDS = 2.0
"""In which a server is connected to, and in which it answers what it need not wait for."""

Command = tuple[bytes, ...]
"""Its name and its arguments."""


class Lost(Exception):
    """The server could not be asked. The text is why, for the operator, and has no secret in it."""


class Line:
    """What asks one server, one call at a time. One that ends in an error ends the connection.

    Args:
        address: Where the server is.
        context: The certificates that are trusted, where it is spoken to over TLS; else None.
        nursery: In which its connection lives.
    """

    def __init__(self, address: BusAddress, context: ssl.SSLContext | None, nursery: trio.Nursery) -> None:
        self._address = address
        self._context = context
        self._nursery = nursery
        self._turn = trio.Lock()
        self._connection: TCPConnection | None = None

    async def ask(self, *commands: Command, seconds: float = ANSWER_SECONDS) -> list[Any]:
        """Send commands in one go. Cancelled, they may have been carried out.

        Args:
            *commands: What is asked.
            seconds: For the answers, beside `ANSWER_SECONDS` for connecting.

        Returns:
            An answer for each, of whichever type the server has sent.

        Raises:
            Lost: There is no server, no answer in time, or one that is an error.
        """
        async with self._turn:
            done = False
            try:
                connection = await self._connected()
                with trio.fail_after(seconds):
                    answers = await _answers(connection, commands)
                done = True
                return answers
            except Exception as error:  # noqa: BLE001 - what comes out of a parser that is fed anything
                raise Lost(self._reason(error)) from None
            finally:
                if not done:  # an answer that is still to come would be the next one's
                    self._hang_up()

    async def _connected(self) -> TCPConnection:
        if self._connection is not None and self._connection.reusable:
            return self._connection
        self._hang_up()
        address = self._address
        connection = TCPConnection(
            TCPLocation(address.host, address.port),
            username=address.username,
            password=address.password,
            db=address.database,
            ssl_context=self._context,
        )
        with trio.move_on_after(ANSWER_SECONDS) as patience:
            try:
                # Once it is open, its end is no error of the task's: what it is asked then fails.
                await self._nursery.start(connection.run)
            except CoredisConnectionError:
                await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC120 - coredis makes such an error of that
                raise
        if patience.cancelled_caught:
            raise trio.TooSlowError
        self._connection = connection
        return connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection = None

    def _reason(self, error: BaseException) -> str:
        """Say why, by the innermost error: coredis and AnyIO wrap what the system says."""
        while (inner := _cause(error)) is not None:
            error = inner
        if isinstance(error, trio.TooSlowError):
            return "it does not answer"
        if isinstance(error, ssl.SSLError):
            return f"no TLS with it: {getattr(error, 'verify_message', '') or error.reason or error}"
        if isinstance(error, OSError):
            # Trio's text has the address in it; a resolver's numbers are its own.
            number = error.errno or 0
            return os.strerror(number) if number > 0 else error.strerror or str(error)
        text = str(error) or type(error).__name__
        if self._address.password:  # Redis 5 repeats what it does not know, and the log-in is among that
            text = text.replace(self._address.password, MASK)
        if isinstance(error, ResponseError | BusyLoadingError):
            return f"it answers {shown(text)}"
        if isinstance(error, _HUNG_UP) and not isinstance(error, ProtocolError):
            return "it has hung up"
        return f"it does not answer as Redis does: {shown(text)}"


_HUNG_UP = (
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    CoredisConnectionError,
)


async def _answers(connection: TCPConnection, commands: Iterable[Command]) -> list[Any]:
    # All before the first is waited for: coredis writes in one piece what is there when it comes to it.
    requests = [connection.create_request(*command) for command in commands]
    return [await request for request in requests]


def _cause(error: BaseException) -> BaseException | None:
    return error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
