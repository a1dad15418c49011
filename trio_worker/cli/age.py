"""Ages, as a person writes and reads them."""

from __future__ import annotations

import re

import click

__all__ = ["age_text", "read_age"]

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


def read_age(_ctx: click.Context | None, _param: click.Parameter | None, text: str | None) -> float | None:
    """Read an option such as ``--older-than 1d``: its callback.

    Returns:
        Seconds; None when it is not given.

    Raises:
        click.BadParameter: It is no age.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])", text.strip().lower())
    if match is None:
        raise click.BadParameter(f"{text!r}: expected a number and its unit, as in 90m, 2h or 1d")
    return float(match[1]) * _UNITS[match[2]]


def age_text(seconds: float) -> str:
    """Write an age in its greatest unit, cut to a whole number."""
    for unit, size in _UNITS.items():
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "0s"
