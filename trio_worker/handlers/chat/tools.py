"""Functions that the model may call: from a plain, typed function to what the API wants to know of it, and
back.

The schema comes of the signature by msgspec, and so does the check of what the model sends; they can't
differ. The descriptions come of the docstring.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import attrs
import msgspec

from trio_worker.context import BaseContext, Context, PlainContext
from trio_worker.errors import HandlerError
from trio_worker.handlers.chat.docstring import read_docstring
from trio_worker.handlers.importing import Wanted

__all__ = ["ArgumentsError", "Tool", "load_tools", "make_tool"]

_LONGEST_NAME = 64  # characters that OpenAI takes


class ArgumentsError(Exception):
    """What the model has sent does not fit; the text tells it why."""


@attrs.frozen(kw_only=True)
class Tool:
    """One of them.

    Attributes:
        name: By which the model calls it.
        function: To be called.
        schema: What the API is told.
        arguments: What the model's arguments are read into.
        ctx: The parameter that gets the query's context, or None.
    """

    name: str
    function: Callable[..., Any]
    schema: Mapping[str, Any]
    arguments: type[msgspec.Struct]
    ctx: str | None

    def read(self, text: str) -> dict[str, Any]:
        """Read the arguments of a call.

        Raises:
            ArgumentsError: They do not fit.
        """
        try:
            # Not strict: many a model writes "3" for 3. Names that are not known are a mistake to be told.
            data = msgspec.json.decode(text or "{}", type=dict[str, Any])
            found = msgspec.convert(data, self.arguments, strict=False)
        except (msgspec.DecodeError, UnicodeError) as error:  # ValidationError is one, too
            raise ArgumentsError(str(error)) from None
        except RecursionError:
            raise ArgumentsError("they are nested too deeply") from None
        given = msgspec.structs.fields(self.arguments)
        return {field.name: getattr(found, field.name) for field in given}

    async def call(self, arguments: Mapping[str, Any], ctx: Context) -> Any:
        """Call the function: an async one here, a plain one in a thread.

        Cancelled, a thread is left behind, and counted as that of a plain handler.

        Raises:
            Exception: What the function raises.
        """

        def call(ctx: BaseContext) -> Any:
            return self.function(**arguments, **({} if self.ctx is None else {self.ctx: ctx}))

        if inspect.iscoroutinefunction(self.function):
            return await call(ctx)
        return await ctx.call_plain(call, tool=self.name)


def load_tools(path: str, directory: Path) -> list[Tool]:
    """Import the list that ``CHAT_TOOLS`` names, and look at each function in it.

    Runs the module's own code, in this thread.

    Args:
        path: ``module:name``.
        directory: The working directory, which is made importable.

    Raises:
        HandlerError: With one sentence for each thing that is wrong.
    """
    wanted = Wanted("CHAT_TOOLS", path, directory, fits=_is_list)
    found = wanted.find()
    if not _is_list(found):
        raise wanted.error(f"that is {type(found).__name__}; expected a list or tuple of functions")
    tools: dict[str, Tool] = {}
    problems: list[str] = []
    for function in found:
        try:
            tool = make_tool(function)
        except (TypeError, ValueError) as error:
            problems += wanted.error(str(error)).problems
            continue
        if tool.name in tools:
            problems += wanted.error(f"two of its functions are named {tool.name}").problems
        tools[tool.name] = tool
    if problems:
        raise HandlerError(problems)
    return list(tools.values())


def _is_list(thing: object) -> bool:
    return isinstance(thing, list | tuple)


def make_tool(function: Callable[..., Any]) -> Tool:
    """Look at a function.

    Raises:
        TypeError: The model can't be told how to call it; the text is a sentence.
    """
    name = getattr(function, "__name__", "")
    if not callable(function) or not name.isidentifier() or len(name) > _LONGEST_NAME or not name.isascii():
        raise TypeError(
            f"{function!r} is no function with a name of {_LONGEST_NAME} ASCII characters at most"
        )
    about, descriptions = read_docstring(inspect.getdoc(function) or "")
    if not about:
        raise TypeError(f"{name} has no docstring, which tells the model what it is for")
    ctx, fields = _fields(name, function, descriptions)
    arguments = msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)
    schema = {"name": name, "description": about, "parameters": _schema(name, arguments)}
    return Tool(
        name=name,
        function=function,
        schema={"type": "function", "function": schema},
        arguments=arguments,
        ctx=ctx,
    )


def _fields(
    name: str, function: Callable[..., Any], descriptions: Mapping[str, str]
) -> tuple[str | None, list[Any]]:
    """The parameter for the context, and the others as fields of a Struct."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise TypeError(f"the types of {name} can't be read: {error}") from error
    ctx, fields = None, []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{name} has {parameter}, which can't be passed by its name")
        if parameter.name not in hints:
            raise TypeError(f"{name} does not say of which type {parameter.name} is")
        hint = hints[parameter.name]
        if isinstance(hint, type) and issubclass(hint, BaseContext):
            _check_context(name, parameter.name, hint, function)
            ctx = parameter.name
            continue
        if description := descriptions.get(parameter.name):
            hint = Annotated[hint, msgspec.Meta(description=description)]
        default = () if parameter.default is parameter.empty else (_default(parameter.default),)
        fields.append((parameter.name, hint, *default))
    return ctx, fields


def _check_context(name: str, parameter: str, hint: type, function: Callable[..., Any]) -> None:
    kind, given = ("async", Context) if inspect.iscoroutinefunction(function) else ("plain", PlainContext)
    if not issubclass(given, hint):
        raise TypeError(f"{name} is {kind}: {parameter} is a {given.__name__} there, not a {hint.__name__}")


def _default(value: object) -> Any:
    """A field's default; one that can be changed is made anew, as msgspec asks for."""
    if isinstance(value, list | dict | set):
        return msgspec.field(default_factory=partial(type(value), value))
    return value


def _schema(name: str, arguments: type[msgspec.Struct]) -> dict[str, Any]:
    try:
        (_,), components = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    except Exception as error:  # also a NameError, in what a type itself is made of
        raise TypeError(f"a type of {name} can't be told to a model: {error}") from error
    schema = dict(components.pop(name))
    del schema["title"]
    return schema | ({"$defs": components} if components else {})
