"""Plain-text and HTML tables with footnotes."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells as they are shown, with notes below.

    Attributes:
        headers: Header of every column; a line break splits it over two lines.
        cells: Rows of as many texts; all but the first column are aligned to the right.
        notes: Lines below the table.
    """

    headers: Sequence[str]
    cells: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def to_text(self) -> str:
        """The table in aligned plain text."""
        head = [header.split("\n") for header in self.headers]
        depth = max(len(lines) for lines in head)
        padded = [[""] * (depth - len(lines)) + lines for lines in head]
        header_rows = [[lines[i] for lines in padded] for i in range(depth)]
        rows = [*header_rows, *self.cells]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [_align(row, widths) for row in rows]
        lines.insert(depth, "-" * len(_align([" "] * len(widths), widths, strip=False)))
        return "\n".join([*lines, *self.notes])

    def to_html(self) -> str:
        """The table as an HTML fragment; all texts are escaped."""
        head = "".join(f"<th>{_escape(header)}</th>" for header in self.headers)
        body = "".join(
            "<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.cells
        )
        notes = "".join(f"<p>{_escape(note)}</p>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _align(row: Sequence[str], widths: Sequence[int], *, strip: bool = True) -> str:
    first = row[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    line = "  ".join([first, *rest])
    return line.rstrip() if strip else line


def _escape(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
