"""The environment of the process, and ``.env`` below it."""

from __future__ import annotations

import io
import os
from pathlib import Path

from dotenv.parser import Binding, Original, parse_stream

from trio_worker.errors import SettingsError

__all__ = ["read_environment", "unreadable_lines"]


def read_environment(directory: Path) -> dict[str, str]:
    """Lay the environment of the process over the ``.env`` of a directory.

    ``.env`` is taken literally: no ``$VARIABLE`` in it is replaced, since a password may have a
    dollar sign. A missing ``.env`` is an empty one. A variable of the process that is blank, as
    docker-compose passes what it does not have, hides nothing.

    Args:
        directory: Where ``.env`` is looked for; its parents are not searched.

    Raises:
        SettingsError: When there is a ``.env`` that can't be read.
    """
    found = {
        binding.key: binding.value or "" for binding in _dotenv(directory / ".env") if binding.key is not None
    }
    return found | {name: value for name, value in os.environ.items() if value.strip() or name not in found}


def unreadable_lines(directory: Path) -> list[str]:
    """Say which lines of the ``.env`` of a directory `read_environment` could not read.

    Never what stands there: it may be a password.

    Raises:
        SettingsError: As `read_environment` does.
    """
    path = directory / ".env"
    return [
        f"{path} can't be read at line {_line(binding.original)}: expected NAME=value, "
        "and a quote that is opened must be closed"
        for binding in _dotenv(path)
        if binding.error
    ]


def _line(original: Original) -> int:
    # What a binding begins with may be empty lines, which are its reader's blanks.
    text = original.string
    return original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _dotenv(path: Path) -> list[Binding]:
    try:
        # Read here, since python-dotenv takes a directory for a missing file. utf-8-sig: to
        # python-dotenv before 1.2 an editor's byte order mark is part of the first name.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SettingsError([f"{path} can't be read ({error.strerror}): expected a readable file"]) from error
    except UnicodeDecodeError:
        raise SettingsError([f"{path} is not UTF-8: expected a UTF-8 text file"]) from None
    return list(parse_stream(io.StringIO(text)))
