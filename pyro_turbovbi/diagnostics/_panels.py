"""Matrices drawn so that every element covers whole pixels: resampling loses or blurs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    grid: Sequence[Sequence[Panel]], *, heading: str | None, colour_label: str
) -> matplotlib.figure.Figure:
    """Draws rows of panels with one colour bar.

    Args:
        grid: Rows of panels, not empty; rows may differ in length.
        heading: A line above all of them.
        colour_label: What a value of 1 means.

    Returns:
        The figure, at 100 dots per inch.
    """
    from matplotlib.figure import Figure

    columns = range(max(len(row) for row in grid))
    widths = [max(row[i].size[0] for row in grid if i < len(row)) for i in columns]
    heights = [max(panel.size[1] for panel in row) for row in grid]
    total_width = sum(_LEFT + width + _RIGHT for width in widths) + _COLOUR_BAR
    top = _HEADING if heading else 0
    total_height = top + sum(_TOP + height + _BOTTOM for height in heights)
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI, facecolor="white")
    canvas = _Canvas(figure, total_width, total_height)
    y = top
    for row, height in zip(grid, heights, strict=True):
        x = 0
        for panel, width in zip(row, widths, strict=False):
            canvas.matrix(panel, x + _LEFT, y + _TOP)
            x += _LEFT + width + _RIGHT
        y += _TOP + height + _BOTTOM
    canvas.colour_bar(total_width - _COLOUR_BAR, top + _TOP, min(heights[0], 300), colour_label)
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
        axes.set_title(panel.title, fontsize=10)
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


def _side(elements: int) -> int:
    """Whole pixels per element while that fits."""
    if elements >= _LARGEST_SIDE:
        return _LARGEST_SIDE
    return elements * max(1, -(-_SMALLEST_SIDE // elements))
