"""What the processes that run a handler see of this process's environment: all but our secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from trio_worker.settings import VARIABLES, Settings

__all__ = ["child_environment"]

_FIELDS: tuple[attrs.Attribute[Any], ...] = attrs.fields(Settings)

# Also what begins with such a name: WORKER_PASSWORD_FILE says where the password lies.
_SECRETS = tuple(
    variable.name
    for field, variable in zip(_FIELDS, VARIABLES, strict=True)
    if not field.repr  # as each secret is declared
)


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out of an environment what is nobody's business but the worker's.

    Args:
        environ: Such as `os.environ`.

    Returns:
        All of it but the variables of our secret settings, and those whose names begin like one.
    """
    return {name: value for name, value in environ.items() if not name.startswith(_SECRETS)}
