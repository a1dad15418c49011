"""The environment of the process, and ``.env`` below it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import dotenv

from trio_worker.errors import SettingsError

__all__ = ["read_environment"]


def read_environment(directory: Path) -> dict[str, str]:
    """Lay the environment of the process over the ``.env`` of a directory.

    ``.env`` is taken literally: no ``$VARIABLE`` in it is replaced, since a password may have a
    dollar sign. A missing ``.env`` is an empty one.

    Args:
        directory: Where ``.env`` is looked for; its parents are not searched.

    Raises:
        SettingsError: When there is a ``.env`` that can't be read.
    """
    # A line without "=" is a name without a value: told as "empty" rather than passed over.
    return {name: value or "" for name, value in _dotenv(directory / ".env").items()} | dict(os.environ)


def _dotenv(path: Path) -> Mapping[str, str | None]:
    try:
        # Read here, since python-dotenv takes a directory for a missing file. utf-8-sig: to
        # python-dotenv before 1.2 an editor's byte order mark is part of the first name.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError([f"{path} can't be read ({error.strerror}): expected a readable file"]) from error
    except UnicodeDecodeError:
        raise SettingsError([f"{path} is not UTF-8: expected a UTF-8 text file"]) from None
    return dotenv.dotenv_values(stream=io.StringIO(text), interpolate=False)
