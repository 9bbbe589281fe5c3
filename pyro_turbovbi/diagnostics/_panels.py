"""Matrices drawn so that every element covers whole pixels: resampling loses or blurs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.colors
    import matplotlib.figure

DPI = 100
_SMALLEST_SIDE, _LARGEST_SIDE = 230, 1000
_VECTOR_HEIGHT = 60
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 24, 48, 44
_HEADING, _COLOUR_BAR = 34, 76
_TITLE_SIZE = 10.0
_PIXELS_PER_POINT = 0.77
"""Width of a letter for every point of its font size, on the average of long names."""


@dataclass(frozen=True)
class Panel:
    """One matrix with its texts.

    Attributes:
        values: Matrix `[rows, cols]` with entries in [0, 1].
        title: One or two lines above it.
        xlabel: What a column is.
        ylabel: What a row is.
        column_ticks: Distance of the column ticks; None leaves them to matplotlib.
    """

    values: Tensor
    title: str
    xlabel: str
    ylabel: str
    column_ticks: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, without texts."""
        rows, cols = self.values.shape
        return _side(cols), _side(rows) if rows > 1 else _VECTOR_HEIGHT


def panel_width(panel: Panel) -> int:
    """Width of a panel in pixels, its labels included."""
    return _LEFT + panel.size[0] + _RIGHT


def draw_panels(
    grid: Sequence[Sequence[Panel]],
    *,
    heading: str | None,
    colour_label: str | None,
    aligned: bool = True,
) -> matplotlib.figure.Figure:
    """Draws rows of panels with one colour bar, or none.

    Args:
        grid: Rows of panels, not empty; rows may differ in length.
        heading: A line above all of them.
        colour_label: What the colour is; None for masks, which need no colour bar.
        aligned: Whether panels of different rows stand in columns.

    Returns:
        The figure, at 100 dots per inch.
    """
    from matplotlib.figure import Figure

    widths = [[panel_width(panel) for panel in row] for row in grid]
    if aligned:
        columns = [max(filter(None, column)) for column in zip_longest(*widths)]
        widths = [columns] * len(grid)
    heights = [max(panel.size[1] for panel in row) for row in grid]
    total_width = max(map(sum, widths)) + (_COLOUR_BAR if colour_label else 0)
    top = _HEADING if heading else 0
    total_height = top + sum(_TOP + height + _BOTTOM for height in heights)
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI, facecolor="white")
    canvas = _Canvas(figure, total_width, total_height)
    y = top
    for row, row_widths, height in zip(grid, widths, heights, strict=True):
        x = 0
        for panel, width in zip(row, row_widths, strict=False):
            canvas.matrix(panel, x + _LEFT, y + _TOP)
            x += width
        y += _TOP + height + _BOTTOM
    if colour_label:
        height = min(heights[0], 300)
        canvas.colour_bar(total_width - _COLOUR_BAR, top + _TOP, height, colour_label)
    if heading:
        figure.suptitle(heading, fontsize=12, y=1 - 18 / total_height, va="center")
    return figure


@dataclass(frozen=True)
class _Canvas:
    """A figure addressed in pixels from its upper left corner."""

    figure: matplotlib.figure.Figure
    width: int
    height: int

    def axes(self, x: int, y: int, width: int, height: int) -> matplotlib.axes.Axes:
        bottom = self.height - y - height
        return self.figure.add_axes(
            (x / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def matrix(self, panel: Panel, x: int, y: int) -> None:
        rows, cols = panel.values.shape
        axes = self.axes(x, y, *panel.size)
        # Beyond one element a pixel matplotlib averages, so that no element goes unseen.
        interpolation = "nearest" if max(rows, cols) <= _LARGEST_SIDE else "antialiased"
        axes.imshow(
            panel.values.detach().cpu().float().numpy(),
            cmap=_colour_map(),
            vmin=0.0,
            vmax=1.0,
            aspect="auto",
            interpolation=interpolation,
        )
        axes.set_title(panel.title, fontsize=_title_size(panel))
        axes.set_xlabel(panel.xlabel, fontsize=9, labelpad=2)
        axes.tick_params(labelsize=8)
        axes.locator_params(integer=True)
        if rows == 1:
            axes.set_yticks([])
        else:
            axes.set_ylabel(panel.ylabel, fontsize=9, labelpad=2)
        if panel.column_ticks is not None:
            axes.set_xticks(range(0, cols, panel.column_ticks))

    def colour_bar(self, x: int, y: int, height: int, label: str) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        axes = self.axes(x, y, 14, height)
        bar = self.figure.colorbar(ScalarMappable(Normalize(0.0, 1.0), _colour_map()), cax=axes)
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)


def _colour_map() -> matplotlib.colors.Colormap:
    """White to black through blue: falling lightness survives print and colour blindness."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("support", ["#FFFFFF", "#56B4E9", "#0B1F3A"])


def _title_size(panel: Panel) -> float:
    """The font size at which the title stays within its panel, and away from its neighbours."""
    longest = max(map(len, panel.title.splitlines()), default=0)
    room = panel.size[0] + 2 * _RIGHT
    return min(_TITLE_SIZE, room / (_PIXELS_PER_POINT * longest)) if longest else _TITLE_SIZE


def _side(elements: int) -> int:
    """Whole pixels per element while that fits."""
    if elements >= _LARGEST_SIDE:
        return _LARGEST_SIDE
    return elements * max(1, -(-_SMALLEST_SIDE // elements))
