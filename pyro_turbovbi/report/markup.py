"""HTML in small pieces; every text is escaped unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Sequence

_VOID = frozenset({"br", "col", "hr", "img", "link", "meta"})
"""Elements that have no content and no end tag."""


class Markup(str):
    """Text that is HTML, and so is not escaped again."""

    __slots__ = ()


def escaped(content: object) -> Markup:
    """Anything as HTML: markup as it is, other things as text."""
    return content if isinstance(content, Markup) else Markup(html.escape(str(content)))


def joined(*parts: object) -> Markup:
    """Pieces behind each other."""
    return Markup("".join(map(escaped, parts)))


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """An element.

    Args:
        name: Such as `"p"`.
        content: What stands in it.
        attributes: By name; underscores become hyphens, and one at the end is dropped (`class_`).
            True: the name alone. None or False: left out.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(*content)}</{name}>")


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str, notes: object = ""
) -> Markup:
    """A table that scrolls inside a box of its own; the first column names the rows.

    Args:
        headers: Header of every column; a line break splits it.
        rows: Rows of as many cells.
        caption: What the table shows.
        notes: What stands below it.
    """
    head = tag("tr", *(tag("th", _lines(header), scope="col") for header in headers))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    content = (tag("caption", caption), tag("thead", head), tag("tbody", *body))
    # A box that scrolls must be reachable by keyboard, and say what it is.
    box = tag("table", *content)
    scrolling = tag("div", box, class_="scroll", role="region", aria_label=caption, tabindex=0)
    return joined(scrolling, notes)


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    key = name.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'


def _lines(text: str) -> Markup:
    return Markup("<br>".join(map(escaped, text.split("\n"))))


__all__ = ["Markup", "escaped", "joined", "table", "tag"]
