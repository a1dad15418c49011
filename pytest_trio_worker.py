"""The pytest plugin of trio-worker: the fixtures `run_handler`, `webbuddy` and `open_worker`.

Beside the package and not in it: each run of pytest in an environment with trio-worker imports this file, and
all that it needs. So it needs nothing but pytest before a fixture is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from trio_worker.testing import OpenWorker, RunHandler, WebBuddy

__all__ = ["open_worker", "run_handler", "webbuddy"]


@pytest.fixture
def run_handler(request: pytest.FixtureRequest) -> Iterator[RunHandler]:
    """Run a handler on a made-up query: run_handler(handle, "text"). Fails one that blocks the loop."""
    _check_async_test(request)
    from trio_worker.event_log import printed
    from trio_worker.testing import RunHandler

    with printed():
        yield RunHandler(partial(pytest.fail, pytrace=False))


@pytest.fixture
def webbuddy(request: pytest.FixtureRequest) -> WebBuddy:
    """The embedded WebBuddy that open_worker works for: its state and its knobs. In the test's time."""
    _check_async_test(request)
    from trio_worker.testing import WebBuddy, time_of_the_test

    return WebBuddy(now=time_of_the_test())


@pytest.fixture
def open_worker(webbuddy: WebBuddy) -> Iterator[OpenWorker]:
    """Run the whole worker in an async test: async with open_worker(handle) as worker."""
    from trio_worker.event_log import printed
    from trio_worker.testing import open_worker

    with printed():
        yield partial(open_worker, webbuddy=webbuddy)


def _check_async_test(request: pytest.FixtureRequest) -> None:
    """Say what is missing where nobody would run the test; pytest's own words name ten other plugins."""
    test = request.node
    if not inspect.iscoroutinefunction(getattr(test, "obj", None)):
        return
    if test.get_closest_marker("anyio") is not None:
        return  # its plugin runs tests on Trio, too
    if not request.config.pluginmanager.hasplugin("trio"):
        pytest.fail(
            f"{test.name} is async: for that, pip install 'trio-worker[pytest]', and write `trio_mode = true`"
            " into pytest.ini, below [pytest]",
            pytrace=False,
        )
    if test.get_closest_marker("trio") is None:
        pytest.fail(
            f"{test.name} is async: write `trio_mode = true` into pytest.ini, below [pytest], or"
            " @pytest.mark.trio above the test",
            pytrace=False,
        )
