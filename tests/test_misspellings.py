"""Names of an environment that are nearly a setting's."""

from __future__ import annotations

import pytest

from trio_worker.misspellings import misspellings
from trio_worker.settings import VARIABLES


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NUM_WORKER", "NUM_WORKERS"),
        ("NUMWORKERS", "NUM_WORKERS"),
        ("num_workers", "NUM_WORKERS"),
        ("WEBBUDY_URL", "WEBBUDDY_URL"),
        ("WEB_BUDDY_URL", "WEBBUDDY_URL"),
        ("POLING_INTERVAL", "POLLING_INTERVAL"),
        ("WORKER_PASWORD", "WORKER_PASSWORD"),
        ("WORKER_POLLING_INTERVAL", "POLLING_INTERVAL"),
        ("WORKER_NUM_WORKERS", "NUM_WORKERS"),
        ("WRKER_NAME", "WORKER_NAME"),
    ],
)
def test_a_misspelt_name_is_told_with_the_one_that_was_meant(name: str, meant: str) -> None:
    """With our prefix, with a wrong one and without any."""
    assert misspellings([name, "HOME"]) == [f"{name} is not a setting: did you mean {meant}?"]


def test_other_programs_names_are_not_taken_for_ours() -> None:
    """What only resembles a setting is nobody's mistake."""
    others = [
        *("MAX_WORKERS", "NUM_THREADS", "OMP_NUM_THREADS", "DATABASE_URL", "LOG_LEVEL", "USERNAME"),
        *("PASSWORD", "LANGUAGE", "SERVER_NAME", "WEBBUDDY_PORT", "WEBBUDDY_SERVICE_HOST", "PATH", "HOME"),
    ]
    assert misspellings(others) == []


def test_our_prefix_without_a_likeness() -> None:
    """It is told, but nothing far-fetched is proposed: WORKER_PORT is what Kubernetes sets."""
    assert misspellings(["WORKER_PORT", "WORKER_SERVICE_HOST"]) == [
        "WORKER_PORT is not a setting",
        "WORKER_SERVICE_HOST is not a setting",
    ]


def test_no_setting_is_misspelt() -> None:
    """All variables that are read are known."""
    assert misspellings(variable.name for variable in VARIABLES) == []
