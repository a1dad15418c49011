"""The alert rules of `deploy/`, judged by Prometheus's promtool: each fires when it should, not before."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ALERTS = Path(__file__).parent.parent / "deploy" / "alerts.yaml"
RULES = {
    rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
}

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, of Prometheus")

GUIDE = (ALERTS.parent.parent / "docs" / "operating.md").read_text(encoding="utf-8")

HERE = {"instance": "w:8001"}
OURS = HERE | {"process": "0"}
OTHER = HERE | {"process": "1"}


def series(name: str, labels: Mapping[str, str] = OURS, **more: str) -> str:
    pairs = ",".join(f'{label}="{value}"' for label, value in {**labels, **more}.items())
    return f"{name}{{{pairs}}}"


def ours(name: str, labels: Mapping[str, str] = OURS, **more: str) -> str:
    return series(f"trio_worker_{name}", labels, **more)


def slower(name: str, bound: str, quick: int, of: int, **labels: str) -> dict[str, str]:
    """Give a histogram to which so many more are added each minute, some of them quicker than a bound."""
    buckets = {bound: quick, "1000": of, "+Inf": of}
    return {ours(f"{name}_bucket", le=le, **labels): f"0+{count}x90" for le, count in buckets.items()}


UP = series("up", HERE, job="trio-worker")
ERROR, SAID_SO = ours("failures_total", kind="error"), ours("failures_total", kind="said_so")
DONE, FAILED = ours("queries_total", outcome="done"), ours("queries_total", outcome="failed")
LOST = ours("claims_total", result="lost")

Labels = Mapping[str, str]
CASES: list[tuple[str, dict[str, str], int | None, Labels, str]] = [
    ("Down", {UP: "1x5 0x90"}, 8, HERE | {"job": "trio-worker"}, ""),
    ("Down", {series("up", HERE, job="another"): "1x90"}, 2, {"job": "trio-worker"}, ""),
    ("Down", {UP: "1x5 0 1x90"}, None, {}, ""),
    ("NotReady", {ours("not_ready", reason="login"): "0x5 1x90"}, 11, OURS | {"reason": "login"}, ""),
    ("NotReady", {ours("not_ready", reason="webbuddy"): "0x5 1x4 0x90"}, None, {}, ""),
    ("NotLive", {ours("late_loops"): "0x5 1x90"}, 7, OURS, ""),
    ("JournalIll", {ours("not_ready", reason="journal"): "0x5 1x90"}, 7, OURS, ""),
    ("JournalIll", {ours("not_ready", reason="login"): "0x5 1x90"}, None, {}, ""),
    ("PushBroken", {ours("pushes_broken"): "0x5 1x90"}, 21, HERE, ""),
    # Of two processes behind one address one may get no push for a while, by chance.
    ("PushBroken", {ours("pushes_broken"): "1x90", ours("pushes_broken", OTHER): "0x90"}, None, {}, ""),
    ("DeadLetters", {ours("dead_letters"): "0x5 2x90"}, 6, OURS, "2"),
    ("LostClaims", {LOST: "0x20 10x90"}, 21, HERE, ""),
    ("LostClaims", {LOST: "0x20 4x90"}, None, {}, ""),
    ("QueriesFail", {ERROR: "0+1x90", FAILED: "0+1x90", DONE: "0+3x90"}, 10, HERE, ""),
    ("QueriesFail", {ERROR: "0+1x90", FAILED: "0+1x90", DONE: "0+5x90"}, None, {}, ""),
    ("QueriesFail", {SAID_SO: "0+5x90", FAILED: "0+5x90"}, None, {}, ""),
    ("SlowPickUp", slower("pickup_seconds", "60", 8, of=10, source="poll"), 16, HERE, ""),
    ("SlowPickUp", slower("pickup_seconds", "60", 19, of=20, source="poll"), None, {}, ""),
    (
        "AllBusy",
        {
            ours("consumers"): "3x90",
            ours("consumers", OTHER): "2x90",
            ours("consumers_busy"): "3x90",
            ours("consumers_busy", OTHER): "1x10 2x90",
        },
        41,
        HERE,
        "",
    ),
    ("ReportsWait", {ours("held_queries", state="ended"): "20x10 21x90"}, 21, HERE, "21"),
    ("ReportsWait", {ours("held_queries", state="running"): "500x90"}, None, {}, ""),
    ("LeftBehind", {ours("left_behind", kind="thread"): "0x5 1x90"}, 16, HERE, "1"),
    ("EventLoopDelayed", slower("event_loop_delay_seconds", "0.5", 9, of=10), 11, OURS, ""),
    ("EventLoopDelayed", slower("event_loop_delay_seconds", "0.5", 999, of=1000), None, {}, ""),
]
"""Of each alert: what Prometheus has scraped, minute by minute; in which minute it fires (None: in none
of 90); its labels; and the value that its summary names."""


def expected(name: str, labels: Labels, value: str) -> dict[str, Any]:
    rule = RULES[name]
    # Where nobody answers at all there is no instance to name.
    labelled = {f"$labels.{label}": text for label, text in ({"instance": ""} | dict(labels)).items()}
    words = labelled | {"$value": value}

    def filled(text: str) -> str:
        return re.sub(r"{{ (\S+) }}", lambda match: words[match[1]], text)

    return {
        "exp_labels": {**labels, **rule["labels"]},
        "exp_annotations": {key: filled(text) for key, text in rule["annotations"].items()},
    }


def moments(name: str, fires: int | None, labels: Labels, value: str) -> list[dict[str, Any]]:
    """What is asked of promtool: each minute up to that in which it fires."""
    quiet = range(91) if fires is None else range(fires)
    asked = [{"eval_time": f"{minute}m", "alertname": name, "exp_alerts": []} for minute in quiet]
    if fires is not None:
        firing = [expected(name, labels, value)]
        asked.append({"eval_time": f"{fires}m", "alertname": name, "exp_alerts": firing})
    return asked


def promtool(*arguments: object) -> str:
    assert PROMTOOL is not None
    result = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_each_alert_has_a_section_of_its_name() -> None:
    """So whoever has been woken finds what to do by searching for what woke him; no section is of none."""
    sections = GUIDE.partition("\n## What each alert means\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^### (.+)$", sections, re.MULTILINE)) == sorted(RULES)


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    """All of them, with their expressions and templates."""
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", ALERTS)


@needs_promtool
def test_prometheus_takes_the_scrape_job_of_the_docs(tmp_path: Path) -> None:
    """As it stands there; the rules ask for its name."""
    job = GUIDE.partition("### Prometheus\n")[2].partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "prometheus.yml").write_text(job)
    (tmp_path / "alerts.yaml").write_bytes(ALERTS.read_bytes())
    promtool("check", "config", "--syntax-only", tmp_path / "prometheus.yml")
    (name,) = (job["job_name"] for job in yaml.safe_load(job)["scrape_configs"])
    assert f'up{{job="{name}"}}' in RULES["TrioWorkerDown"]["expr"]


@needs_promtool
def test_each_alert_fires_in_time(tmp_path: Path) -> None:
    """And in no minute before, and in none of a worker that is well enough."""
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in scraped.items()],
            "alert_rule_test": moments(f"TrioWorker{name}", fires, labels, value),
        }
        for name, scraped, fires, labels, value in CASES
    ]
    assert {f"TrioWorker{name}" for name, _, fires, _, _ in CASES if fires is not None} == {*RULES}
    file = tmp_path / "tests.json"  # which is YAML, too
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)
