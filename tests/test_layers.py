"""The floors of the house: a module imports only from floors above its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Of the wrong sort, each in one line at the end of a module that would otherwise be fine.
WRONG_IMPORTS = [
    ("wakeups.py", "from trio_worker.webbuddy import WebBuddyClient"),  # a mechanism knows a door
    ("turns.py", "import trio_worker.transport"),  # the same
    ("answers.py", "from trio_worker.tokens import TokenAuth"),  # two doors know each other
    ("execution.py", "from trio_worker.reporting import Deliveries"),  # two parts of one floor
    ("errors.py", "from trio_worker.query import Query"),  # the words' own floors
    ("consumer.py", "from trio_worker.service import run_service"),  # upside down
    ("web/push.py", "import trio_worker.testing"),  # the tests' WebBuddy in the shipped worker
    ("service.py", "def late() -> None:\n    import trio_worker.launch"),  # hidden in a function
]


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter with the contract in pyproject.toml, over the package in a directory."""
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports_command as c; c()",
    ]
    return subprocess.run(
        [*command, "--no-cache"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contract, to be spoilt."""
    shutil.copytree(
        ROOT / "trio_worker", tmp_path / "trio_worker", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_upward_only() -> None:
    """The contract of pyproject.toml holds, and every module has its floor (`exhaustive`)."""
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(("module", "line"), WRONG_IMPORTS, ids=[name for name, _ in WRONG_IMPORTS])
def test_a_wrong_import_is_found(module: str, line: str, copy: Path) -> None:
    """The test above can fail: one wrong import, and it does, naming it."""
    path = copy / "trio_worker" / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    result = lint(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "0 kept, 1 broken" in result.stdout
    assert f"trio_worker.{module.removesuffix('.py').replace('/', '.')}" in result.stdout


def test_a_module_without_a_floor_is_found(copy: Path) -> None:
    """A new file has to be given its place."""
    (copy / "trio_worker" / "utils.py").write_text('"""Anything."""\n')
    result = lint(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "utils" in result.stdout


def test_each_floor_is_there() -> None:
    """The contract names no module that has gone."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    for name in " | ".join(contract["layers"]).split(" | "):
        module = ROOT / "trio_worker" / name.strip("()")
        assert module.is_dir() or module.with_suffix(".py").exists(), name
