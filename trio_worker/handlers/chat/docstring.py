"""What a docstring says of a function and of its arguments (Google's style: a section ``Args:``)."""

from __future__ import annotations

import re

__all__ = ["read_docstring"]

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$")
_ARGUMENT = re.compile(r"^(\w+)(?: *\([^)]*\))?: *(.*)$")


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Read one.

    Args:
        text: As `inspect.getdoc` gives it.

    Returns:
        What stands before the first section, and what is said of each argument, on one line each.
    """
    about: list[str] = []
    arguments: dict[str, str] = {}
    section = name = ""
    indent = 0
    for line in text.splitlines():
        if found := _SECTION.match(line):
            section, name = found[1], ""
        elif not section:
            about.append(line)
        elif section in ("Args", "Arguments", "Parameters") and line.strip():
            depth = len(line) - len(line.lstrip())
            found = _ARGUMENT.match(line.strip())
            if found and (not name or depth <= indent):
                name, indent = found[1], depth
                arguments[name] = found[2]
            elif name:
                arguments[name] = f"{arguments[name]} {line.strip()}".strip()
    return "\n".join(about).strip(), arguments
