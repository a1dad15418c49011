"""The autoscaler's manifest of `deploy/`: what it asks Prometheus for, and how many pods come of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_alerts import needs_promtool, promtool
from tests.test_deploy import GRACE, KUBERNETES
from trio_worker.settings import Settings
from trio_worker.variables import defaults_of

KEDA = Path(__file__).parent.parent / "deploy" / "kubernetes" / "keda.yaml"
(SCALED,) = yaml.safe_load_all(KEDA.read_text(encoding="utf-8"))
SPEC: dict[str, Any] = SCALED["spec"]
WANTED, BUSY = SPEC["triggers"]
BEHAVIOR: dict[str, Any] = SPEC["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]

SELECTED = 'job="trio-worker",instance="{}",process="{}"'


def series(figure: str, instance: str, values: str, process: int = 0) -> dict[str, str]:
    labels = SELECTED.format(instance, process)
    return {"series": f"trio_worker_{figure}{{{labels}}}", "values": values}


def pods_for(value: float, trigger: dict[str, Any]) -> int:
    """As Kubernetes has it for an AverageValue: so many that each has its share of it."""
    return max(SPEC["minReplicaCount"], math.ceil(value / float(trigger["metadata"]["threshold"])))


def test_its_fields_are_kedas() -> None:
    """Nothing is misspelt: KEDA and Kubernetes would ignore it, or refuse all of it."""
    assert (SCALED["apiVersion"], SCALED["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert set(SPEC) == {
        "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "fallback", "triggers",
        "advanced",
    }  # fmt: skip
    assert set(SPEC["fallback"]) == {"failureThreshold", "replicas", "behavior"}
    assert SPEC["fallback"]["behavior"] == "currentReplicasIfHigher"
    for trigger in (WANTED, BUSY):
        assert set(trigger) == {"type", "name", "metricType", "metadata"}
        # `fallback` knows no other kind.
        assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
        assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold", "ignoreNullValues"}
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_kubernetes_takes_what_keda_makes_of_it() -> None:
    """A HorizontalPodAutoscaler, by Kubernetes' own schema."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs the extra `deploy`")
    metric = {"type": "External", "external": {"metric": {"name": "s0"}, "target": {"type": "AverageValue"}}}
    made = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": SCALED["metadata"],
        "spec": {
            "scaleTargetRef": SPEC["scaleTargetRef"],
            "minReplicas": SPEC["minReplicaCount"],
            "maxReplicas": SPEC["maxReplicaCount"],
            "metrics": [metric],
            "behavior": BEHAVIOR,
        },
    }
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(made, version, strict=True)
    made["spec"]["behavior"] = {"scaleDwon": BEHAVIOR["scaleDown"]}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, version, strict=True)


def test_it_scales_the_worker() -> None:
    """That of the other manifest, to 80 % of its consumers; there is always one."""
    stateful = KUBERNETES["StatefulSet"]
    target = {key: stateful[key] for key in ("apiVersion", "kind")} | {"name": stateful["metadata"]["name"]}
    assert SPEC["scaleTargetRef"] == target
    assert "NUM_WORKERS" not in KUBERNETES["ConfigMap"]["data"]
    consumers = defaults_of(Settings, "num_workers")["num_workers"]
    assert [float(each["metadata"]["threshold"]) for each in (WANTED, BUSY)] == [0.8 * consumers] * 2
    assert 1 <= SPEC["minReplicaCount"] <= SPEC["fallback"]["replicas"] <= SPEC["maxReplicaCount"]


def test_pods_go_one_by_one() -> None:
    """The next one when the one before has had its grace, and those that stay have what it has put back."""
    (down,) = BEHAVIOR["scaleDown"]["policies"]
    assert (down["type"], down["value"]) == ("Pods", 1)
    assert down["periodSeconds"] > GRACE + 30
    assert BEHAVIOR["scaleDown"]["stabilizationWindowSeconds"] >= 300 > 0
    assert BEHAVIOR["scaleUp"]["stabilizationWindowSeconds"] == 0


BUSY_SECONDS = "consumer_busy_seconds_total"
CASES = [
    # Two pods of which each shows the same queue, and has five consumers at work: 75 a quarter of a minute.
    (
        "all busy, and 12 wait",
        [
            *(series(BUSY_SECONDS, pod, "0+75x40") for pod in ("a", "b")),
            *(series("queue_length", pod, "12x40") for pod in ("a", "b")),
        ],
        (22, 10),
        6,
    ),
    (
        "nothing to do",
        [series(BUSY_SECONDS, "a", "500x40"), series("queue_length", "a", "0x40")],
        (0, 0),
        1,
    ),
    # Of two processes of a pod one counts the queue.
    (
        "two processes, 3 at work, 1 waits",
        [
            series(BUSY_SECONDS, "a", "0+15x40"),
            series(BUSY_SECONDS, "a", "0+30x40", process=1),
            series("queue_length", "a", "1x40", process=1),
        ],
        (4, 3),
        1,
    ),
    ("the length of the queue is not known", [series(BUSY_SECONDS, "a", "0+75x40")], (None, 5), 2),
    ("nobody is scraped", [], (None, None), None),
]
"""What Prometheus has scraped each 15 s; what the two queries give (None: nothing); how many pods that is."""


@needs_promtool
@pytest.mark.parametrize(("case", "scraped", "values", "pods"), CASES, ids=[case[0] for case in CASES])
def test_prometheus_gives_what_it_scales_by(
    case: str,
    scraped: list[dict[str, str]],
    values: tuple[float | None, ...],
    pods: int | None,
    tmp_path: Path,
) -> None:
    """One number without labels, or nothing; by Prometheus's own promtool."""
    asked = [
        {
            "expr": trigger["metadata"]["query"],
            "eval_time": "10m",
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for trigger, value in zip((WANTED, BUSY), values, strict=True)
    ]
    test = {"name": case, "interval": "15s", "input_series": scraped, "promql_expr_test": asked}
    file = tmp_path / "test.json"
    file.write_text(json.dumps({"rule_files": [], "tests": [test]}))
    promtool("test", "rules", file)
    known = [
        pods_for(value, trigger)
        for value, trigger in zip(values, (WANTED, BUSY), strict=True)
        if value is not None
    ]
    assert max(known, default=None) == pods


def test_the_example_of_the_page_on_sizing() -> None:
    """It is what comes of the manifest."""
    page = (KEDA.parents[2] / "docs" / "sizing.md").read_text(encoding="utf-8")
    assert "22 / 4, so six pods" in page
    assert (CASES[0][2][0], CASES[0][3]) == (22, 6)


def test_an_empty_answer_is_no_idle_worker() -> None:
    """A queue of unknown length leaves it to the other trigger; workers that are not scraped are an error."""
    assert WANTED["metadata"]["ignoreNullValues"] == "true"
    assert BUSY["metadata"]["ignoreNullValues"] == "false"
    assert WANTED["metadata"]["query"].endswith(BUSY["metadata"]["query"] + "\n")
