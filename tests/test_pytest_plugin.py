"""The plugin as an author of handlers meets it: in a run of pytest of its own, in a directory of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

BLOCKS = """
    import time

    async def handle(query, ctx):
        time.sleep(3600)
"""
USED = """
    from agent import handle

    def test_it(run_handler):
        run_handler(handle, "text")
"""
FAILS = """
    from agent import handle

    def test_it(run_handler):
        assert run_handler(handle, "text").status == "done"
"""
ASYNC = """
    async def test_it({fixture}):
        pass
"""


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)


def test_a_handler_that_blocks(pytester: pytest.Pytester) -> None:
    """The failure is the sentence, with the file and the line, and no traceback of ours before it."""
    pytester.makepyfile(agent=BLOCKS, test_agent=USED)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*___ test_it ___*",
            "the handler blocks the event loop: it has waited for * s without an await, at"
            f" {pytester.path}/agent.py:4 in handle.",
            "Meanwhile no time limit works*",
            "*Captured stdout call*",
        ],
        consecutive=True,
    )


def test_a_handler_that_raises(pytester: pytest.Pytester) -> None:
    """Its traceback is in the output, in plain text, without variables."""
    pytester.makepyfile(
        agent="""
            def handle(query, ctx):
                password = "hunter2-of-the-test"
                raise KeyError("no such page")
        """,
        test_agent=FAILS,
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*assert 'failed' == 'done'",
            "*the handler raised*",
            "*agent.py*line 3*",
            "KeyError: 'no such page'",
        ]
    )
    assert "hunter2-of-the-test" not in result.stdout.str()


@pytest.mark.parametrize("fixture", ["run_handler", "webbuddy", "open_worker"])
def test_an_async_test_that_nobody_runs(fixture: str, pytester: pytest.Pytester) -> None:
    """Without pytest-trio, and with it but without its mode: what to do."""
    pytester.makepyfile(ASYNC.format(fixture=fixture))
    result = run(pytester, "-p", "no:trio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["test_it is async: for that, pip install 'trio-worker[[]pytest]', and write*"]
    )
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["test_it is async: write `trio_mode = true` into pytest.ini*"])


def test_plain_tests_need_no_pytest_trio(pytester: pytest.Pytester) -> None:
    """All that `run_handler` needs is Trio."""
    pytester.makepyfile(agent="def handle(query, ctx):\n    return 'x'\n", test_agent=FAILS)
    run(pytester, "-p", "no:trio").assert_outcomes(passed=1)


def test_it_costs_nothing_where_it_is_not_used() -> None:
    """Every run of pytest in this environment imports it: neither our package nor what that needs."""
    code = (
        "import sys, pytest; before = set(sys.modules); import pytest_trio_worker;"
        "print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["pytest_trio_worker"]
