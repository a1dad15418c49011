"""What a person reads on a page: its title, its text, what can be filled in; of HTML, without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

__all__ = ["page_text"]

_SILENT = {"script", "style", "noscript", "template", "svg"}
_BLOCKS = {
    *(
        "address",
        "article",
        "aside",
        "blockquote",
        "br",
        "dd",
        "div",
        "dl",
        "dt",
        "fieldset",
        "footer",
        "form",
    ),
    *("h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section"),
    *("table", "td", "th", "tr", "ul"),
}


def page_text(html: str) -> tuple[str, str]:
    """Give a page's title and its text.

    Takes a second for some megabytes, and longer for what is made to take long: call it in a thread.
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.text).splitlines())
    return " ".join("".join(reader.title).split()), re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.text: list[str] = []
        self._silent: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent.append(tag)
        elif tag == "title":
            self._in_title = True
        elif tag in _BLOCKS:
            self.text.append("\n")
        elif tag in ("input", "textarea", "select"):
            self._show_field(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        elif tag == "title":
            self._in_title = False
        elif tag in _BLOCKS:
            self.text.append("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._silent:
            self.text.append(data)

    def _show_field(self, tag: str, given: dict[str, str | None]) -> None:
        kind = (given.get("type") or "text") if tag == "input" else tag
        if kind != "hidden":
            name = given.get("value") if kind in ("submit", "button") else given.get("name")
            self.text.append(f" [{kind} {name}] " if name else f" [{kind}] ")
