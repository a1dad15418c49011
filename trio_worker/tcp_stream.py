"""A TCP connection as a stream, at the least cost: what is sent and received goes straight to the system."""

# Why not trio.SocketStream. It tries before it waits, with a checkpoint after each success, and guards
# each step against other tasks and for each kind of error: of a call over loopback, a fifth of the CPU. Here
# one task at a time sends, then waits for the answer, which has never come yet when it begins to wait.

from __future__ import annotations

import socket
import sys

import trio

__all__ = ["TcpStream", "connect"]

CHUNK = 65_536  # bytes to read at once


async def connect(host: str, port: int) -> TcpStream:
    """Connect to a server, to whichever of its addresses answers first.

    Cancelled, nothing is left open.

    Args:
        host: Its name or address.
        port: Its port.

    Raises:
        OSError: It can't be reached.
    """
    stream = await trio.open_tcp_stream(host, port)
    plain = socket.socket(fileno=stream.socket.detach())
    plain.setblocking(False)
    return TcpStream(plain)


class TcpStream(trio.abc.Stream):
    """An open connection; one task sends at a time, and one receives.

    Args:
        plain: The socket, which does not block.
    """

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send. Not always a checkpoint: not where the system takes all at once.

        Cancelled before anything was sent, nothing is; after that, a part may have been.

        Raises:
            trio.BrokenResourceError: It is broken; the reason is its ``__cause__``.
            trio.ClosedResourceError: It was closed here.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await self.wait_send_all_might_not_block()
            except OSError as error:
                raise self._said(error) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the system takes more."""
        await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for something, and give it; nothing at its end. Always a checkpoint.

        Raises:
            trio.BrokenResourceError: It is broken; the reason is its ``__cause__``.
            trio.ClosedResourceError: It was closed here.
        """
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(max_bytes or CHUNK)
            except BlockingIOError:
                pass  # it seemed so; select(2) warns of that
            except OSError as error:
                raise self._said(error) from error

    def is_readable(self) -> bool:
        """Whether anything waits to be received, be it the end or an error."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def acknowledge(self) -> None:
        """Tell the other side at once that what it sent has come; the system would wait for 40 ms."""
        if sys.platform == "linux":  # macOS sees by itself when its delay does harm
            # Not for good: the system takes it back with the next request.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    async def aclose(self) -> None:
        """Close it. Whoever waits on it gets `trio.ClosedResourceError`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()

    def _said(self, error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._socket.fileno() < 0:
            return trio.ClosedResourceError("this stream is closed")
        return trio.BrokenResourceError(f"the connection is broken: {error}")
