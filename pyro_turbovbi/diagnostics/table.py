"""Plain-text and HTML tables with footnotes."""

from __future__ import annotations

import html
import textwrap
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

    def to_text(self, width: int | None = None) -> str:
        """The table in aligned plain text.

        Args:
            width: Characters a line may have. Columns that do not fit follow below, each block with
                the first column, and notes are broken; None: all in one block.
        """
        head = [header.split("\n") for header in self.headers]
        depth = max(len(lines) for lines in head)
        padded = [[""] * (depth - len(lines)) + lines for lines in head]
        header_rows = [[lines[i] for lines in padded] for i in range(depth)]
        rows = [*header_rows, *self.cells]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        blocks = [_block(rows, widths, columns, depth) for columns in _columns(widths, width)]
        notes = [textwrap.fill(note, width) if width else note for note in self.notes]
        return "\n".join(["\n\n".join(blocks), *notes])

    def to_html(self) -> str:
        """The table as an HTML fragment; all texts are escaped."""
        head = "".join(f"<th>{_escape(header)}</th>" for header in self.headers)
        body = "".join(
            "<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.cells
        )
        notes = "".join(f"<p>{_escape(note)}</p>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _columns(widths: Sequence[int], width: int | None) -> list[list[int]]:
    """Which columns go into which block: the first one into all, the others as they fit."""
    blocks, used = [[0]], widths[0]
    for column in range(1, len(widths)):
        used += 2 + widths[column]
        if width is not None and used > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0] + 2 + widths[column]
        blocks[-1].append(column)
    return blocks


def _block(
    rows: Sequence[Sequence[str]], widths: Sequence[int], columns: Sequence[int], depth: int
) -> str:
    """Some columns of all rows, of which the first `depth` are the header."""
    chosen = [widths[column] for column in columns]
    lines = [_align([row[column] for column in columns], chosen) for row in rows]
    lines.insert(depth, "-" * len(_align([" "] * len(chosen), chosen, strip=False)))
    return "\n".join(lines)


def _align(row: Sequence[str], widths: Sequence[int], *, strip: bool = True) -> str:
    first = row[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    line = "  ".join([first, *rest])
    return line.rstrip() if strip else line


def _escape(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
