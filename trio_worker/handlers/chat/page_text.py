"""What a person reads on a page: its title, its text, what can be filled in; of HTML, without a browser.

Not by `html.parser`: a page that is made for it keeps it at work for hours, within one call that can't be
ended. Here each step goes on behind what it has looked at, so the time is in proportion to the page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator

import attrs

__all__ = ["page_text"]

_STEPS = 1000  # between two looks at whether to go on; less than a hundredth of a second, as a rule
_LONGEST_FIELD = 4000  # characters of the tag of a field that are looked at

_SILENT = {"noscript", "template", "svg"}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl"),
    *("dt", "fieldset", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li"),
    *("main", "nav", "ol", "p", "pre", "section", "table", "td", "th", "tr", "ul"),
}
_FIELDS = {"input", "textarea", "select"}

_TAG = re.compile(r"<(/?)([a-zA-Z][^ \t\n\f\r/>]*)")
_STOP = re.compile(r""">|=[ \t\n\f\r]*["']""")  # the end of a tag, or the beginning of what may contain ">"
# Its value is optional: else a name without one would be looked at again from each of its letters.
_ATTRIBUTE = re.compile(
    r"""([^ \t\n\f\r/>="']+)(?:[ \t\n\f\r]*=[ \t\n\f\r]*(?:"([^"]*)"|'([^']*)'|([^ \t\n\f\r>"']+)))?"""
)
# Within them there are no tags but the one that ends them.
_RAW_ENDS = {
    name: re.compile(rf"</{name}(?=[ \t\n\f\r/>])", re.IGNORECASE)
    for name in ("script", "style", "iframe", "noframes", "noembed", "xmp", "title", "textarea")
}


def page_text(page: str, look_up: Callable[[], object] = lambda: None) -> tuple[str, str]:
    """Give a page's title and its text.

    Takes up to a second or two for a megabyte, if that is made to take long: call it in a thread.

    Args:
        page: Its HTML.
        look_up: Called again and again meanwhile; raises if it is to end.
    """
    reader = _Reader()
    for step, (tag, text) in enumerate(_pieces(page)):
        if step % _STEPS == 0:
            look_up()
        reader.read(tag, text)
    lines = (" ".join(line.split()) for line in "".join(reader.text).splitlines())
    return " ".join("".join(reader.title).split()), re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip()


def _pieces(page: str) -> Iterator[tuple[str, str]]:
    """Take a page apart: into tags, by their name ("/p" ends one) and as written, and the text between, which
    has no name; within "title" and the like, the name of that."""
    at = 0
    while (begin := page.find("<", at)) >= 0:
        yield "", page[at:begin]
        tag = _TAG.match(page, begin)
        if tag is not None:
            at = _after_tag(page, tag.end())
            name = tag[2].lower()
            yield tag[1] + name, page[begin:at]
            if not tag[1] and name in _RAW_ENDS:
                end = _RAW_ENDS[name].search(page, at)
                until = len(page) if end is None else end.start()
                yield name + "=", page[at:until]
                at = until
        elif page.startswith("<!--", begin):
            at = _after(page, "-->", begin + 2)
        elif page.startswith(("<!", "<?", "</"), begin):
            at = _after(page, ">", begin)
        else:
            yield "", "<"
            at = begin + 1
    yield "", page[at:]


def _after_tag(page: str, at: int) -> int:
    while (stop := _STOP.search(page, at)) is not None:
        if stop[0] == ">":
            return stop.end()
        at = _after(page, stop[0][-1], stop.end())
    return len(page)


def _after(page: str, end: str, at: int) -> int:
    found = page.find(end, at)
    return len(page) if found < 0 else found + len(end)


@attrs.define(eq=False)
class _Reader:
    """Gathers what is seen of a page.

    Attributes:
        title: Its pieces.
        text: Its pieces.
    """

    title: list[str] = attrs.field(factory=list)
    text: list[str] = attrs.field(factory=list)
    _silent: str = ""
    _depth: int = 0

    def read(self, tag: str, text: str) -> None:
        if self._is_silent(tag, text):
            return
        if tag == "title=":
            self.title.append(_unescaped(text))
        elif tag in ("", "textarea=", "xmp="):
            self.text.append(_unescaped(text))
        elif tag.removeprefix("/") in _BLOCKS:
            self.text.append("\n")
        elif tag in _FIELDS:
            self.text.append(_field(tag, text))

    def _is_silent(self, tag: str, text: str) -> bool:
        """Whether this is within what is not shown. Only of the outermost is counted how deep it is: what is
        within ends with it."""
        if not self._silent:
            if tag not in _SILENT or text.endswith("/>"):
                return False
            self._silent = tag
        self._depth += (tag == self._silent) - (tag == "/" + self._silent)
        if self._depth == 0:
            self._silent = ""
        return True


def _unescaped(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # a number with too many digits
        return text


def _field(tag: str, text: str) -> str:
    found = _ATTRIBUTE.finditer(text[:_LONGEST_FIELD])
    given = {match[1].lower(): _unescaped(match[2] or match[3] or match[4] or "") for match in found}
    kind = (given.get("type") or "text").lower() if tag == "input" else tag
    if kind == "hidden":
        return ""
    name = given.get("value") if kind in ("submit", "button") else given.get("name")
    return f" [{kind} {name}] " if name else f" [{kind}] "
