"""From ``module:function`` to the function, or one sentence on why not."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs

from trio_worker.errors import HandlerError
from trio_worker.handlers.importing import Wanted, name_of, said

__all__ = [
    "Handler",
    "OwnHandler",
    "closed_error",
    "handler_of",
    "load_handler",
    "opening_error",
    "source_of",
]

PATIENCE = 5.0
"""Seconds after its deadline in which a handler that was cancelled may still clean up."""


@attrs.frozen
class Handler:
    """The user's function, found and looked at.

    Attributes:
        path: As in ``WORKER_HANDLER``.
        function: To be called with a query and a context.
        is_async: Whether a call gives a coroutine; if not, it has to run in a thread. A plain
            function that wraps an async one is plain: it may hand the coroutine through, or run it
            to its end with another library, and only its call shows which.
        file: Where it is written, or None when that is not known (a C function).
        line: Its first line there, from 1, or None.
        patience: Seconds that it may take to end once it was cancelled.
        kill: Ends at once what a cancelled call runs in, given the call's context; None where nothing can.
        opens: Whether ``function`` is no handler yet, but gives, called with nothing, an async context
            manager of one; see `trio_worker.handlers.opening`.
    """

    path: str
    function: Callable[..., Any]
    is_async: bool
    file: str | None = None
    line: int | None = None
    patience: float = PATIENCE
    kill: Callable[[Any], None] | None = None
    opens: bool = False


class OwnHandler(ABC):
    """A callable object of ours, which knows how long it takes to end.

    Not any object that has such an attribute: in the user's it may mean something else.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def patience(self) -> float:
        """Seconds that cancelling a call may take."""


def load_handler(path: str, directory: Path) -> Handler:
    """Import the module of a handler and look the handler up in it.

    Runs the module's own code, in this thread. ``directory`` is put at the front of ``sys.path``
    and stays there, for what the handler imports later.

    Args:
        path: ``module:function``; the function may be an attribute, as in ``module:Class.method``.
        directory: The working directory.

    Raises:
        HandlerError: With one sentence: what is wrong, and the nearest name where there is one.
            Where the module raised, its exception is the ``__cause__``.
    """
    return source_of(Wanted("WORKER_HANDLER", path, directory).find(), path)


def source_of(found: Any, path: str) -> Handler:
    """Look at what was found: a handler, or a function that opens one.

    Args:
        found: It.
        path: How to name it in logs and errors.

    Raises:
        HandlerError: It is neither.
    """
    if _is_context_manager_function(found):
        _check_takes_nothing(found, path)
        return Handler(path, found, True, *_place(found), opens=True)
    return handler_of(found, path)


def handler_of(function: Any, path: str) -> Handler:
    """Look at a function that is to be called for each query.

    Args:
        function: What was found under ``path``.
        path: How to name it in logs and errors.

    Raises:
        HandlerError: When it can't be a handler.
    """
    _check(function, path)
    patience = function.patience if isinstance(function, OwnHandler) else PATIENCE
    return Handler(path, function, _is_async(function), *_place(function), patience=patience)


def opening_error(path: str, error: BaseException, directory: Path) -> HandlerError:
    """Say why what a handler needs can't be opened."""
    return _error(path, f"opening it raised {said(error, directory)}")


def closed_error(path: str) -> HandlerError:
    """Say that what a handler needs is gone, and nobody has asked for that."""
    return _error(path, "what it opened has closed by itself while the worker runs")


def _error(path: str, problem: str) -> HandlerError:
    return HandlerError([f"WORKER_HANDLER is {path!r}: {problem}"])


# --- What it is ----------------------------------------------------------------------------------


def _check(function: object, path: str) -> None:
    """Refuse what can't be a handler, before a query is spent on finding out."""
    if isinstance(function, type):
        raise _error(path, "that is a class; expected a function (or an instance that can be called)")
    if not callable(function):
        raise _error(
            path, f"that is not callable but {_article(type(function).__name__)}; expected a function"
        )
    if inspect.isasyncgenfunction(function) and not inspect.signature(function).parameters:
        raise _error(path, "that is an async generator; put @contextlib.asynccontextmanager above it")
    if any(map(_is_generator, _layers(function))):
        raise _error(
            path, "that is a generator (it has a yield); expected a function that returns its answer"
        )
    _check_arguments(function, path)


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _is_generator(function: object) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _check_arguments(function: Callable[..., Any], path: str) -> None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return  # a C function that does not tell: its first query will
    try:
        signature.bind(object(), object())
    except TypeError as error:
        # "too many" is what is said of our call, where the function takes too few.
        missing = f": {error}" if "missing" in str(error) else ""
        raise _error(
            path, f"that is {name_of(function)}{signature}; expected two arguments, (query, ctx){missing}"
        ) from None


def _is_context_manager_function(function: object) -> bool:
    """Whether it was made by `contextlib.asynccontextmanager`."""
    made_from = getattr(function, "__wrapped__", None)
    return inspect.isasyncgenfunction(made_from) and not inspect.isasyncgenfunction(function)


def _check_takes_nothing(function: Callable[..., Any], path: str) -> None:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise _error(
            path,
            f"that is {name_of(function)}{inspect.signature(function)}; what opens a handler is called with"
            f" no arguments: {error}",
        ) from None


def _layers(function: object) -> Iterable[object]:
    """The function, and what it stands for: within `functools.partial`, and behind ``__call__``."""
    yield function
    if isinstance(function, functools.partial):
        yield from _layers(function.func)
    elif not inspect.isroutine(function):
        yield type(function).__call__


def _is_async(function: object) -> bool:
    # iscoroutinefunction also honours inspect.markcoroutinefunction, which wrappers use from 3.12 on.
    return any(map(inspect.iscoroutinefunction, _layers(function)))


def _place(function: Callable[..., Any]) -> tuple[str | None, int | None]:
    *_, innermost = _layers(inspect.unwrap(function))
    code = getattr(innermost, "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else (None, None)
