"""Workers as an operator starts them, with a Redis between them or a wrong WORKER_BUS_URL."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest
import trio

from tests.commands import environment, run_command
from tests.processes import TOO_LONG, WorkerProcess, start_worker
from tests.redis_server import needs_redis, start_redis
from tests.scrapes import parse
from trio_worker.figures import PREFIX
from trio_worker.testing import StoredQuery, WebBuddy, serve_webbuddy

SAID = "wake-ups are not shared meanwhile: queries are found by push and poll"

HELD = """
import trio

async def handle(query, ctx):
    if "long" in query.query_text:
        await trio.sleep(3600)
    return "answered"
"""


async def bus_up(worker: WorkerProcess, wanted: int) -> None:
    """Wait until its figures say so."""
    async with httpx.AsyncClient() as client:
        with trio.fail_after(TOO_LONG):
            while True:
                samples = parse((await client.get(f"{worker.url}/metrics")).text)
                if {value for (name, _), value in samples.items() if name == f"{PREFIX}bus_up"} == {wanted}:
                    return
                await trio.sleep(0.05)


async def ready(worker: WorkerProcess) -> dict[str, object]:
    async with httpx.AsyncClient() as client:
        answer: dict[str, object] = (await client.get(f"{worker.url}/readyz")).json()
        return answer


async def done(webbuddy: WebBuddy, query: StoredQuery) -> None:
    with trio.fail_after(TOO_LONG):
        await webbuddy.until(lambda: query.status == "done")


@needs_redis
async def test_a_push_to_a_full_worker_wakes_another(tmp_path: Path) -> None:
    """Before Redis is killed and when it is back; between, a push to a worker that is free is enough."""
    for name in ("full", "free"):
        (tmp_path / name).mkdir()
    webbuddy = WebBuddy()
    with start_redis(tmp_path) as redis:
        async with serve_webbuddy(webbuddy) as url:
            environ = {"WORKER_BUS_URL": redis.url, "NUM_WORKERS": "1", "POLLING_INTERVAL": "86400"}
            async with start_worker(tmp_path / "full", webbuddy_url=url, handler=HELD, **environ) as full:
                await full.until(lambda line: "Running on" in line)
                webbuddy.push_url = full.url
                webbuddy.add_query("a long one")
                with trio.fail_after(TOO_LONG):
                    await webbuddy.until(lambda: bool(webbuddy.with_status("in_progress")))
                async with start_worker(tmp_path / "free", webbuddy_url=url, handler=HELD, **environ) as free:
                    await free.until(lambda line: "Running on" in line)
                    await done(webbuddy, webbuddy.add_query("first"))  # found at its start, perhaps

                    redis.kill()
                    await bus_up(free, 0)
                    answer = await ready(free)
                    assert answer["ready"], answer
                    assert "are not shared over redis://" in str(answer["notes"])
                    webbuddy.push_url = free.url
                    await done(webbuddy, webbuddy.add_query("second"))

                    redis.start()
                    await bus_up(free, 1)
                    await bus_up(full, 1)
                    assert "notes" not in await ready(free)
                    webbuddy.push_url = full.url
                    await done(webbuddy, webbuddy.add_query("third"))
                    warnings = [json.loads(line) for line in free.lines if SAID in line]
                    assert [line["level"] for line in warnings] == ["warning"]
    assert sorted(query.status for query in webbuddy.queries.values()) == ["done"] * 3 + ["in_progress"]


@pytest.mark.parametrize("command", ["run", "check"])
async def test_coredis_is_not_installed(command: str, tmp_path: Path) -> None:
    """Said with what to install, at once, and exit 2."""
    program = (
        "import sys\n"
        "sys.modules['coredis'] = None\n"
        f"sys.argv = ['trio-worker', '{command}']\n"
        "from trio_worker.cli import main\n"
        "main()\n"
    )
    with trio.fail_after(TOO_LONG):
        ended = await trio.run_process(
            [sys.executable, "-c", program],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=tmp_path,
            env=environment("http://127.0.0.1:9", WORKER_BUS_URL="redis://:open-sesame@localhost"),
        )
    assert ended.returncode == 2
    said = (ended.stdout + ended.stderr).decode()
    assert "pip install 'trio-worker[redis]'" in said
    assert "Traceback" not in said
    assert "sesame" not in said


@needs_redis
async def test_check_says_whether_it_answers(tmp_path: Path) -> None:
    """A line with ✓; or with ! and why, since a worker would work without it. Never with the password."""
    with start_redis(tmp_path, "--requirepass", "open-sesame") as redis:
        answers = {}
        for password in ("open-sesame", "open-barley"):
            (tmp_path / "url").write_text(f"redis://:{password}@localhost:{redis.port}\n")
            async with serve_webbuddy(WebBuddy()) as url:
                ended = await run_command(tmp_path, "check", webbuddy_url=url, WORKER_BUS_URL_FILE="url")
            assert ended.code == 0, ended
            assert password not in ended.out + ended.err
            (answers[password],) = [line for line in ended.out.splitlines() if line[2:].startswith("bus ")]
        assert await redis.ask("--no-auth-warning", "-a", "open-sesame", "DBSIZE") == "0"
    address = f"redis://localhost:{redis.port}/0"
    assert answers["open-sesame"].split() == ["✓", "bus", address, "answers"]
    assert answers["open-barley"].startswith("! bus")
    assert "invalid username-password pair" in answers["open-barley"]


async def test_a_bus_of_a_wrong_kind_does_not_show_its_password(tmp_path: Path) -> None:
    """What can't be read is not repeated: the password may be in it."""
    ended = await run_command(
        tmp_path, "run", webbuddy_url="http://127.0.0.1:9", WORKER_BUS_URL="redis://:open/sesame@localhost"
    )
    assert ended.code == 2
    assert "WORKER_BUS_URL is set (its value is not shown): expected redis:// or rediss://" in ended.err
    assert "sesame" not in ended.out + ended.err
