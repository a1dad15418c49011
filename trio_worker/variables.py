"""Variables of the environment that fill the fields of a class: declared there, read all at once.

What is wrong is not told one variable at a time: `SettingsError` has all of it.
"""

# Why not typed-settings or environ-config. environ-config stops at the first bad variable and does
# not name it. typed-settings gathers the errors, but words them as its converters do ("invalid
# literal for int()"), does not tell "empty" from "missing", and masks a secret only where it is
# declared with a type of its own, which then travels through the whole code. The messages are what
# an operator sees of us first, so this is attrs and one description per variable.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from trio_worker.credentials import read_password, why_unreadable
from trio_worker.errors import SettingsError
from trio_worker.setting_kinds import Kind, shown, shown_nothing

__all__ = ["Variable", "defaults_of", "read_variables", "setting", "variables_of"]


@attrs.frozen(kw_only=True)
class Variable:
    """All there is to say of one variable of the environment.

    Attributes:
        name: Its name in the environment.
        default: What the table in docs/settings.md shows as its default: a value, ``required``, or words.
        example: What `.env.example` shows: the default, where that is a value.
        meaning: One line for that table and `.env.example`, in Markdown.
        expected: What is said to be expected when its value can't be used.
        required: Whether the class can't be made without it.
        or_file: The field whose variable may name a file with the value instead, or None.
    """

    name: str
    default: str
    example: str
    meaning: str
    expected: str
    required: bool
    or_file: str | None
    _read: Callable[[str], Any]
    _show: Callable[[str], str]
    _strip: bool

    def read(self, text: str) -> Any:
        """Read the variable's value.

        Raises:
            ValueError: With the sentence for the operator.
        """
        stripped = text.strip()
        try:
            # An environment that is not UTF-8 arrives as lone surrogates, which no JSON can carry.
            text.encode()
            return self._read(stripped if self._strip else text)
        except ValueError:
            # Not chained: what a parser says may repeat a value that must not be shown.
            raise self.problem(self._show(stripped)) from None

    def problem(self, state: str) -> ValueError:
        """The error that says what stands there, and what is expected."""
        return ValueError(f"{self.name} is {state}: expected {self.expected}")


_VARIABLE = "trio_worker variable"


def setting(
    name: str,
    kind: Kind,
    meaning: str,
    *,
    default: str | None = None,
    words: str = "required",
    example: str = "",
    otherwise: Any = attrs.NOTHING,
    show: Callable[[str], str] = shown,
    secret: bool = False,
    or_file: str | None = None,
) -> Any:
    """Declare the field of an attrs class that a variable fills.

    Args:
        name: The variable.
        kind: How it is read.
        meaning: As in `Variable`.
        default: The value when it is not set, written as in the environment.
        words: The default in words, where it is no value.
        example: The value for `.env.example`, where there is no default.
        otherwise: The field's default, where ``default`` can't say it: a value or an attrs.Factory.
        show: How a wrong value is shown to the operator.
        secret: Whether the value is kept out of ``repr`` and messages, and taken with its blanks.
        or_file: As in `Variable`.
    """
    variable = Variable(
        name=name,
        default=words if default is None else default,
        example=example if default is None else default,
        meaning=meaning,
        expected=kind.expected,
        required=default is None and words == "required",
        or_file=or_file,
        read=kind.read,
        show=shown_nothing if secret else show,
        strip=not secret,
    )
    value = otherwise if default is None else kind.read(default)
    return attrs.field(default=value, repr=not secret, metadata={_VARIABLE: variable})


def variables_of(cls: type) -> dict[str, Variable]:
    """The variables of a class by the fields that they fill, in its order."""
    return {field.name: field.metadata[_VARIABLE] for field in attrs.fields(cls)}


def defaults_of(cls: type, *fields: str) -> dict[str, Any]:
    """What those fields hold when their variables are not set; without those that are required."""
    found = {field: getattr(attrs.fields(cls), field).default for field in fields}
    return {field: _made(default) for field, default in found.items() if default is not attrs.NOTHING}


def _made(default: Any) -> Any:
    factory = getattr(default, "factory", None)  # attrs.Factory is no class to mypy
    return default if factory is None else factory()


def read_variables(
    variables: Mapping[str, Variable], environ: Mapping[str, str], fields: Iterable[str] | None = None
) -> dict[str, Any]:
    """Read the values of some fields, or of all.

    Reads the files that the environment names, and blocks while it does.

    Args:
        variables: As `variables_of` gives them.
        environ: As `read_environment` gives it. A blank value counts as not set.
        fields: Which to read; None for all.

    Returns:
        By field, what the environment has.

    Raises:
        SettingsError: With everything that is wrong, one sentence each.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in variables if fields is None else fields:
        try:
            values |= _found(field, variables, environ)
        except ValueError as problem:
            problems.append(str(problem))
    if problems:
        raise SettingsError(problems)
    return values


def _found(field: str, variables: Mapping[str, Variable], environ: Mapping[str, str]) -> dict[str, Any]:
    """The value of one field, if the environment has it."""
    variable = variables[field]
    if variable.or_file is not None and _is_set(file := variables[variable.or_file], environ):
        if _is_set(variable, environ):
            raise ValueError(f"{variable.name} and {file.name} are both set: expected one of them")
        return _found_in_file(field, variable, file, environ[file.name])
    if _is_set(variable, environ):
        return {field: variable.read(environ[variable.name])}
    if variable.required:
        raise variable.problem("empty" if variable.name in environ else "missing")
    return {}


def _is_set(variable: Variable, environ: Mapping[str, str]) -> bool:
    """Whether there is a value; docker-compose passes a blank one for what it does not have."""
    return bool(environ.get(variable.name, "").strip())


def _found_in_file(field: str, variable: Variable, file: Variable, text: str) -> dict[str, Any]:
    try:
        path = file.read(text)
    except ValueError:
        return {}  # said by the file's own field
    try:
        content = read_password(path)
    except (OSError, ValueError) as error:
        raise file.problem(f"{shown(text.strip())}, and {why_unreadable(error)}") from None
    return {field: variable.read(content)}
