"""The bus in Redis: with a real server, which is killed, frozen, or one that lies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import trustme
from trio.testing import MockClock

from tests.redis_server import RedisServer, needs_redis, start_redis
from trio_worker.bus import MOST_HINTS, Bus, Hint
from trio_worker.bus_address import BusAddress
from trio_worker.bus_redis import ask_redis, open_redis_bus

pytestmark = needs_redis

WEBBUDDY = "http://webbuddy.example:8000"
KEY = "trio-worker:wakeups:http://webbuddy.example:8000"
SAID = "wake-ups are not shared meanwhile: queries are found by push and poll"
OVER = "wake-ups are shared again"
PASSWORD = "open sesame/%"  # which has to be quoted in a URL

Events = list[Any]


def always() -> bool:
    """A hint is wanted."""
    return True


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with start_redis(tmp_path) as server:
        yield server


def lines(events: Events) -> list[str]:
    """What was said to the operator."""
    return [event["event"] for event in events if event["log_level"] != "debug"]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the bus finds out by itself."""
    while not condition():  # noqa: ASYNC110 - it tells nobody
        await trio.sleep(0.01)


async def share(*buses: Bus) -> None:
    """Let a hint go from the first bus to the last, however many are lost while Redis is away."""
    async with trio.open_nursery() as nursery:

        async def offer_again() -> None:
            while True:
                buses[0].offer(Hint(5, 6))
                await trio.sleep(0.1)

        nursery.start_soon(offer_again)
        while await buses[-1].take(always) != Hint(5, 6):
            pass  # of before
        nursery.cancel_scope.cancel()


# --- Who is asked, and who answers -----------------------------------------------------------------


async def test_a_password(tmp_path: Path, events: Events) -> None:
    """It is taken from the URL, where it is quoted."""
    with trio.fail_after(60), start_redis(tmp_path, "--requirepass", PASSWORD) as redis:
        address = BusAddress.parse(f"redis://:open%20sesame%2F%25@localhost:{redis.port}/3")
        async with open_redis_bus(address, WEBBUDDY) as bus:
            await share(bus)
            assert bus.trouble is None
    assert lines(events) == []


@pytest.mark.parametrize("password", [None, "wrong/%"])
async def test_a_wrong_password(
    password: str | None, tmp_path: Path, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, with Redis' own reason and without the password."""
    with trio.fail_after(60), start_redis(tmp_path, "--requirepass", PASSWORD) as redis:
        address = BusAddress("localhost", redis.port, password=password)
        async with open_redis_bus(address, WEBBUDDY) as bus:
            await until(lambda: bus.trouble is not None)
            assert "it answers" in str(bus.trouble)
            assert "authenticated" in str(bus.trouble) or "invalid username-password" in str(bus.trouble)
            assert not await bus.clear()
        assert await ask_redis(address, WEBBUDDY) is not None
    assert lines(events) == [SAID]
    assert "wrong" not in f"{events} {address} {address!r} {caplog.text}"


async def test_an_account_that_may_do_no_more_than_it_must(tmp_path: Path) -> None:
    """What docs/operating.md tells to allow is enough."""
    with trio.fail_after(60), start_redis(tmp_path) as redis:
        documented = Path(__file__).parent.parent.joinpath("docs/operating.md").read_text(encoding="utf-8")
        (rule,) = [line for line in documented.splitlines() if line.startswith("ACL SETUSER")]
        assert await redis.ask(*rule.replace("PASSWORD", "hush-hush").split()) == "OK"
        await redis.ask("ACL", "SETUSER", "default", "off")
        address = BusAddress.parse(f"redis://trio-worker:hush-hush@localhost:{redis.port}")
        async with open_redis_bus(address, WEBBUDDY) as a, open_redis_bus(address, WEBBUDDY) as b:
            await share(a, b)
            a.offer(Hint(1, 1))
            a.offer(Hint(2, 1))
            await b.take(always)
            assert await b.clear()
            assert a.trouble is None
            assert b.trouble is None


@pytest.mark.parametrize("name", ["localhost", "elsewhere.example"])
async def test_tls(name: str, tmp_path: Path) -> None:
    """Redis has to prove that it is whom the URL names, by an authority that WORKER_CA_FILE may name."""
    authority, certificate = trustme.CA(), tmp_path / "certificate.pem"
    issued = authority.issue_cert(name)
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    files = ("--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file")
    options = [word for file in files for word in (file, str(certificate))]
    with trio.fail_after(60), start_redis(tmp_path, *options, "--tls-auth-clients", "no", tls=True) as redis:
        own = partial(open_redis_bus, redis.address, WEBBUDDY, ca_file=tmp_path / "authority.pem")
        async with own() as bus:
            if name == "localhost":
                await share(bus)
            else:
                await until(lambda: bus.trouble is not None)
                assert "Hostname mismatch" in str(bus.trouble)
        async with open_redis_bus(redis.address, WEBBUDDY) as bus:
            await until(lambda: bus.trouble is not None)
            assert "unable to get local issuer certificate" in str(bus.trouble)


# --- What is in Redis ------------------------------------------------------------------------------


async def test_what_is_there_ends_by_itself(redis: RedisServer) -> None:
    """The key says whose it is, and is gone within a minute."""
    with trio.fail_after(60):
        async with open_redis_bus(redis.address, WEBBUDDY) as bus:
            bus.offer(Hint(17, 2**53 - 1))
            await redis.until("LLEN", KEY, answer="1")
            assert await redis.ask("LRANGE", KEY, "0", "-1") == f"17 {2**53 - 1}"
            assert 50 <= int(await redis.ask("TTL", KEY)) <= 60


async def test_many_workers_fill_it_no_further(redis: RedisServer) -> None:
    """Each sends as many as are of use at most, and together they keep no more."""
    with trio.fail_after(60):
        async with open_redis_bus(redis.address, WEBBUDDY) as a, open_redis_bus(redis.address, WEBBUDDY) as b:
            for number, bus in enumerate((a, b), 1):
                for _ in range(MOST_HINTS):
                    bus.offer(Hint(number, number))
                await redis.until("INFO", "commandstats", answer=f"cmdstat_lpush:calls={number},")
                await redis.until("LLEN", KEY, answer=str(MOST_HINTS))
            assert await redis.ask("LINDEX", KEY, "-1") == "2 2"  # the older ones had to go


@pytest.mark.parametrize(
    "junk", ["", "17", "1 2 3", "one two", "-1 -2", "1_0 2", "9" * 5000 + " 1", "\xff\xfe 1", "1\n2"]
)
async def test_junk(redis: RedisServer, junk: str) -> None:
    """What anybody else has put there means that something may wait, and no more."""
    with trio.fail_after(60):
        await redis.ask("LPUSH", KEY, junk)
        async with open_redis_bus(redis.address, WEBBUDDY) as bus:
            assert await bus.take(always) == Hint(0, 0)


async def test_a_key_of_another_kind(redis: RedisServer, events: Events) -> None:
    """Somebody's string in the place of our list: said, and over when it is gone."""
    with trio.fail_after(60):
        await redis.ask("SET", KEY, "mine")
        async with open_redis_bus(redis.address, WEBBUDDY) as bus:
            await until(lambda: bus.trouble is not None)
            assert "wrong kind of value" in str(bus.trouble)
            await redis.ask("DEL", KEY)
            await share(bus)
            await until(lambda: bus.trouble is None)
    assert lines(events) == [SAID, OVER]


async def test_a_full_one(redis: RedisServer, events: Events) -> None:
    """It takes no hint, and is in trouble until it does; a retry with nothing to be sent is refused, too."""
    with trio.fail_after(60):
        async with open_redis_bus(redis.address, WEBBUDDY) as bus:
            await share(bus)
            await redis.ask("CONFIG", "SET", "maxmemory", "1")
            bus.offer(Hint(1, 1))
            await until(lambda: bus.trouble is not None)
            assert "maxmemory" in str(bus.trouble)
            with trio.move_on_after(1) as retries:  # the first comes within half a second
                await until(lambda: bus.trouble is None)
            assert retries.cancelled_caught
            assert "maxmemory" in str(await ask_redis(redis.address, WEBBUDDY))
            await redis.ask("CONFIG", "SET", "maxmemory", "0")
            await until(lambda: bus.trouble is None)
            assert await redis.ask("LRANGE", KEY, "0", "-1") == ""
    assert lines(events) == [SAID, OVER]


async def test_full_load_is_a_few_calls(redis: RedisServer) -> None:
    """A thousand hints, offered one by one, go in batches; the first goes at once."""
    with trio.fail_after(60):
        async with open_redis_bus(redis.address, WEBBUDDY) as bus:
            await share(bus)
            await redis.ask("CONFIG", "RESETSTAT")
            began = trio.current_time()
            for number in range(1_000):
                bus.offer(Hint(number, 1))
                await trio.lowlevel.checkpoint()
            bus.offer(Hint(1_000, 2))
            await redis.until("LRANGE", KEY, "0", "0", answer="1000 2")
            seconds = trio.current_time() - began
            (line,) = [
                line for line in (await redis.ask("INFO", "commandstats")).splitlines() if "_lpush:" in line
            ]
            assert 1 <= int(line.split("calls=")[1].split(",")[0]) <= seconds / 0.05 + 2


async def test_the_last_words_of_a_worker_are_heard(redis: RedisServer) -> None:
    """What is put back as a worker stops is offered right before its end of the bus is closed."""
    with trio.fail_after(60):
        async with open_redis_bus(redis.address, WEBBUDDY) as bus:
            await share(bus)
            bus.offer(Hint(4, 2))
        assert "4 2" in await redis.ask("LRANGE", KEY, "0", "-1")


# --- Redis is away, slow, or somebody else ---------------------------------------------------------


async def test_killed_and_started_again(redis: RedisServer, events: Events) -> None:
    """Hints flow again by themselves, and the operator has read one line of each."""
    with trio.fail_after(60):
        async with open_redis_bus(redis.address, WEBBUDDY) as a, open_redis_bus(redis.address, WEBBUDDY) as b:
            await share(a, b)
            redis.kill()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(b.take, always)
                await until(lambda: b.trouble is not None)
                nursery.cancel_scope.cancel()
            assert str(redis.port) in str(b.trouble)
            redis.start()
            await share(a, b)
            await until(lambda: a.trouble is None and b.trouble is None)
    assert lines(events).count(SAID) in (1, 2)  # of two workers
    assert lines(events).count(SAID) == lines(events).count(OVER)


@pytest.mark.parametrize("hints", [0, 2 * MOST_HINTS])
async def test_not_there_at_the_start(redis: RedisServer, events: Events, hints: int) -> None:
    """A worker starts without it, and finds it by itself; what was offered meanwhile is not sent late."""
    redis.kill()
    with trio.fail_after(60):
        async with open_redis_bus(BusAddress("127.0.0.1", redis.port), WEBBUDDY) as bus:
            await until(lambda: bus.trouble is not None)
            assert "(Connection refused)" in str(bus.trouble)
            for number in range(hints):
                bus.offer(Hint(number, 1))
            redis.start()
            await until(lambda: bus.trouble is None)
            await trio.sleep(0.1)  # for what may not come: less would only notice less
            assert await redis.ask("LRANGE", KEY, "0", "-1") == ""
            await share(bus)
    assert lines(events) == [SAID, OVER]


async def test_who_is_busy_sees_that_it_is_back(redis: RedisServer, events: Events) -> None:
    """Trouble is over when it is over, though nobody wants a hint; then there is no more waiting for any."""
    redis.kill()
    with trio.fail_after(60):
        async with open_redis_bus(BusAddress("127.0.0.1", redis.port), WEBBUDDY) as bus:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.take, lambda: False)
                await until(lambda: bus.trouble is not None)
                redis.start()
            await until(lambda: bus.trouble is None)
            bus.offer(Hint(1, 1))
            await redis.until("LLEN", KEY, answer="1")
    assert lines(events) == [SAID, OVER]


async def test_frozen(redis: RedisServer, events: Events) -> None:
    """A Redis that answers nothing with its connections open, as behind a network that swallows all."""
    with trio.fail_after(60):
        async with open_redis_bus(redis.address, WEBBUDDY) as bus:
            await share(bus)
            redis.freeze()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.take, always)
                await until(lambda: bus.trouble is not None)
                nursery.cancel_scope.cancel()
            assert "(it does not answer)" in str(bus.trouble)
            bus.offer(Hint(1, 1))  # does not wait
            redis.thaw()
            await share(bus)
            await until(lambda: bus.trouble is None)
    assert lines(events) == [SAID, OVER]


async def test_frozen_at_the_end(redis: RedisServer) -> None:
    """A worker that stops does not wait for it."""
    with trio.fail_after(60):
        async with open_redis_bus(redis.address, WEBBUDDY) as bus:
            await share(bus)
            redis.freeze()
            bus.offer(Hint(1, 1))
            began = trio.current_time()
        assert trio.current_time() - began < 2


HELLO = b"%3\r\n$5\r\nproto\r\n:3\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$2\r\nid\r\n:1\r\n"
ECHO = b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `open sesame`\r\n"


@asynccontextmanager
async def serve(answers: list[bytes]) -> AsyncIterator[BusAddress]:
    """Answer whatever is asked, in this order, the last one again and again."""

    async def talk(stream: trio.SocketStream) -> None:
        rest = iter(answers)
        answer = b""
        try:
            while await stream.receive_some():
                answer = next(rest, answer)
                await stream.send_all(answer)
        except trio.BrokenResourceError:
            pass  # it has heard enough

    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), talk, 0)
        yield BusAddress("127.0.0.1", listener.socket.getsockname()[1], password="open sesame")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "it does not answer as Redis does"),
        ([b"\x00\xff\r\n" * 99], "it does not answer as Redis does"),
        ([b":1\r\n"], "it does not answer as Redis does"),
        ([b"$-5\r\n"], "it does not answer as Redis does"),
        ([b"*1\r\n$1\r\nx\r\n"], "it does not answer as Redis does"),
        ([b"$99999999999999999999\r\n"], "it does not answer"),
        ([b"+OK\r\n" * 99], "it does not answer as Redis does"),
        ([HELLO + b"*1\r\n*x\r\n"], "it has hung up"),
        ([HELLO, b"_\r\n"], "it does not wait for wake-ups"),
        ([ECHO], "[MASKED]"),
    ],
    ids=["http", "bytes", "number", "length", "list", "huge", "many", "rubbish", "nothing", "password"],
)
async def test_a_liar(answers: list[bytes], reason: str, events: Events) -> None:
    """Whatever answers there: trouble, and no more; and the password stays with us."""
    with trio.fail_after(60):
        async with serve(answers) as address, open_redis_bus(address, WEBBUDDY) as bus:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.take, always)
                await until(lambda: reason in str(bus.trouble))
                nursery.cancel_scope.cancel()
            bus.offer(Hint(1, 1))
    assert lines(events).count(SAID) == 1
    assert "sesame" not in str(events)


async def test_one_that_hangs_up_is_called_seldom(autojump_clock: MockClock) -> None:
    """Who sends and who takes, each every few seconds."""
    calls = 0

    async def hang_up(stream: trio.SocketStream) -> None:
        nonlocal calls
        calls += 1
        assert calls <= 1000, "there is no end of it"

    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            (listener, *_) = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), hang_up, 0)
            address = BusAddress("127.0.0.1", listener.socket.getsockname()[1])
            async with open_redis_bus(address, WEBBUDDY) as bus:
                with trio.move_on_after(600):
                    await bus.take(always)
            nursery.cancel_scope.cancel()
    assert 2 * 600 / 10 <= calls <= 2 * 600 / 2


async def test_a_liar_that_has_hints_without_end() -> None:
    """What it gives is no hint, and is taken as one that says nothing."""
    with trio.fail_after(60):
        async with serve([HELLO, b":5\r\n"]) as address, open_redis_bus(address, WEBBUDDY) as bus:
            for _ in range(3):
                assert await bus.take(always) == Hint(0, 0)


async def test_a_taker_that_was_stopped_takes_nothing_more(redis: RedisServer) -> None:
    """Its connection is closed: Redis has nobody waiting, and its next one is good."""
    with trio.fail_after(60):
        async with open_redis_bus(redis.address, WEBBUDDY) as bus:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.take, always)
                await redis.until("INFO", "clients", answer="blocked_clients:1")
                nursery.cancel_scope.cancel()
            await redis.until("INFO", "clients", answer="blocked_clients:0")
            # Not only for the moment, as after a wait that has ended by itself.
            assert "cmd=brpop" not in await redis.ask("CLIENT", "LIST")
            bus.offer(Hint(1, 1))
            assert await bus.take(always) == Hint(1, 1)


async def test_who_is_stopped_while_it_connects_is_in_no_trouble() -> None:
    """Nor does it say so: it was not Redis that has hung up."""
    heard = 0
    connecting = trio.Event()

    async def be_silent(stream: trio.SocketStream) -> None:
        nonlocal heard
        await stream.receive_some()
        heard += 1
        if heard == 2:  # who sends, and who takes
            connecting.set()
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with trio.open_nursery() as server:
            (listener, *_) = await server.start(partial(trio.serve_tcp, host="127.0.0.1"), be_silent, 0)
            address = BusAddress("127.0.0.1", listener.socket.getsockname()[1])
            async with open_redis_bus(address, WEBBUDDY) as bus:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bus.take, always)
                    await connecting.wait()
                    nursery.cancel_scope.cancel()
                assert bus.trouble is None or "(it does not answer)" in bus.trouble  # of who sends
            server.cancel_scope.cancel()


# --- What it costs who has none --------------------------------------------------------------------


def test_coredis_is_imported_for_a_bus_only() -> None:
    """It takes 0.2 s and a few megabytes."""
    program = "import sys, trio_worker.cli.run, trio_worker.launch; sys.exit('coredis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
