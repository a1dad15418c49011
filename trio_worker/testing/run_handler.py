"""What the pytest fixture `run_handler` gives: a handler's attempt at one query, in one call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn, Unpack

import trio
import trio.testing

from trio_worker.handlers.loading import Handler
from trio_worker.testing.blocking import LoopBlocked
from trio_worker.testing.trial import HandlerFunction, HandlerResult, try_handler
from trio_worker.testing.trial_options import TrialOptions

__all__ = ["RunHandler"]


class RunHandler:
    """Runs a handler of any kind on a made-up query, by the worker's own rules and without a WebBuddy.

    ::

        def test_my_handler(run_handler):
            result = run_handler(handle, "Is the login page up?")
            assert result.status == "done"

    Masks, time limits and each way to end are the worker's own (`trio_worker.execution`). A handler that
    raises is no failed test but a result with ``status`` ``"failed"``; its traceback is in the output.

    Args:
        fail: Fails the test, with a text; `pytest.fail`.
    """

    def __init__(self, fail: Callable[[str], NoReturn]) -> None:
        self._fail = fail

    def __call__(
        self,
        handler: HandlerFunction | Handler | str,
        query_text: str = "",
        *,
        virtual_time: bool = False,
        **options: Unpack[TrialOptions],
    ) -> HandlerResult:
        """Run it to its end, in a plain ``def test_…``: Trio is started, and ended, for this one call.

        The test fails when an async handler blocks the event loop: when from one await to the next it waits
        for 0.3 s, or computes for 1 s. It fails then, in the middle of that, with the file and the line. A
        machine that is busy makes no difference on Linux; elsewhere it is 2 s of anything.

        One that swallows its cancellation for ever hangs its test, since Trio waits for each of its tasks: a
        worker leaves it behind, a test can't. pytest-timeout ends it.

        Args:
            handler: A function; or what ``WORKER_HANDLER`` may be, such as ``"process:agent:handle"``, found
                from the working directory.
            query_text: What the query's author has written.
            virtual_time: Whether waiting takes no time: only for async handlers that use neither threads nor
                processes nor the network.
            **options: `TrialOptions`: fields of the query, ``attempt``, ``saved``, limits, the project,
                ``capture``.

        Returns:
            How it ended, its log lines, what it has saved.

        Raises:
            HandlerError: That is no handler, or what it needs can't be opened.
            RuntimeError: This is an async test: use `here`.
            TypeError: There is no such option.
            ValueError: Virtual time does not wait for a handler of this kind; there is no such ``capture``.
        """
        if trio.lowlevel.in_trio_run():
            raise RuntimeError("in an async test, write: await run_handler.here(…)")
        run = partial(try_handler, handler, query_text, **options)
        try:
            return trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0) if virtual_time else None)
        except LoopBlocked as blocked:
            text = str(blocked)
        return self._fail(text)

    async def here(
        self,
        handler: HandlerFunction | Handler | str,
        query_text: str = "",
        **options: Unpack[TrialOptions],
    ) -> HandlerResult:
        """Do the same in the test's own Trio: in an ``async def test_…``, in virtual time if it has that.

        Cancelled, it cancels the handler, and waits for its end.
        """
        try:
            return await try_handler(handler, query_text, **options)
        except LoopBlocked as blocked:
            text = str(blocked)
        return self._fail(text)
