"""What `deploy/` asks Prometheus for exists, and docs/metrics.md has the figures that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from trio_worker.figures import FIGURES, PREFIX
from trio_worker.testing import open_worker
from trio_worker.traffic import ENDPOINTS, STATUSES

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"

OF_ALL = {"instance", "job", "process"}
OTHERS = {
    f"{PREFIX}processes": set[str](),
    f"{PREFIX}build_info": {"version", "python"},
    "process_cpu_seconds_total": set[str](),
    "process_resident_memory_bytes": set[str](),
    "up": set[str](),
}

VALUES = {
    ("trio_worker_claims_total", "result"): {"found", "empty", "busy", "failed", "lost"},
    ("trio_worker_queries_total", "outcome"): {"done", "failed", "put_back", "put_aside", "taken_away"},
    ("trio_worker_failures_total", "kind"): {"said_so", "error", "timeout", "left_behind"},
    ("trio_worker_held_queries", "state"): {"running", "waiting", "put_aside", "ended"},
    ("trio_worker_webbuddy_calls_total", "status"): {*STATUSES},
    ("trio_worker_webbuddy_calls_total", "endpoint"): {*ENDPOINTS},
}
"""What a label may be, where a rule asks for some of them."""


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    return board


def expressions() -> list[str]:
    targets = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    scaled = yaml.safe_load((DEPLOY / "kubernetes" / "keda.yaml").read_text(encoding="utf-8"))
    triggers = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    return [rule["expr"] for rule in rules()] + targets + triggers


def asked_for(expression: str) -> Iterator[tuple[str, str]]:
    """Yield each name in an expression, with what stands in braces behind it."""
    for match in re.finditer(r"\b(trio_worker_\w+|process_\w+|up)\b(?:\{([^}]*)\})?", expression):
        yield match[1], match[2] or ""


def labels_of(name: str) -> set[str] | None:
    """The labels of what a name stands for; None: there is no such thing."""
    if name in OTHERS:
        return OTHERS[name]
    figure = FIGURES.get(name)
    if figure is None and name.endswith(("_bucket", "_sum", "_count")):
        figure = FIGURES.get(name.rpartition("_")[0])
        return {*figure.labels, "le"} if figure is not None and figure.kind == "histogram" else None
    return {*figure.labels} if figure is not None and figure.kind != "histogram" else None


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_exists(expression: str) -> None:
    """Names, labels and values: one that does not exist gives an alert that never fires."""
    known = {*OF_ALL}
    for name, braces in asked_for(re.sub(r"by \([^)]*\)", "", expression)):
        labels = labels_of(name)
        assert labels is not None, name
        known |= labels
        for label, operator, value in re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', braces):
            assert label in labels | OF_ALL, (name, label)
            if label not in OF_ALL and label != "reason":
                assert {*value.split("|")} <= VALUES[name, label], (name, operator, value)
    for group in re.findall(r"by \(([^)]*)\)", expression):
        assert {label.strip() for label in group.split(",")} <= known, group
    assert expression.count("(") == expression.count(")")


def test_counters_are_asked_for_their_growth() -> None:
    """And nothing else is: the growth of a gauge means nothing."""
    for expression in expressions():
        for name, _ in asked_for(re.sub(r"by \([^)]*\)", "", expression)):
            figure = FIGURES.get(name)
            grows = name.endswith(("_bucket", "_sum", "_count", "_total"))
            asked = re.search(rf"(rate|increase)\({name}\b", expression) is not None
            assert asked == grows, (name, expression)
            assert figure is None or grows == (figure.kind == "counter")


async def test_reasons_exist(autojump_clock: object) -> None:
    """The alerts that ask for one reason ask for one that the worker knows."""

    async def handle(query: object, ctx: object) -> str:
        return "ok"

    reasons = set(re.findall(r'reason="(\w+)"', " ".join(expressions())))
    async with open_worker(handle) as worker:
        await worker.ask("x")
        assert reasons <= {*worker.front.readiness.as_numbers()}
    assert reasons


def test_each_alert_says_what_to_do() -> None:
    """A name of its own, how grave it is, what it means and what to do."""
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) >= 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}


def test_the_dashboard_shows_all() -> None:
    """Each figure has its place, no two panels cover each other, and each has a number of its own."""
    shown = " ".join(target["expr"] for panel in dashboard()["panels"] for target in panel["targets"])
    for name in FIGURES:
        assert name in shown, name
    panels = dashboard()["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len({panel["id"] for panel in panels}) == len(panels)
    assert all(x % 8 == 0 and x < 24 and y % 7 == 0 for x, y in places)


def test_the_table_of_the_page() -> None:
    """It has each figure, with its type, labels and meaning, in the same order."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = page.partition("## The figures\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in section.splitlines()
        if row.startswith("| `")
    ]
    assert [row[0].strip("`") for row in rows[-2:]] == [f"{PREFIX}build_info", f"{PREFIX}processes"]
    expected = [
        [f"`{figure.name}`", figure.kind, ", ".join(f"`{label}`" for label in figure.labels), figure.help]
        for figure in FIGURES.values()
    ]
    assert rows[:-2] == expected
