"""Arithmetic coding of supports under their own Markov structure.

A support is coded cell by cell, each under the cells before it that its template names: none
(independent), the left one (a Markov chain along the rows), left and upper (a Markov mesh), or
left, upper, upper left and upper right. A writer takes the cheapest. Regular supports are
predictable from their neighbours and cost few bits; the transition probabilities are learned while
coding (see `bit_coding`).

Cells are visited along the skewed diagonals 2 row + column: the neighbours of every cell of a
diagonal lie on earlier ones, so that a diagonal is coded at once, in reading too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pyro_turbovbi.compression.bit_coding import AdaptiveModel, BitCoder, Bits, Meter

TEMPLATES = (
    (),
    ((0, -1),),
    ((0, -1), (-1, 0)),
    ((0, -1), (-1, 0), (-1, -1), (-1, 1)),
)
"""Neighbours as (row, column) steps: independent, row chain, mesh, and wide mesh."""

TEMPLATE_NAMES = ("independent", "row chain", "mesh", "wide mesh")

_FREE_FRONTS = 1024


class Layout(NamedTuple):
    """How a support is coded.

    Attributes:
        template: Index into `TEMPLATES`.
        columns: Length of the rows into which the cells are broken.
    """

    template: int
    columns: int


def fronts(cells: int, layout: Layout) -> int:
    """Number of diagonals: the steps that coding takes one after the other.

    Args:
        cells: Number of cells of the support.
        layout: How it is coded.

    Returns:
        0 for the independent template, which needs no order.
    """
    if layout.template == 0 or cells == 0:
        return 0
    return 2 * (cells // layout.columns) + layout.columns - 2


def code_support(coder: BitCoder, cells: int, layout: Layout, support: Bits | None = None) -> Bits:
    """Writes a support, or reads it.

    Args:
        coder: An encoder, decoder or meter.
        cells: Number of cells.
        layout: Template and row length; rows are whole: `columns` divides `cells`.
        support: The cells in row-major order, shape [cells]; not looked at in reading.

    Returns:
        The support, shape [cells].
    """
    neighbours = TEMPLATES[layout.template]
    model = AdaptiveModel(1 << len(neighbours))
    if not neighbours or cells == 0:
        return coder.run(model, 0, cells, support)
    columns, rows = layout.columns, cells // layout.columns
    # A frame of zeros stands for the neighbours of border cells.
    width = columns + 2
    framed = np.zeros((rows + 1) * width + 1, np.uint8)
    truth = None
    if support is not None:
        truth = framed.copy()
        _inside(truth, rows, columns)[:] = support.reshape(rows, columns)
    steps = [row * width + column for row, column in neighbours]
    for front in _fronts(rows, columns):
        contexts = sum(
            framed[front.start + step : front.stop + step : front.step].astype(np.int64) << n
            for n, step in enumerate(steps)
        )
        framed[front] = coder.batch(
            model, np.asarray(contexts), None if truth is None else truth[front]
        )
    return _inside(framed, rows, columns).reshape(cells).copy()


def choose_layout(support: Bits, columns: Iterable[int]) -> Layout:
    """The cheapest way to code a support.

    Args:
        support: The cells in row-major order, shape [cells].
        columns: Row lengths to try; each divides the number of cells.

    Returns:
        The layout of the fewest bits. Layouts that would take far more steps than there are ones
        are left out, so that reading takes time in proportion to a file's size.
    """
    cells = len(support)
    best, least = Layout(0, cells), _bits(support, Layout(0, cells))
    for layout in (Layout(t, c) for c in columns for t in range(1, len(TEMPLATES))):
        if fronts(cells, layout) <= _FREE_FRONTS + int(support.sum()):
            spent = _bits(support, layout)
            if spent < least:
                best, least = layout, spent
    return best


def _bits(support: Bits, layout: Layout) -> float:
    meter = Meter()
    code_support(meter, len(support), layout, support)
    return meter.spent


def _inside(framed: Bits, rows: int, columns: int) -> Bits:
    """The cells within the frame: one column on either side and one row above."""
    body = framed[columns + 2 : columns + 2 + rows * (columns + 2)]
    return body.reshape(rows, columns + 2)[:, 1:-1]


def _fronts(rows: int, columns: int) -> Iterator[slice]:
    """The diagonals 2 row + column = 0, 1, ..., as slices of the framed cells.

    From one row to the next the column falls by 2, so the slice's step is the frame's width less 2.
    """
    width = columns + 2
    for diagonal in range(2 * rows + columns - 2):
        first = max(0, (diagonal - columns + 2) // 2)
        last = min(rows - 1, diagonal // 2)
        if first <= last:
            start = (first + 1) * width + (diagonal - 2 * first) + 1
            stop = (last + 1) * width + (diagonal - 2 * last) + 2
            yield slice(start, stop, columns)
