"""What lies in deploy/ fits the worker: its settings, its paths, its grace, its commands."""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import DEVNULL
from threading import Thread
from typing import Any

import attrs
import pytest
import trio
import yaml
from click.testing import CliRunner
from dotenv import dotenv_values
from hypercorn.config import Config
from hypercorn.trio import serve

from tests.processes import TOO_LONG
from trio_worker.cli import main
from trio_worker.liveness import TOLERANCE, Liveness
from trio_worker.probes import Probes
from trio_worker.settings import VARIABLES, Settings
from trio_worker.systemd import LOOK
from trio_worker.variables import defaults_of
from trio_worker.web import make_app
from trio_worker.web.guard import Guard
from trio_worker.web.livez import LIVE_PATH
from trio_worker.web.readiness import READY_PATH, Readiness

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNIT, HYPERCORN = DEPLOY / "systemd" / "trio-worker.service", DEPLOY / "systemd" / "hypercorn.conf"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
RUNNING = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")

NAMES = {variable.name for variable in VARIABLES}
GRACE = defaults_of(Settings, "shutdown_grace")["shutdown_grace"]
PORT = 8001  # WebBuddy's own default for FASTAPI_URL
PUSH_TOKEN = (
    "${PUSH_TOKEN:?see the top of compose.yaml}"  # WebBuddy needs it as well, which reads no file of ours
)


def load(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def parse_unit(path: Path) -> dict[str, str]:
    """The settings of a unit's [Service]; of one that stands there twice, the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path, encoding="utf-8")
    return dict(parser["Service"])


def directive(name: str) -> str:
    """The last instruction of that name in the Dockerfile, on one line."""
    text = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"(?m)^{name} (.*)$", text)[-1]


def image_environment() -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", directive("ENV")))


COMPOSE = load("compose.yaml")[0]
KUBERNETES = {document["kind"]: document for document in load("kubernetes/trio-worker.yaml")}
POD = KUBERNETES["StatefulSet"]["spec"]["template"]["spec"]
SETTINGS_ENV = dotenv_values(DEPLOY / "systemd" / "settings.env")


# --- Settings ---------------------------------------------------------------------------------------


def test_each_variable_is_a_setting() -> None:
    """Whatever looks like one of ours, in any file and comment, is one."""
    of_others = {"WORKER_PORT"}  # of Kubernetes' service links
    for path in filter(Path.is_file, DEPLOY.rglob("*")):
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"\b(?:WORKER|WEBBUDDY|NUM|POLLING)_[A-Z_]+\b", text))
        assert named <= NAMES | of_others, path


@pytest.mark.parametrize(
    "environ",
    [
        image_environment() | COMPOSE["services"]["worker"]["environment"],
        image_environment() | KUBERNETES["ConfigMap"]["data"],
        SETTINGS_ENV,
    ],
    ids=["compose", "kubernetes", "systemd"],
)
def test_the_settings_are_good(environ: dict[str, str], tmp_path: Path) -> None:
    """A worker would start with them, once its secrets are mounted; they are in no file of ours."""
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789\n")
    ours = {name: value for name, value in environ.items() if name in NAMES}
    assert ours.pop("WORKER_PUSH_TOKEN", PUSH_TOKEN) == PUSH_TOKEN
    assert not {"WORKER_PASSWORD", "WORKER_ADMIN_TOKEN"} & set(ours)
    files = {name: str(secret) for name in ours if name.endswith("_FILE")}
    settings = Settings.from_environ(ours | files)
    assert (settings.password, str(settings.state_dir)) == (
        secret.read_text().strip(),
        "/var/lib/trio-worker",
    )
    assert settings.bind.endswith(f":{PORT}")
    # Beyond localhost only with tokens.
    assert ("WORKER_ADMIN_TOKEN_FILE" in files) == (not settings.bind.startswith("127."))


def test_the_secrets_are_where_the_settings_say() -> None:
    """The files that are named are those that are mounted."""
    worker = COMPOSE["services"]["worker"]
    named = [value for name, value in worker["environment"].items() if name.endswith("_FILE")]
    assert named == [f"/run/secrets/{secret}" for secret in worker["secrets"]]
    assert all(COMPOSE["secrets"][secret]["file"] == f"secrets/{secret}" for secret in worker["secrets"])
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    mounts = {mount["name"]: mount["mountPath"] for mount in POD["containers"][0]["volumeMounts"]}
    named = [value for name, value in KUBERNETES["ConfigMap"]["data"].items() if name.endswith("_FILE")]
    created = re.findall(r"--from-file=(\S+)", (DEPLOY / "kubernetes" / "trio-worker.yaml").read_text())
    assert named == [f"{mounts['secrets']}/{key}" for key in created]


def test_the_journal_lasts() -> None:
    """The state folder is a volume, or what systemd makes; all else is read-only."""
    folder = image_environment()["WORKER_STATE_DIR"]
    assert directive("VOLUME") == folder
    worker = COMPOSE["services"]["worker"]
    assert worker["read_only"] is True
    assert worker["volumes"] == [f"journal:{folder}"]
    assert "journal" in COMPOSE["volumes"]
    container = POD["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"name": "journal", "mountPath": folder} in container["volumeMounts"]
    (claim,) = KUBERNETES["StatefulSet"]["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "journal"
    unit = parse_unit(UNIT)
    assert unit["ProtectSystem"] == "strict"
    assert f"/var/lib/{unit['StateDirectory']}" == SETTINGS_ENV["WORKER_STATE_DIR"]


def test_nobody_is_root() -> None:
    """One user in the image and in Kubernetes, which has no other way to know it."""
    user = directive("USER").partition(":")[0]
    assert user != "0"
    assert f"--uid {user} " in DOCKERFILE
    assert POD["securityContext"]["runAsUser"] == POD["securityContext"]["fsGroup"] == int(user)
    assert parse_unit(UNIT)["User"] == "trio-worker"


# --- The stop ---------------------------------------------------------------------------------------


def test_each_stop_gives_the_grace_and_a_margin() -> None:
    """Whoever sends SIGTERM waits for longer than the worker takes, before SIGKILL."""
    unit = parse_unit(UNIT)
    worker = COMPOSE["services"]["worker"]
    given = {
        "systemd": float(unit["TimeoutStopSec"]),
        "compose": float(worker["stop_grace_period"].removesuffix("s")),
        "kubernetes": float(POD["terminationGracePeriodSeconds"]),
    }
    assert not [name for name, seconds in given.items() if seconds < GRACE + 5]
    set_there = [worker["environment"], KUBERNETES["ConfigMap"]["data"], SETTINGS_ENV, image_environment()]
    assert not [environ for environ in set_there if "WORKER_SHUTDOWN_GRACE" in environ]


def test_signals_reach_the_worker() -> None:
    """Exec form: a shell between would keep them to itself."""
    assert directive("ENTRYPOINT") == '["tini", "--", "trio-worker"]'
    assert directive("CMD") == '["run"]'
    assert directive("STOPSIGNAL") == "SIGTERM"
    # To hypercorn's parent alone, and to `run` alone: both stop their own.
    assert parse_unit(UNIT)["KillMode"] == "mixed"


def test_systemd_hears_of_the_worker() -> None:
    """By `run` only. Its patience is longer than that of `/livez`, and than the worker is silent."""
    unit, hypercorn = parse_unit(UNIT), parse_unit(HYPERCORN)
    assert (unit["Type"], hypercorn["Type"], hypercorn["WatchdogSec"]) == ("notify", "exec", "0")
    assert float(unit["WatchdogSec"]) > max(TOLERANCE, 2 * LOOK)


# --- The commands -----------------------------------------------------------------------------------


def test_what_is_started_exists() -> None:
    """The unit's command is one of ours, and that of the drop-in is that of docs/running.md."""
    program, *arguments = parse_unit(UNIT)["ExecStart"].split()
    assert Path(program).name == "trio-worker"
    assert CliRunner().invoke(main, [*arguments, "--help"]).exit_code == 0
    assert parse_unit(HYPERCORN)["ExecStart"].removeprefix("/opt/trio-worker/bin/") in RUNNING
    # Only a restart helps after hypercorn's 0.
    assert parse_unit(UNIT)["Restart"] == "always"


def test_what_is_copied_exists() -> None:
    """Into the image, past the list of what is not."""
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for sources in re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", DOCKERFILE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored


# --- The probes -------------------------------------------------------------------------------------


def test_kubernetes_asks_where_the_worker_answers() -> None:
    """A worker whose WebBuddy is away must not be ended for it."""
    container = POD["containers"][0]
    asked = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe")]
    assert [probe["path"] for probe in asked] == [LIVE_PATH, LIVE_PATH]
    healthcheck = re.findall(r'"(.*?)"', directive("HEALTHCHECK"))
    assert container["readinessProbe"]["exec"]["command"] == [*healthcheck, READY_PATH]
    (port,) = container["ports"]
    assert port["containerPort"] == PORT
    ports = {probe["port"] for probe in asked}
    ports.add(KUBERNETES["Service"]["spec"]["ports"][0]["targetPort"])
    ports.add(KUBERNETES["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"])
    assert ports == {port["name"]}
    assert KUBERNETES["Service"]["spec"]["ports"][0]["port"] == PORT


def test_the_parts_in_kubernetes_mean_each_other() -> None:
    """Names and labels by which one part finds another."""
    stateful = KUBERNETES["StatefulSet"]
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    assert stateful["spec"]["selector"]["matchLabels"] == labels
    assert KUBERNETES["Service"]["spec"]["selector"] == labels
    assert KUBERNETES["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert stateful["spec"]["serviceName"] == KUBERNETES["Service"]["metadata"]["name"]
    (source,) = POD["containers"][0]["envFrom"]
    assert source["configMapRef"]["name"] == KUBERNETES["ConfigMap"]["metadata"]["name"]


def test_compose_parts_mean_each_other() -> None:
    """WebBuddy pushes to the worker, and lets itself be called by the name that the worker uses."""
    webbuddy = COMPOSE["services"]["webbuddy"]["environment"]
    assert webbuddy["FASTAPI_URL"] == f"http://push:{PUSH_TOKEN}@worker:{PORT}"
    assert webbuddy["WEBBUDDY_URL"] == COMPOSE["services"]["worker"]["environment"]["WEBBUDDY_URL"]
    assert "webbuddy" in webbuddy["ALLOWED_HOSTS"].split(",")


async def look_at_health(bind: str, *path: str, **environ: str) -> tuple[int, str]:
    """Run the HEALTHCHECK's command as the image does; its exit code and what it says."""
    program, *arguments = re.findall(r'"(.*?)"', directive("HEALTHCHECK"))
    assert (program, arguments[-1]) == ("python", "/opt/trio-worker/healthcheck.py")
    with trio.fail_after(TOO_LONG):
        ended = await trio.run_process(
            [sys.executable, *arguments[:-1], str(DEPLOY / "healthcheck.py"), *path],
            # A proxy that nobody would get through.
            env={"WORKER_BIND": bind, "http_proxy": "http://127.0.0.1:1"} | environ,
            stdin=DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return ended.returncode, (ended.stdout + ended.stderr).decode()


async def test_the_healthcheck(nursery: trio.Nursery, tmp_path: Path) -> None:
    """0 while the loops keep their time, 1 when one is late; for what else it asks, it brings the token."""
    liveness, config, over = Liveness(), Config(), trio.Event()
    config.bind = ["127.0.0.1:0"]
    app = make_app(
        pushed=lambda _: None,
        own_url="http://localhost:8000",
        readiness=Readiness(),
        liveness=liveness,
        guard=Guard(admin_token="the admin's token"),
    )
    (url,) = await nursery.start(partial(serve, app, config, shutdown_trigger=over.wait))
    bind = f"0.0.0.0:{url.rpartition(':')[2]}"
    assert await look_at_health(bind) == (0, '200 {"live": true, "reasons": {}}\n')
    liveness.watch("ticker", lambda: trio.current_time() - TOLERANCE - 1)
    code, said = await look_at_health(bind)
    assert code == 1
    assert said.startswith("503 ")
    assert '"ticker"' in said
    code, said = await look_at_health(bind, READY_PATH)
    assert (code, said[:4]) == (1, "401 ")
    (tmp_path / "token").write_text("the admin's token\n")
    code, said = await look_at_health(bind, READY_PATH, WORKER_ADMIN_TOKEN_FILE=str(tmp_path / "token"))
    assert (code, said) == (
        1,
        '503 {"ready": false, "reasons": {"service": "it has not started yet"}}\n',
    )
    assert await look_at_health(bind, READY_PATH, WORKER_ADMIN_TOKEN="the admin's token") == (code, said)
    over.set()


@contextmanager
def answering_rubbish() -> Iterator[int]:
    class Rubbish(BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"rubbish\n")

    with HTTPServer(("127.0.0.1", 0), Rubbish) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        yield server.server_address[1]
        thread.join(TOO_LONG)


async def test_the_healthcheck_of_what_does_not_answer() -> None:
    """One line, no traceback: `docker inspect` shows it."""
    with answering_rubbish() as port:
        code, said = await look_at_health(f"0.0.0.0:{port}")
    assert (code, said) == (1, f"no answer from port {port}: rubbish\n")
    code, said = await look_at_health(f"0.0.0.0:{port}")
    assert code == 1
    assert said.startswith(f"no answer from port {port}: [Errno ")


# --- The operator's page ----------------------------------------------------------------------------


def test_each_reason_is_explained() -> None:
    """Those of `/readyz`, by their names."""
    rows = re.findall(r"(?m)^\| `([a-z]+)` \|", OPERATING)
    parts: dict[str, Any] = {
        field.name: None for field in attrs.fields(Probes)
    }  # only their names are asked for
    assert sorted(rows) == sorted(Probes(**parts).questions())


def test_a_drain_in_kubernetes_leaves_the_grace() -> None:
    """Its hook ends while there is still time for what a SIGTERM begins."""
    (pod,) = [
        yaml.safe_load(block)
        for block in re.findall(r"(?ms)^```yaml\n(.*?)^```", OPERATING)
        if "preStop" in block
    ]
    _timeout, seconds, *command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] - int(seconds) >= GRACE + 5
    assert command == ["trio-worker", "drain", "--wait"]
    assert parse_unit(DEPLOY / "systemd" / "drain.conf")["KillSignal"] == "SIGUSR1"
