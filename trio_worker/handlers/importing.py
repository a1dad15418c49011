"""From a setting's ``module:name`` to what is there, or one sentence on why not."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from trio_worker.errors import HandlerError
from trio_worker.setting_kinds import split_handler_path

__all__ = ["Wanted", "did_you_mean", "name_of", "said"]


@attrs.frozen
class Wanted:
    """What a setting names.

    Attributes:
        variable: The setting.
        path: Its value: ``module:name``; the name may be an attribute, as in ``module:Class.method``.
        directory: The working directory.
        fits: Whether a thing may have been meant, where the name is none.
    """

    variable: str
    path: str
    directory: Path
    fits: Callable[[object], bool] = callable

    def find(self) -> Any:
        """Import the module and look the name up in it.

        Runs the module's own code, in this thread. The directory is put at the front of ``sys.path`` and
        stays there, for what is imported later.

        Raises:
            HandlerError: With one sentence: what is wrong, and the nearest name where there is one. Where the
                module raised, its exception is the ``__cause__``.
        """
        try:
            module_name, name = split_handler_path(self.path)
        except ValueError:
            raise self.error("expected module:function, such as trio_worker.handlers:echo") from None
        _make_importable(self.directory)
        found: Any = self._import(module_name)
        for part in name.split("."):
            found = self._attribute(found, part)
        return found

    def error(self, problem: str) -> HandlerError:
        """Say what is wrong with it."""
        return HandlerError([f"{self.variable} is {self.path!r}: {problem}"])

    def _import(self, module_name: str) -> ModuleType:
        try:
            return importlib.import_module(module_name)
        # Whatever the user's module raises, SystemExit too (a script without its `if __name__ …`).
        except (Exception, SystemExit) as error:
            raise self.error(_why_not(error, module_name, self.directory)) from error

    def _attribute(self, holder: object, name: str) -> Any:
        try:
            return getattr(holder, name)
        except AttributeError as error:
            things: dict[str, object] = getattr(holder, "__dict__", {})
            names = [key for key, thing in things.items() if not key.startswith("_") and self.fits(thing)]
            hint = _in_its_shadow(holder, self.directory) or did_you_mean(name, names)
            raise self.error(f"{_described(holder)} has no {name}{hint}") from error


# --- The module ----------------------------------------------------------------------------------


def _make_importable(directory: Path) -> None:
    # A console script's sys.path begins with the directory of the script, not with the working
    # directory as that of `python -m` does; a newcomer's handler.py stands in the latter. In front,
    # so that it wins over an installed module of the same name: what the user sees is what runs.
    entry = str(directory.absolute())
    if entry not in sys.path:
        sys.path.insert(0, entry)


def _why_not(error: BaseException, module_name: str, directory: Path) -> str:
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return f"importing {module_name} raised {said(error, directory)}"
    if module_name == error.name or module_name.startswith(error.name + "."):
        return _no_module(error.name, module_name, directory)
    place = _deepest_place(error, directory)
    by = f"{module_name} ({place})" if place else module_name
    return f"{by} imports {error.name}, which is not installed here"


def _no_module(missing: str, module_name: str, directory: Path) -> str:
    within = "" if missing == module_name else f" for {module_name}"
    near = did_you_mean(missing, _modules(directory))
    return f"there is no module {missing}{within}, neither in {directory} nor installed{near}"


def _modules(directory: Path) -> list[str]:
    """The names that could be imported from the files of a directory."""
    files = [file.stem for file in directory.glob("*.py")]
    packages = [file.parent.name for file in directory.glob("*/__init__.py")]
    return [name for name in [*files, *packages] if name.isidentifier()]


def said(error: BaseException, directory: Path) -> str:
    """An exception in one line: its type, its message, and the place in the user's code."""
    message = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    in_short = f"{type(error).__name__}: {message}" if message else type(error).__name__
    place = _deepest_place(error, directory)
    return f"{in_short} ({place})" if place else in_short


def _deepest_place(error: BaseException, directory: Path) -> str | None:
    """``file:line`` of the innermost frame in the user's directory, else of the innermost at all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame)]
    own = [frame for frame in frames if _is_own(Path(frame.filename), directory)]
    deepest = (own or frames)[-1:]
    return f"{deepest[0].filename}:{deepest[0].lineno}" if deepest else None


def _is_machinery(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith("<frozen importlib") or frame.filename in (__file__, importlib.__file__)


def _is_own(file: Path, directory: Path) -> bool:
    # A virtual environment often stands in the working directory.
    return file.is_relative_to(directory.absolute()) and "site-packages" not in file.parts


# --- The name in it ------------------------------------------------------------------------------


def _in_its_shadow(thing: object, directory: Path) -> str:
    """Say so when the user's file was never looked at: a module of that name was imported before it."""
    if not isinstance(thing, ModuleType):
        return ""
    file, used = directory / f"{thing.__name__}.py", getattr(thing, "__file__", None)
    if not file.is_file() or (used is not None and file.samefile(used)):
        return ""
    return f"; your {file.name} is in its shadow: give it another name"


def _described(thing: object) -> str:
    if not isinstance(thing, ModuleType):
        return name_of(thing)
    return f"module {thing.__name__} ({getattr(thing, '__file__', None) or 'built in'})"


def name_of(thing: object) -> str:
    """What a function or class calls itself; of anything else, what its type does."""
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Give the end of a sentence that names what may have been meant; nothing where that is not known."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""
