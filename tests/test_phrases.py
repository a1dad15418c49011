"""The sentences for WebBuddy's users."""

from __future__ import annotations

import re
import string

import attrs
import pytest

from trio_worker.phrases import ENGLISH, RUSSIAN, phrases

NAMES = [field.name for field in attrs.fields(type(ENGLISH))]


def blanks(template: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)


def test_the_two_languages() -> None:
    """`WORKER_LANGUAGE` is en or ru."""
    assert phrases("en") is ENGLISH
    assert phrases("ru") is RUSSIAN


@pytest.mark.parametrize("name", NAMES)
def test_a_sentence_takes_the_same_values_in_both_languages(name: str) -> None:
    """Else a query would fail in one of the languages only."""
    assert blanks(getattr(ENGLISH, name)) == blanks(getattr(RUSSIAN, name))


@pytest.mark.parametrize("name", NAMES)
def test_a_sentence_is_in_its_language(name: str) -> None:
    """English without Cyrillic letters; Russian with them, and without Latin ones beside the values."""
    english, russian = getattr(ENGLISH, name), getattr(RUSSIAN, name)
    assert english.isascii()
    words = "".join(text for text, _, _, _ in string.Formatter().parse(russian)).replace("WebBuddy", "")
    assert not words.isascii()
    assert not any(letter in string.ascii_letters for letter in words)


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize("name", ["started", "timeout", "left_behind"])
@pytest.mark.parametrize(
    ("limit", "shown"),
    [(0.5, "0.5"), (2.5, "2.5"), (300.0, "300"), (86_400.25, "86400.25"), (2_592_000.0, "2592000")],
)
def test_a_limit_is_a_plain_number(language: str, name: str, limit: float, shown: str) -> None:
    """30 days are 2592000 s, not 2.592e+06 s."""
    assert re.findall(r"[0-9][0-9.e+]*", getattr(phrases(language), name).format(limit=limit)) == [shown]
