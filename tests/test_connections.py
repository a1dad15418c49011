"""How many connections are served at once: as many as there are places, whoever opens however many."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from trio_worker.web.connections import PATIENCE, SILENCE, TURN, Connections, Stream, heard, serve_listeners


@attrs.define
class Server:
    """Says hello to each that is served, and then listens until its client hangs up."""

    connections: Connections
    port: int = 0
    served: int = 0
    most: int = 0
    clients: list[trio.SocketStream] = attrs.field(factory=list)

    async def handle(self, stream: Stream) -> None:
        self.served += 1
        self.most = max(self.most, self.connections.number)
        await stream.send_all(b"hello")
        async with trio.open_nursery() as nursery:  # as in hypercorn, a task of its own reads
            nursery.start_soon(self.listen, stream, nursery.cancel_scope)
            await trio.sleep_forever()

    async def listen(self, stream: Stream, handling: trio.CancelScope) -> None:
        while await stream.receive_some():
            heard()
        handling.cancel()

    async def connect(self) -> trio.SocketStream:
        self.clients.append(await trio.open_tcp_stream("127.0.0.1", self.port))
        return self.clients[-1]


@pytest.fixture
def clock() -> MockClock:
    """Let time jump once nothing has moved for a moment: both ends of each connection are here."""
    return MockClock(autojump_threshold=0.01)


@asynccontextmanager
async def serving(places: int, listeners: int = 1) -> AsyncIterator[Server]:
    server = Server(Connections(places))
    with trio.fail_after(3_600):
        async with trio.open_nursery() as nursery:
            opened = [(await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] for _ in range(listeners)]
            serve = partial(serve_listeners, handler_nursery=nursery, connections=server.connections)
            # They listen already.
            nursery.start_soon(serve, server.handle, opened)  # noqa: ASYNC113
            server.port = opened[0].socket.getsockname()[1]
            yield server
            for client in server.clients:
                await client.aclose()
            nursery.cancel_scope.cancel()


async def greeting(stream: trio.SocketStream) -> bytes:
    return bytes(await stream.receive_some(5))


async def talk(stream: trio.SocketStream) -> None:
    """Say something, again and again, until the server has had enough."""
    try:
        while True:
            await stream.send_all(b"x")
            await trio.sleep(PATIENCE / 3)
    except trio.BrokenResourceError:
        pass


async def end_of(stream: trio.SocketStream) -> bool:
    """Whether the server has closed it, with or without what was on its way."""
    try:
        return await stream.receive_some() == b""
    except trio.BrokenResourceError:
        return True


async def test_those_beyond_the_places_wait_for_one(clock: MockClock) -> None:
    """Thirty clients and three places: never more than three at once, and each has its turn."""
    async with serving(3) as server:

        async def call() -> None:
            async with await server.connect() as stream:
                assert await greeting(stream) == b"hello"

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(call)
        assert trio.current_time() < SILENCE  # nobody had to go
    assert (server.served, server.most) == (30, 3)


async def test_nobody_is_sent_away_while_nobody_waits(clock: MockClock) -> None:
    """Idle connections in all places are left alone, for as long as they like."""
    async with serving(2) as server:
        idle = [await server.connect() for _ in range(2)]
        assert [await greeting(stream) for stream in idle] == [b"hello"] * 2
        await trio.sleep(1_000)
        assert server.connections.number == 2


async def test_the_oldest_makes_room_for_one_that_waits(clock: MockClock) -> None:
    """Of those that have said nothing yet, as soon as a client would have; the younger one stays."""
    async with serving(2) as server:
        first = await server.connect()
        assert await greeting(first) == b"hello"
        await trio.sleep(SILENCE / 2)
        second = await server.connect()
        assert await greeting(second) == b"hello"
        third = await server.connect()
        assert await greeting(third) == b"hello"
        assert trio.current_time() == pytest.approx(SILENCE, abs=0.01)
        assert await greeting(first) == b""
        with trio.move_on_after(SILENCE / 4):
            pytest.fail(f"the second was closed, or told {await greeting(second)!r}")
        assert (server.connections.number, server.most) == (2, 2)


async def test_who_is_heard_stays(clock: MockClock) -> None:
    """A proxy's connection is the oldest of all, and in use; the idle one beside it has to go."""
    async with serving(2) as server:
        proxy, idle = await server.connect(), await server.connect()
        assert [await greeting(stream) for stream in (proxy, idle)] == [b"hello"] * 2
        await idle.send_all(b"x")
        for _ in range(20):
            await proxy.send_all(b"x")
            await trio.sleep(PATIENCE / 2)
        began = trio.current_time()
        await idle.send_all(b"x")
        await trio.sleep(0.01)
        newcomer = await server.connect()

        async def go_on() -> None:
            while True:
                await proxy.send_all(b"x")
                await trio.sleep(PATIENCE / 2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            assert await greeting(newcomer) == b"hello"
            assert trio.current_time() - began == pytest.approx(PATIENCE, abs=0.02)
            assert await greeting(idle) == b""
            with trio.move_on_after(PATIENCE):
                pytest.fail(f"the proxy's was closed, or told {await greeting(proxy)!r}")
            nursery.cancel_scope.cancel()


async def test_nobody_keeps_a_place_for_ever(clock: MockClock) -> None:
    """Clients in all places are heard again and again; one that waits gets in, for the oldest of them."""
    async with serving(3) as server:
        talkers = [await server.connect() for _ in range(3)]
        assert [await greeting(stream) for stream in talkers] == [b"hello"] * 3
        async with trio.open_nursery() as nursery:
            for stream in talkers:
                nursery.start_soon(talk, stream)
            await trio.sleep(1)
            began = trio.current_time()
            with trio.fail_after(10):
                assert await greeting(await server.connect()) == b"hello"
            assert trio.current_time() - began == pytest.approx(TURN, abs=0.05)
            assert await end_of(talkers[0])
            assert server.connections.number == 3
            nursery.cancel_scope.cancel()


async def test_after_a_rush_who_is_in_use_stays_again(clock: MockClock) -> None:
    """Its turn begins when somebody waits, and not with an earlier rush that is over."""
    async with serving(3) as server, trio.open_nursery() as nursery:
        proxy = await server.connect()
        assert await greeting(proxy) == b"hello"
        nursery.start_soon(talk, proxy)
        for _ in range(2):
            rush = [await server.connect() for _ in range(3)]
            assert [await greeting(stream) for stream in rush] == [b"hello"] * 3
            for stream in rush:
                await stream.aclose()
            await trio.sleep(1)
            async with await server.connect() as alone:
                assert await greeting(alone) == b"hello"
        with trio.move_on_after(PATIENCE / 3):
            pytest.fail(f"the proxy's was closed, or told {await greeting(proxy)!r}")
        nursery.cancel_scope.cancel()


async def test_in_a_rush_the_idle_go_first(clock: MockClock) -> None:
    """Those in use have had their turn long ago; while one is idle it goes before them."""
    async with serving(2) as server, trio.open_nursery() as nursery:
        proxy = await server.connect()
        assert await greeting(proxy) == b"hello"
        nursery.start_soon(talk, proxy)
        for _ in range(4):
            newcomer = await server.connect()
            assert await greeting(newcomer) == b"hello"
            await trio.sleep(TURN)
            await newcomer.send_all(b"x")
            await trio.sleep(2 * PATIENCE)
        with trio.move_on_after(PATIENCE / 3):
            pytest.fail(f"the proxy's was closed, or told {await greeting(proxy)!r}")
        nursery.cancel_scope.cancel()


async def test_one_that_waits_costs_one_its_place(clock: MockClock) -> None:
    """Of many that are old enough only the oldest has to go."""
    async with serving(5) as server:
        idle = [await server.connect() for _ in range(5)]
        assert [await greeting(stream) for stream in idle] == [b"hello"] * 5
        await trio.sleep(10)
        assert await greeting(await server.connect()) == b"hello"
        await trio.sleep(10)
        assert server.connections.number == 5
        assert await greeting(idle[0]) == b""


async def test_a_place_is_free_again_however_its_client_leaves(clock: MockClock) -> None:
    """By hanging up, or because its place was needed."""
    async with serving(1) as server:
        for _ in range(3):
            async with await server.connect() as stream:
                assert await greeting(stream) == b"hello"
        idle = [await server.connect() for _ in range(4)]
        assert [await greeting(stream) for stream in idle] == [b"hello"] * 4
        await idle[-1].aclose()
        await trio.sleep(0.1)
        assert server.connections.number == 0


async def test_what_does_not_go_when_told_keeps_its_place(clock: MockClock) -> None:
    """Places are not given twice: one that is still winding up is waited for."""
    connections = Connections(1)
    winding_up = 5.0

    async def stubborn(_stream: Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(winding_up, shield=True):
                await trio.sleep_forever()

    near: Any = memory_stream_pair()[0]
    async with trio.open_nursery() as nursery:
        connections.take_place(near)
        nursery.start_soon(connections.serve, stubborn, near)
        await connections.wait_for_place()
    assert trio.current_time() == pytest.approx(SILENCE + winding_up)


async def test_several_listeners_share_the_places(clock: MockClock) -> None:
    """Two addresses, and as many at once as with one: or one more, that was let in at the same moment."""
    async with serving(3, listeners=2) as server:
        idle = [await server.connect() for _ in range(10)]
        assert [await greeting(stream) for stream in idle] == [b"hello"] * 10
    assert server.most == 3
