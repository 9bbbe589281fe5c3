"""Pictures of supports, training and comparisons, as figures that belong to the caller.

Every function builds a `matplotlib.figure.Figure` directly: nothing is registered with pyplot, so
no global state changes and nothing must be closed. Colours are those of Okabe and Ito, and each
curve also has its own marker or dash, so that no picture depends on colour vision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from pyro_turbovbi.compression.regularity import regularity
from pyro_turbovbi.diagnostics._axes import (
    COLOURS,
    DASHES,
    LABELLED_MULTIPLES,
    MARKERS,
    require,
    scale_elbo_axis,
    single_axes,
)
from pyro_turbovbi.diagnostics._panels import Panel, draw_panels, panel_width
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_WIDEST = 1700
_PAGE = 1200
_COLOUR_LABEL = "P(kept)"


def support_matrices(
    supports: Mapping[str, Tensor],
    *,
    xlabel: str = "input",
    ylabel: str = "output unit",
    column_ticks: int | None = None,
    heading: str | None = None,
) -> matplotlib.figure.Figure:
    """Draws the supports of several fits side by side.

    Weights are viewed as the matrix (out, everything else). Each title tells the size, the
    fraction of weights left and the number of clusters (maximal runs along a row), counting an
    element as kept where its probability exceeds 1/2.

    Args:
        supports: Probabilities in [0, 1] or masks of one weight, by name of the fit.
        xlabel: What a column is.
        ylabel: What a row is.
        column_ticks: Distance of the ticks along the columns, for instance the width of an image
            whose pixels the columns are.
        heading: A line above the pictures.

    Returns:
        The figure.

    Raises:
        InvalidArgumentError: If there is nothing to draw or a value lies outside [0, 1].
        ShapeError: If a tensor has no axis or no element.
    """
    require(supports)
    panels = [
        Panel(_matrix(values), _title(name, values), xlabel, ylabel, column_ticks)
        for name, values in supports.items()
    ]
    return draw_panels(_wrapped(panels), heading=heading, colour_label=_COLOUR_LABEL)


def support_masks(
    sites: Mapping[str, Mapping[str, Tensor]], *, heading: str | None = None
) -> matplotlib.figure.Figure:
    """Draws which weights several fits keep: side by side, one weight below the other.

    All pictures of a weight have the same scale. Titles: see `support_matrices`.

    Args:
        sites: Masks (or probabilities, kept above 1/2) by name of the weight and of the fit.
        heading: A line above the pictures.

    Returns:
        The figure.

    Raises:
        InvalidArgumentError: If there is nothing to draw or a value lies outside [0, 1].
        ShapeError: If a tensor has no axis or no element.
    """
    require(sites)
    rows = []
    for site, masks in sites.items():
        require(masks)
        panels = [
            Panel(_matrix(mask > 0.5), _title(f"{site}: {name}", mask), "input", "output unit")
            for name, mask in masks.items()
        ]
        rows += _wrapped(panels)
    return draw_panels(rows, heading=heading, colour_label=None, aligned=False)


def layer_supports(
    layers: Mapping[str, Mapping[str, Tensor]], *, heading: str | None = None
) -> matplotlib.figure.Figure:
    """Draws which weights are left in every layer of a network.

    Pictures stand side by side as far as there is room, those of one layer next to each other. Each
    has a scale of its own, so that small layers can be read beside large ones. Convolution kernels
    are the matrix (output channel, input channel and place in the kernel). Titles: see
    `support_matrices`.

    Args:
        layers: Masks by name of the layer and of the stage, such as `"before"` and `"cut"`; a stage
            without a name has none in the title.
        heading: A line above the pictures.

    Returns:
        The figure.

    Raises:
        InvalidArgumentError: If there is nothing to draw or a value lies outside [0, 1].
        ShapeError: If a tensor has no axis or no element.
    """
    require(layers)
    groups = []
    for layer, stages in layers.items():
        require(stages)
        names = {stage: f"{layer}: {stage}" if stage else layer for stage in stages}
        groups.append([_layer_panel(names[stage], mask) for stage, mask in stages.items()])
    return draw_panels(_packed(groups), heading=heading, colour_label=None, aligned=False)


def support_before_after(
    stages: Mapping[str, Sequence[Tensor]],
    *,
    labels: Sequence[str] = ("before", "after"),
    xlabel: str = "input",
    ylabel: str = "output unit",
    column_ticks: int | None = None,
    heading: str | None = None,
) -> matplotlib.figure.Figure:
    """Draws the stages of supports, such as before and after training, one fit a row.

    Args:
        stages: The support at every stage, by name of the fit; see `support_matrices`. Shapes may
            differ from stage to stage, as they do when a network is cut.
        labels: Names of the stages.
        xlabel: What a column of a matrix is.
        ylabel: What a row of a matrix is.
        column_ticks: Distance of the ticks along the columns.
        heading: A line above the pictures.

    Returns:
        The figure.

    Raises:
        InvalidArgumentError: If there is nothing to draw, a fit has not one support a label, or a
            value lies outside [0, 1].
        ShapeError: If a tensor has no axis or no element.
    """
    require(stages)
    for name, supports in stages.items():
        if len(supports) != len(labels):
            raise InvalidArgumentError(
                f"{name!r} has not one support for every label",
                given=f"{len(supports)} supports",
                accepted=f"{len(labels)}: {', '.join(labels)}",
            )
    grid = [
        [
            Panel(_matrix(values), _title(f"{name}: {label}", values), xlabel, ylabel, column_ticks)
            for label, values in zip(labels, supports, strict=True)
        ]
        for name, supports in stages.items()
    ]
    return draw_panels(grid, heading=heading, colour_label=_COLOUR_LABEL)


def elbo_curves(
    curves: Mapping[str, Sequence[float]], *, heading: str = "ELBO in training"
) -> matplotlib.figure.Figure:
    """Draws the ELBO of every epoch, one curve a fit.

    The axis is linear, or symmetric-logarithmic where the values span more than a factor of 20:
    the first epochs of a fit otherwise flatten all the rest.

    Args:
        curves: ELBO in nats after each epoch, by name of the fit (for instance `fit.history.elbo`).
        heading: A line above the picture.

    Returns:
        The figure.

    Raises:
        InvalidArgumentError: If there is no curve or a curve is empty.
    """
    require(curves)
    for name, values in curves.items():
        if not values:
            raise InvalidArgumentError(f"the curve {name!r} is empty", accepted="at least 1 epoch")
    figure, axes = single_axes(heading, "epoch", "ELBO (nats)")
    for i, (name, values) in enumerate(curves.items()):
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(
            range(1, len(values) + 1),
            list(values),
            label=name,
            color=COLOURS[i % len(COLOURS)],
            linestyle=DASHES[i % len(DASHES)],
            marker=marker,
            markersize=5,
            markevery=max(1, len(values) // 8),
        )
    scale_elbo_axis(axes, [v for values in curves.values() for v in values if math.isfinite(v)])
    axes.locator_params(axis="x", integer=True)
    axes.legend(fontsize=9, frameon=False, loc="lower right")
    return figure


def pareto(
    points: Mapping[str, tuple[float, float]],
    *,
    error_label: str = "error",
    uncut: Mapping[str, float] | None = None,
) -> matplotlib.figure.Figure:
    """Draws error against weights left, and the front of the fits that no other beats in both.

    Fits on the front have filled markers. A network without any weight left stands at the left edge
    of the logarithmic axis, and its name says so.

    Args:
        points: Fraction of weights left in [0, 1] and error, by name of the fit.
        error_label: Name of the vertical axis.
        uncut: Errors of fits whose size is not known; each is drawn as a dotted line.

    Returns:
        The figure.

    Raises:
        InvalidArgumentError: If there is no point or a fraction lies outside [0, 1].
    """
    require(points)
    for name, (left, _) in points.items():
        if not 0.0 <= left <= 1.0:
            raise InvalidArgumentError(
                f"weights left of {name!r} is out of range", given=left, accepted="[0, 1]"
            )
    edge = 0.5 * min((left for left, _ in points.values() if left > 0.0), default=0.02)
    points = {
        name if left > 0.0 else f"{name} (no weight left)": (max(left, edge), error)
        for name, (left, error) in points.items()
    }
    lines = {f"{name} (not cut)": error for name, error in (uncut or {}).items()}
    figure, axes = single_axes("Error against size", "weights left (%)", error_label)
    _draw_fits(axes, points)
    for i, (name, error) in enumerate(lines.items(), start=len(points)):
        axes.axhline(error, label=name, color=COLOURS[i % len(COLOURS)], linestyle=":", zorder=1)
    _percent_axis(axes)
    axes.set_xlim(70 * min(left for left, _ in points.values()), 140.0)
    errors = [*(error for _, error in points.values()), *lines.values()]
    axes.set_ylim(0.0, 1.12 * max(errors) or 1.0)
    figure.legend(fontsize=9, frameon=False, loc="outside right upper")
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that no other point matches or beats in both coordinates, in order of the first."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _draw_fits(axes: matplotlib.axes.Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """A marker for every fit, filled on the Pareto front, and the front itself."""
    front = pareto_front(list(points.values()))
    for i, (name, point) in enumerate(points.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.scatter(
            [100 * point[0]],
            [point[1]],
            s=64,
            label=name,
            zorder=3,
            facecolors=colour if point in front else "none",
            edgecolors=colour,
            linewidths=1.5,
            marker=MARKERS[i % len(MARKERS)],
        )
    axes.step(
        [100 * left for left, _ in front],
        [error for _, error in front],
        where="post",
        color="#999999",
        linewidth=1,
        zorder=2,
        label="Pareto front (filled)",
    )


def _percent_axis(axes: matplotlib.axes.Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=LABELLED_MULTIPLES))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _wrapped(panels: Sequence[Panel]) -> list[list[Panel]]:
    """The panels in as few rows as are not too wide, and these of like lengths."""
    most = max(1, _WIDEST // max(map(panel_width, panels)))
    per_row = math.ceil(len(panels) / math.ceil(len(panels) / most))
    return [list(panels[start : start + per_row]) for start in range(0, len(panels), per_row)]


def _packed(groups: Sequence[Sequence[Panel]]) -> list[list[Panel]]:
    """Rows filled with whole groups while there is room; a group that is too wide is wrapped."""
    rows: list[list[Panel]] = []
    for group in groups:
        if rows and sum(map(panel_width, [*rows[-1], *group])) <= _PAGE:
            rows[-1] += group
        else:
            fits = sum(map(panel_width, group)) <= _WIDEST
            rows += [list(group)] if fits else _wrapped(group)
    return rows


def _layer_panel(title: str, mask: Tensor) -> Panel:
    kernel = mask.dim() > 2
    xlabel, ylabel = ("input channel x place", "output channel") if kernel else ("input", "unit")
    return Panel(_matrix(mask > 0.5), _title(title, mask), xlabel, ylabel)


def _matrix(values: Tensor) -> Tensor:
    """The matrix (out, everything else) as floats; a vector is one row."""
    if values.ndim == 0 or values.numel() == 0:
        raise ShapeError(
            "a support has no element or no axis",
            given=tuple(values.shape),
            accepted="at least one of each",
        )
    matrix = values.detach().float()
    matrix = matrix.unsqueeze(0) if matrix.ndim == 1 else matrix.flatten(1)
    if not bool(((matrix >= 0) & (matrix <= 1)).all()):
        raise InvalidArgumentError(
            "a support has values outside [0, 1]",
            given=f"{matrix.min().item():g} to {matrix.max().item():g}",
            accepted="probabilities or masks",
        )
    return matrix


def _title(name: str, values: Tensor) -> str:
    matrix = _matrix(values)
    counts = regularity(matrix > 0.5)
    size = "x".join(map(str, matrix.shape))
    return f"{name}\n{size}, {100 * counts.density:.3g} % left, {counts.clusters:,} clusters"
