"""Pictures of what networks cost: bytes, time and operations, alone and against the error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyro_turbovbi.diagnostics._axes import (
    COLOURS,
    LABELLED_MULTIPLES,
    MARKERS,
    new_figure,
    require,
    single_axes,
    style,
)
from pyro_turbovbi.diagnostics.plots import pareto_front
from pyro_turbovbi.errors import InvalidArgumentError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_QUIET = "#999999"
_BAR = 0.42
"""Inches of height that a bar has."""
_WIDE = 30
"""Sizes further apart than by this factor have a labelled tick a decade alone."""


def cost_bars(
    costs: Mapping[str, tuple[float, float]], *, heading: str = "What is left of the cost"
) -> matplotlib.figure.Figure:
    """Draws what a network costs after the cut, in percent of what it cost before.

    Args:
        costs: Cost before and after, by its name with its unit, such as `"latency (ms)"`. Both
            stand beside the bar.
        heading: A line above the picture.

    Returns:
        The figure, one bar a cost, the first on top.

    Raises:
        InvalidArgumentError: If there is no cost, or one is not positive before or negative after.
    """
    require(costs)
    for name, (before, after) in costs.items():
        if not (before > 0 and after >= 0):
            raise InvalidArgumentError(
                f"{name!r} is no cost", given=f"{before} and {after}", accepted="> 0 and >= 0"
            )
    figure = new_figure(height=1.3 + _BAR * len(costs))
    axes = figure.add_subplot()
    style(axes, heading, "percent of the original", "")
    shares = {name: 100 * after / before for name, (before, after) in costs.items()}
    texts = [f"{_short(after)} of {_short(before)}" for before, after in costs.values()]
    _bars(axes, shares, texts)
    axes.axvline(100.0, color=_QUIET, linewidth=1, linestyle="--")
    axes.set_xlim(0.0, 1.45 * max(100.0, *shares.values()))
    return figure


def cost_comparison(
    costs: Mapping[str, Mapping[str, float]], *, heading: str = "What the networks cost"
) -> matplotlib.figure.Figure:
    """Draws the costs of several networks, one panel a cost and one bar a network.

    Args:
        costs: Costs by their name with its unit, such as `"bytes"`, and by name of the network.
        heading: A line above the picture.

    Returns:
        The figure, one axes a cost, below each other.

    Raises:
        InvalidArgumentError: If there is nothing to draw.
    """
    require(costs)
    for values in costs.values():
        require(values)
    bars = [len(values) for values in costs.values()]
    figure = new_figure(height=0.6 + sum(1.0 + _BAR * count for count in bars))
    panels = figure.subplots(len(costs), 1, squeeze=False, height_ratios=bars)[:, 0]
    for axes, (cost, values) in zip(panels, costs.items(), strict=True):
        style(axes, "", cost, "")
        _bars(axes, values, [_short(value) for value in values.values()])
        axes.set_xlim(0.0, 1.3 * max(*values.values(), 1e-12))
    figure.suptitle(heading, fontsize=12)
    return figure


def error_against_bytes(
    points: Mapping[str, tuple[float, float]], *, error_label: str = "error"
) -> matplotlib.figure.Figure:
    """Draws error against the size of the file, and the front of the fits that no other beats.

    Fits on the front have filled markers.

    Args:
        points: Bytes and error by name of the fit.
        error_label: Name of the vertical axis.

    Returns:
        The figure.

    Raises:
        InvalidArgumentError: If there is no point, or a file has no byte.
    """
    require(points)
    for name, (size, _) in points.items():
        if size <= 0:
            raise InvalidArgumentError(
                f"the bytes of {name!r} are out of range", given=size, accepted="positive numbers"
            )
    figure, axes = single_axes("Error against size", "file (bytes)", error_label)
    front = pareto_front(list(points.values()))
    axes.step(
        [size for size, _ in front],
        [error for _, error in front],
        where="post",
        color=_QUIET,
        linewidth=1,
        zorder=2,
        label="Pareto front (filled)",
    )
    for i, (name, (size, error)) in enumerate(points.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(
            [size],
            [error],
            label=name,
            linestyle="",
            marker=MARKERS[i % len(MARKERS)],
            markersize=8,
            markeredgewidth=1.5,
            color=colour,
            markerfacecolor=colour if (size, error) in front else "none",
            zorder=3,
        )
    sizes = [size for size, _ in points.values()]
    _log_bytes(axes, wide=max(sizes) > _WIDE * min(sizes))
    axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    axes.set_ylim(0.0, 1.15 * max(error for _, error in points.values()) or 1.0)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=2)
    return figure


def _log_bytes(axes: matplotlib.axes.Axes, *, wide: bool) -> None:
    """A logarithmic axis with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else LABELLED_MULTIPLES))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _bars(axes: matplotlib.axes.Axes, values: Mapping[str, float], texts: list[str]) -> None:
    """Horizontal bars in order from the top, each with a text behind its end."""
    names = list(values)
    bars = axes.barh(range(len(names)), list(values.values()), height=0.6, color=COLOURS[0])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.bar_label(bars, labels=texts, padding=4, fontsize=9)
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")


def _short(value: float) -> str:
    """Whole numbers in full, others to three digits."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"
