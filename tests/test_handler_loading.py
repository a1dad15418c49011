"""From `module:function` to the function, or one sentence on why not."""

from __future__ import annotations

import importlib
import itertools
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from trio_worker.errors import HandlerError
from trio_worker.handlers import echo
from trio_worker.handlers.loading import PATIENCE, Handler, load_handler
from trio_worker.query import Query

numbers = itertools.count(1)


@attrs.frozen
class Home:
    """A newcomer's working directory with one module, whose name no other test has."""

    path: Path
    module: str

    def load(self, name: str, source: str | None = None) -> Handler:
        if source is not None:
            (self.path / f"{self.module}.py").write_text(source, encoding="utf-8")
        return load_handler(f"{self.module}:{name}", self.path)

    def problem(self, name: str, source: str | None = None) -> str:
        with pytest.raises(HandlerError) as caught:
            self.load(name, source)
        (only,) = caught.value.problems
        assert only.startswith(f"WORKER_HANDLER is '{self.module}:{name}': ")
        assert "\n" not in only
        return only.partition("': ")[2]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    modules = set(sys.modules)
    yield Home(tmp_path, f"newcomer{next(numbers)}")
    for name in set(sys.modules) - modules:
        del sys.modules[name]


# --- What is accepted ----------------------------------------------------------------------------

ASYNC = "async def handle(query, ctx): return ''\n"
PLAIN = "def handle(query, ctx): return ''\n"
CALLABLE = """\
class C:
    {how}def __call__(self, query, ctx): return ''
    {how}def method(self, query, ctx): ...
"""
ACCEPTED = [
    pytest.param(ASYNC, "handle", True, id="async def"),
    pytest.param(PLAIN, "handle", False, id="def"),
    pytest.param("def handle(*args): ...", "handle", False, id="any arguments"),
    pytest.param("def handle(query, ctx, more=1, *, other=2): ...", "handle", False, id="defaults"),
    pytest.param(ASYNC + "import functools\nh = functools.partial(handle)", "h", True, id="partial, async"),
    pytest.param(PLAIN + "import functools\nh = functools.partial(handle)", "h", False, id="partial, plain"),
    pytest.param(
        "from functools import partial\nasync def f(model, query, ctx): ...\nh = partial(partial(f), 'm')",
        "h",
        True,
        id="partial of partial",
    ),
    pytest.param(CALLABLE.format(how="async ") + "h = C()", "h", True, id="instance, async"),
    pytest.param(CALLABLE.format(how="") + "h = C()", "h", False, id="instance, plain"),
    pytest.param(
        CALLABLE.format(how="async ") + "import functools\nh = functools.partial(C())",
        "h",
        True,
        id="partial of instance",
    ),
    pytest.param(CALLABLE.format(how="async ") + "h = C().method", "h", True, id="bound method"),
    pytest.param(CALLABLE.format(how="async ") + "h = C()", "h.method", True, id="dotted"),
    pytest.param(
        "class C:\n    @staticmethod\n    async def handle(query, ctx): ...",
        "C.handle",
        True,
        id="static method",
    ),
    pytest.param(
        "class C:\n    @classmethod\n    def handle(cls, query, ctx): ...",
        "C.handle",
        False,
        id="class method",
    ),
    pytest.param(
        ASYNC + "import functools\n@functools.wraps(handle)\nasync def h(*a): return await handle(*a)",
        "h",
        True,
        id="async decorator",
    ),
    pytest.param(
        ASYNC + "import functools\n@functools.wraps(handle)\ndef h(*a): return handle(*a)",
        "h",
        False,
        id="plain decorator over async",
    ),
    pytest.param(PLAIN + "import functools\nh = functools.lru_cache(handle)", "h", False, id="lru_cache"),
    pytest.param("from operator import add as h", "h", False, id="in C"),
]


@pytest.mark.parametrize(("source", "name", "is_async"), ACCEPTED)
def test_accepted(home: Home, source: str, name: str, is_async: bool) -> None:
    """Whatever can be called with a query and a context is a handler, and it is known how to call it."""
    handler = home.load(name, source)
    assert callable(handler.function)
    assert handler.is_async is is_async
    assert handler.path == f"{home.module}:{name}"


@pytest.mark.parametrize("wrap", ["handle", "functools.partial(handle)", "functools.lru_cache(handle)"])
def test_where_it_is_written(home: Home, wrap: str) -> None:
    """File and line are known, for those who name a handler to the operator."""
    handler = home.load("h", f"import functools\n\n{PLAIN}\nh = {wrap}\n")
    assert handler.file == str(home.path / f"{home.module}.py")
    assert handler.line == 3


def test_where_an_instance_is_written(home: Home) -> None:
    """An instance is written where its `__call__` is; a C function nowhere."""
    handler = home.load("h", CALLABLE.format(how="") + "from operator import add\nh = C()\n")
    assert handler.line == 2
    assert load_handler(f"{home.module}:add", home.path).file is None


def test_working_directory_is_importable(home: Home) -> None:
    """Modules beside the handler's are found, also those imported when it runs; it is listed once."""
    (home.path / f"{home.module}_beside.py").write_text("answer = 'found'")
    source = f"def handle(query, ctx):\n    import {home.module}_beside as beside\n    return beside.answer"
    handler = home.load("handle", source)
    home.load("handle")
    assert handler.function(None, None) == "found"
    assert sys.path[0] == str(home.path)
    assert sys.path.count(str(home.path)) == 1


def test_working_directory_wins(home: Home, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the user sees in the directory runs, not an installed module of the same name."""
    installed = tmp_path_factory.mktemp("installed")
    (installed / f"{home.module}.py").write_text("def other(query, ctx): ...")
    sys.path.insert(0, str(installed))
    assert home.load("handle", PLAIN).file == str(home.path / f"{home.module}.py")


def test_module_in_a_package(home: Home) -> None:
    """Dotted modules are found, with and without an `__init__.py`."""
    (home.path / home.module / "deep").mkdir(parents=True)
    (home.path / home.module / "deep" / "handlers.py").write_text(ASYNC)
    assert load_handler(f"{home.module}.deep.handlers:handle", home.path).is_async


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", "handler", ":", "handler:", ":handle", "a:b:c", "a b:c", "./a:b", "a..b:c", "a:b."]
)
def test_malformed(tmp_path: Path, path: str) -> None:
    """A path that is not module:function is shown with an example of one that is."""
    with pytest.raises(HandlerError, match="expected module:function, such as") as caught:
        load_handler(path, tmp_path)
    assert repr(path) in str(caught.value)


def test_no_such_module(home: Home) -> None:
    """Without such a module, the directory that was searched is named."""
    said = home.problem("handle")
    assert said == f"there is no module {home.module}, neither in {home.path} nor installed"


@pytest.mark.parametrize("there", ["my_handler.py", "my_handler/__init__.py"])
@pytest.mark.parametrize("asked", ["my_handlr", "my_handler.py", "handler"])
def test_nearest_module(home: Home, there: str, asked: str) -> None:
    """A misspelt module, or a file's name in its place, is answered with the module that is there."""
    (home.path / there).parent.mkdir(exist_ok=True)
    (home.path / there).write_text(ASYNC)
    with pytest.raises(HandlerError, match=r"did you mean my_handler\?$"):
        load_handler(f"{asked}:handle", home.path)


def test_no_such_module_in_a_package(home: Home) -> None:
    """Where a part of a dotted module is missing, that part is named."""
    (home.path / home.module).mkdir()
    (home.path / home.module / "__init__.py").touch()
    with pytest.raises(HandlerError, match=rf"no module {home.module}\.tools for {home.module}\.tools\.one,"):
        load_handler(f"{home.module}.tools.one:handle", home.path)


def test_import_of_something_not_installed(home: Home) -> None:
    """The handler's module is there, but what it imports is not: those are two different things to mend."""
    said = home.problem("handle", "import os\nimport not_installed_here\n")
    file = home.path / f"{home.module}.py"
    assert said == f"{home.module} ({file}:2) imports not_installed_here, which is not installed here"


def test_import_of_something_not_installed_further_down(home: Home) -> None:
    """The line that is named is in the user's file which has the import."""
    (home.path / f"{home.module}_b.py").write_text("\n\nimport not_installed_here.part")
    said = home.problem("handle", f"import {home.module}_b")
    assert f"{home.module}_b.py:3) imports not_installed_here, which is not installed" in said


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("\n1 / 0", "ZeroDivisionError: division by zero ({file}:2)"),
        (
            "import json\n\njson.loads('x')",
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) ({file}:3)",
        ),
        ("def f():\n    raise ValueError('a\\n  b')\nf()", "ValueError: a b ({file}:2)"),
        ("raise RuntimeError", "RuntimeError ({file}:1)"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 ({file}:2)"),
        ("raise ModuleNotFoundError('odd')", "ModuleNotFoundError: odd ({file}:1)"),
        ("from os import nothing_like_it", "ImportError: cannot import name 'nothing_like_it' from 'os'"),
        ("\n\ndef f(:\n", "SyntaxError: invalid syntax ({file}:3)"),
        ("x = 1\n\0", "source code string cannot contain null bytes"),
        ("\tx = 1\n    y = 2", "IndentationError: unexpected indent ({file}:1)"),
    ],
)
def test_raises_on_import(home: Home, source: str, expected: str) -> None:
    """What the module raised is told in one line with its place; the traceback is the cause."""
    said = home.problem("handle", source)
    assert said.startswith(f"importing {home.module} raised ")
    assert expected.format(file=home.path / f"{home.module}.py") in said
    assert "None" not in said
    assert "importlib" not in said


def test_cause_is_kept(home: Home) -> None:
    """The whole traceback is there for `--traceback`, a debugger, or the log."""
    with pytest.raises(HandlerError) as caught:
        home.load("handle", "1 / 0")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_ctrl_c_on_import_is_not_the_handlers_fault(home: Home) -> None:
    """Ctrl-C while a slow module is imported ends the worker as Ctrl-C does."""
    with pytest.raises(KeyboardInterrupt):
        home.load("handle", "raise KeyboardInterrupt")


def test_place_is_not_in_a_virtual_environment_of_the_directory(home: Home) -> None:
    """Of frames in the user's file and in an installed package below the directory, the user's is told."""
    packages = home.path / ".venv" / "site-packages"
    packages.mkdir(parents=True)
    (packages / f"{home.module}_lib.py").write_text("def f(): raise OSError('x')")
    sys.path.insert(0, str(packages))
    assert f"{home.module}.py:2)" in home.problem(
        "handle", f"import {home.module}_lib\n{home.module}_lib.f()"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def handel(query, ctx): ...", "has no handle; did you mean handel?"),
        ("def _handle(query, ctx): ...\nhandles = 3", "has no handle"),
        ("", "has no handle"),
    ],
)
def test_attribute_missing(home: Home, source: str, expected: str) -> None:
    """The nearest public callable is named, and the module's file."""
    file = home.path / f"{home.module}.py"
    assert home.problem("handle", source) == f"module {home.module} ({file}) {expected}"


@pytest.mark.parametrize("name", ["json", "h2", "sys"])
def test_a_file_in_the_shadow_of_a_module(name: str, tmp_path: Path) -> None:
    """The worker has imported one of that name itself: of the standard library, a package, or built in."""
    importlib.import_module(name)
    (tmp_path / f"{name}.py").write_text(ASYNC)
    with pytest.raises(
        HandlerError, match=rf"has no handle; your {name}\.py is in its shadow: give it another"
    ):
        load_handler(f"{name}:handle", tmp_path)


def test_attribute_missing_in_a_class(home: Home) -> None:
    """In a dotted name, the part that lacks the next is named."""
    said = home.problem("Robot.handl", "class Robot:\n    @staticmethod\n    def handle(query, ctx): ...")
    assert said == "Robot has no handl; did you mean handle?"


def test_attribute_missing_in_a_built_in_module(tmp_path: Path) -> None:
    """A module without a file is called built in."""
    with pytest.raises(HandlerError, match=r"module sys \(built in\) has no handle"):
        load_handler("sys:handle", tmp_path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("handle = 'text'", "that is not callable but a str; expected a function"),
        ("handle = 3", "that is not callable but an int; expected a function"),
        ("import os as handle", "that is not callable but a module; expected a function"),
        ("class handle:\n    def __init__(self, query, ctx): ...", "that is a class; expected a function"),
        ("def handle(query, ctx): yield ''", "that is a generator (it has a yield)"),
        ("async def handle(query, ctx): yield ''", "that is a generator (it has a yield)"),
        (
            "import functools\nasync def f(query, ctx): yield ''\nhandle = functools.partial(f)",
            "that is a generator (it has a yield)",
        ),
        (
            "class C:\n    def __call__(self, query, ctx): yield\nhandle = C()",
            "that is a generator (it has a yield)",
        ),
        ("def handle(query): ...", "that is handle(query); expected two arguments, (query, ctx)"),
        ("def handle(): ...", "that is handle(); expected two arguments"),
        ("def handle(query, ctx, model): ...", "that is handle(query, ctx, model); expected two arguments"),
        ("def handle(query, *, ctx): ...", "expected two arguments"),
        ("def handle(query, ctx, *, model): ...", "missing a required"),
        (
            "class C:\n    def __call__(self, query): ...\nhandle = C()",
            "that is C(query); expected two arguments",
        ),
        (
            "import functools\ndef f(query, ctx): ...\nhandle = functools.partial(f, 1)",
            "that is partial(ctx); expected two arguments",
        ),
    ],
)
def test_not_a_handler(home: Home, source: str, expected: str) -> None:
    """What can't be called with a query and a context is refused at the start, not at the first query."""
    assert expected in home.problem("handle", source)


def test_method_of_a_class_lacks_its_instance(home: Home) -> None:
    """A method looked up on the class shows its `self` in the message."""
    said = home.problem("C.handle", "class C:\n    def handle(self, query, ctx): ...")
    assert said.startswith("that is C.handle(self, query, ctx); expected two arguments")


def test_signature_that_does_not_tell(home: Home) -> None:
    """A C function without a signature is given the benefit of the doubt."""
    assert home.load("h", "h = max").is_async is False


def test_an_object_with_a_patience_of_its_own(home: Home) -> None:
    """Whatever that means to its author, it is not our time limit."""
    source = "class Agent:\n    patience = 3600\n    async def __call__(self, query, ctx): ...\nh = Agent()"
    assert home.load("h", source).patience == PATIENCE


# --- echo ----------------------------------------------------------------------------------------


def test_echo_can_be_loaded(tmp_path: Path) -> None:
    """The example of every message is a handler."""
    handler = load_handler("trio_worker.handlers:echo", tmp_path)
    assert (handler.function, handler.is_async) == (echo, True)


async def test_echo() -> None:
    """It answers with the query's text, and logs a line."""
    lines: list[str] = []
    ctx: Any = types.SimpleNamespace(log=lines.append)
    assert await echo(Query(id=1, query_text="привет"), ctx) == "привет"
    assert lines == ["echo: 6 characters"]
