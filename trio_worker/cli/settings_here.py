"""The settings of a command beside the worker: read where it is called, with what may be wrong there told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from trio_worker.cli.ending import complain
from trio_worker.environment import read_environment, unreadable_lines
from trio_worker.errors import SettingsError
from trio_worker.misspellings import misspellings
from trio_worker.settings import Settings, named_handler, read_fields
from trio_worker.state_folder import Address, StateFolder

__all__ = ["folder_here", "read_here", "settings_to_ask"]

T = TypeVar("T")


def read_here(read: Callable[[Mapping[str, str]], T]) -> T:
    """Read settings from the environment and the ``.env`` of the working directory.

    Names that are no settings are told on stderr at once, whatever else is wrong: one may be a missing one's.

    Args:
        read: Gives the settings that the command needs, out of the environment.

    Raises:
        SettingsError: With the lines of ``.env`` that can't be read, and then with what ``read`` says.
    """
    directory = Path.cwd()
    environ = read_environment(directory)
    for sentence in misspellings(environ, named_handler(environ)):
        complain(sentence)
    problems = unreadable_lines(directory)
    try:
        settings = read(environ)
    except SettingsError as error:
        raise SettingsError([*problems, *error.problems]) from None
    if problems:
        raise SettingsError(problems)
    return settings


def settings_to_ask() -> Settings:
    """Read the worker's own settings but for the handler, which whoever asks WebBuddy need not have.

    Raises:
        SettingsError: As `read_here` does.
    """
    # `echo` is never called: it only takes the place of a required variable.
    handler = {"WORKER_HANDLER": "trio_worker.handlers:echo"}
    return read_here(lambda environ: Settings.from_environ({**environ, **handler}))


def folder_here() -> StateFolder:
    """Find the state folder of the workers with these settings.

    Neither the password nor the handler is asked for: whoever looks there need not be the worker.

    Raises:
        SettingsError: As `read_here` does.
    """
    values = read_here(lambda environ: read_fields(environ, "state_dir", "webbuddy_url", "username"))
    return StateFolder(values["state_dir"], Address(values["webbuddy_url"], values["username"]))
