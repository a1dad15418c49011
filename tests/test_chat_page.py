"""What the model is told of a page: its text as a person sees it, in bounded time and memory."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable
from functools import cache

import msgspec
import pytest

from trio_worker.handlers.chat.page import MOST_BYTES, MOST_CHARACTERS, Page
from trio_worker.handlers.chat.page_text import page_text


def told(body: bytes, content_type: str = "text/plain", **more: str) -> str:
    """What is said of a page; its size, and its text."""
    page = Page(status=200, url="http://a.test/", body=body, content_type=content_type, **more)
    return page.describe().partition("Type: ")[2].partition(", ")[2]


# --- How it is written ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "charset"),
    [
        ("utf-8", ""),
        ("utf-8", "; charset=UTF-8"),
        ("cp1251", '; charset="windows-1251"'),
        ("koi8-r", ";charset=koi8-r"),
        ("shift_jis", "; a=b; charset=Shift_JIS"),
        ("utf-16", "; charset=utf-16"),
    ],
)
def test_encodings_of_the_web(encoding: str, charset: str) -> None:
    """As the server says; without that, UTF-8."""
    text = "\u30c6\u30b9\u30c8" if encoding == "shift_jis" else "Привет"
    assert told(text.encode(encoding), f"text/plain{charset}").endswith(f"\n\n{text}")


@pytest.mark.parametrize(
    "charset", ["unicode_escape", "raw_unicode_escape", "utf-7", "hex", "nonsense", "idna"]
)
def test_other_encodings(charset: str) -> None:
    """They are not used, however well Python knows them: what they give may fit into no JSON."""
    shown = told(b"\\ud800 +2AA- hello", f"text/plain; charset={charset}")
    assert shown.endswith("\n\n\\ud800 +2AA- hello")
    msgspec.json.encode(shown)


@pytest.mark.parametrize("name", ["punycode", "idna"])
def test_an_encoding_that_takes_long(name: str) -> None:
    """With punycode a page like this takes minutes."""
    body = b"a" * 499_000 + b"-" + b"b9" * 250_000
    shown = f"[{len(body) - MOST_CHARACTERS} more characters]"
    assert told(body, f"text/plain; charset={name}").endswith(shown)
    assert told(body, f"text/plain; charset*={name}''utf-8").endswith(shown)


# --- How it is packed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packing", "pack"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_packed(packing: str, pack: Callable[[bytes], bytes]) -> None:
    """Though we ask for it as it is, some servers pack all the same."""
    assert told(pack(b"hello"), packing=packing) == "5 bytes\n\nhello"


def test_much_in_little() -> None:
    """What comes out of it is bounded, too, and the size that is told is that of what was read."""
    packed = gzip.compress(b"x" * 50 * MOST_BYTES)
    assert len(packed) < MOST_BYTES
    shown = told(packed, packing="gzip")
    assert shown.startswith(f"the first {MOST_BYTES} bytes\n")
    assert shown.endswith(f"[{MOST_BYTES - MOST_CHARACTERS} more characters]")


def test_a_packed_page_that_was_cut() -> None:
    """Of its beginning there is as much as there is."""
    assert (
        told(gzip.compress(b"hello" * 100)[:-8], packing="gzip") == "the first 500 bytes\n\n" + "hello" * 100
    )


@pytest.mark.parametrize("packing", ["br", "gzip, gzip", "gzip"])
def test_what_can_not_be_unpacked(packing: str) -> None:
    """It is said to be so: there is more than nothing."""
    assert told(b"\x0b\x02\x80hi", packing=packing) == f"packed as {packing!r}, which can't be read"


# --- HTML -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "title", "text"),
    [
        ("<title>A</title></p>x</b><script>y", "A", "x"),
        ("<TITLE>a &lt; b <b></Title ><P>c&amp;d", "a < b <b>", "c&d"),
        (
            "a<!-- <p> > -->b<!-->c<!doctype html>d<?php e > ?>f</>g",
            "",
            "abcdf ?>fg".replace("f ?>f", " ?>f"),
        ),
        ("<p title=\"a > b\" data-x='>' c>x</p><a href=a>b>y</a>", "", "x\nb>y"),
        ("1 < 2 <3 <", "", "1 < 2 <3 <"),
        ("a<script>'<p>' </scripts> </SCRIPT>b<style>x</style>c<iframe><p></iframe>d", "", "abcd"),
        (
            "a<svg><path/><svg></svg><title>T</title></svg>b<svg/>c<noscript>d<template></noscript>e",
            "",
            "abce",
        ),
        ("<textarea name=t>a<b></textarea>b", "", "[textarea t] a<b>b"),
        (
            "<input><input disabled name='a b'><input type=HIDDEN name=x><input name=\"&lt;\">",
            "",
            "[text] [text a b] [text <]",
        ),
        (
            "<select name=s><option>a</select><button>Go</button><input type=button value=OK>",
            "",
            "[select s] aGo [button OK]",
        ),
        ("a<p", "", "a"),
        ('a<p x="', "", "a"),
        ("a<!--", "", "a"),
        ("&#x110000;&#xD800;&nope;<b>&#" + "9" * 5000 + ";", "", "\ufffd\ufffd&nope;&#" + "9" * 5000 + ";"),
    ],
)
def test_what_a_person_sees(html: str, title: str, text: str) -> None:
    """Also of what is broken: as browsers do, by and large."""
    assert page_text(html) == (title, text)


HOSTILE = [
    *(
        "<!",
        "<a ",
        "</a ",
        "<",
        "</",
        "<!--",
        "<?",
        "&",
        "&#9",
        "<script></scrip",
        "<title>",
        "<svg></noscript>",
    ),
    *('<a ="', "<a ='\"", "<a = ", "<p =\n", "<input " + "a" * 3990 + ">", "<input a" + " " * 3990 + ">"),
    *("<svg>" * 1000 + "</noscript>" * 1000, "<template>", '<input a="' + "b" * 3000),
]


@pytest.mark.parametrize("unit", HOSTILE, ids=range(len(HOSTILE)))
def test_the_time_is_in_proportion_to_the_page(unit: str) -> None:
    """However it is made: none takes much longer than a page of that size with as many tags as fit."""
    assert seconds_of(unit) < 10 * seconds_of("<p>")


@cache
def seconds_of(unit: str) -> float:
    """Processor time for a page that is made of it."""
    html = unit * (200_000 // len(unit))
    began = time.thread_time()
    page_text(html)
    return time.thread_time() - began


def test_it_looks_up() -> None:
    """While it reads, again and again; whoever wants it to end raises there."""
    looks: list[int] = []

    def look_up() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        page_text("<p>" * 100_000, look_up)
