"""Pictures of calibration: reliability diagrams for classes, PIT histograms for real targets."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_turbovbi.batches import Data, as_tensors
from pyro_turbovbi.diagnostics._axes import COLOURS, MARKERS, new_figure, require, style
from pyro_turbovbi.diagnostics.calibration import (
    Reliability,
    probability_integral_transform,
    reliability,
)
from pyro_turbovbi.diagnostics.evaluation import as_classes, observed
from pyro_turbovbi.diagnostics.protocols import FitLike
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, UnsupportedError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_REFERENCE = "#777777"
_BAND = "#DDDDDD"
#: Standard errors to either side that hold 95 % of a normal.
_WIDTH = 1.96


def plot_reliability(
    fits: Mapping[str, FitLike], test: Data, *, num_samples: int = 32
) -> matplotlib.figure.Figure:
    """Reliability diagram of several classifiers on one test set.

    Args:
        fits: Fits by the name that they get in the legend.
        test: Test data: `DataLoader`, `Dataset` or pair of tensors.
        num_samples: Posterior draws that each prediction averages over.

    Returns:
        The figure; see `reliability_diagram`.

    Raises:
        InvalidArgumentError: If there is no fit.
        InvalidDataError, ShapeError: If there is no point, or targets do not fit a likelihood.
        UnsupportedError: If a fit is no classifier.
    """
    x, y = as_tensors(test)
    curves = {}
    for name, fit in fits.items():
        prediction = fit.predict(x, num_samples=num_samples)
        likelihood, mean = prediction.likelihood, prediction.mean
        if likelihood.kind != "classification":
            raise UnsupportedError(
                "a reliability diagram needs class probabilities",
                given=f"{type(likelihood).__name__}, {likelihood.kind}",
                accepted="a classification; for regressions, plot_pit",
            )
        target = observed(likelihood, y, prediction.outputs[0])
        curves[name] = reliability(*as_classes(likelihood, mean, target))
    return reliability_diagram(curves)


def plot_pit(
    fits: Mapping[str, FitLike], test: Data, *, num_samples: int = 32
) -> matplotlib.figure.Figure:
    """PIT histograms of several regressions on one test set.

    Args:
        fits: Fits by the name that they get in the picture.
        test: Test data: `DataLoader`, `Dataset` or pair of tensors.
        num_samples: Posterior draws that each prediction averages over.

    Returns:
        The figure; see `pit_histogram`.

    Raises:
        InvalidArgumentError: If there is no fit.
        InvalidDataError, ShapeError: If there is no point, or targets do not fit a likelihood.
        UnsupportedError: If a fit is no regression.
    """
    x, y = as_tensors(test)
    values = {
        name: probability_integral_transform(fit.predict(x, num_samples=num_samples), y)
        for name, fit in fits.items()
    }
    return pit_histogram(values)


def reliability_diagram(
    curves: Mapping[str, Reliability], *, heading: str = "Reliability"
) -> matplotlib.figure.Figure:
    """Draws accuracy against confidence, and below how many points each bin has.

    On the diagonal a net is right as often as it says; below it, it is too sure of itself. Bars
    span 1.96 standard errors of the accuracy: bins of few points stray.

    Args:
        curves: Results of `reliability`, by name of the fit.
        heading: A line above the picture.

    Returns:
        The figure; its first axes are the diagram, its second the counts.

    Raises:
        InvalidArgumentError: If there is no curve.
    """
    require(curves)
    figure = new_figure(height=6.8, width=5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4.4, 1))
    style(upper, heading, "", "accuracy")
    style(lower, "", "confidence", "share of\npoints (%)")
    upper.plot([0, 1], [0, 1], color=_REFERENCE, linewidth=1, linestyle="--", zorder=1)
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        label = f"{name} (ECE {100 * curve.calibration_error:.2f} %)"
        _accuracies(upper, curve, label, colour, MARKERS[i % len(MARKERS)])
        _shares(lower, curve, colour, filled=len(curves) == 1)
    upper.set_xlim(0.0, 1.0)
    upper.set_ylim(0.0, 1.02)
    lower.set_ylim(bottom=0.0)
    upper.legend(fontsize=9, frameon=False, loc="upper left")
    return figure


def pit_histogram(
    values: Mapping[str, Tensor],
    *,
    bins: int | None = None,
    heading: str = "Calibration of the density",
) -> matplotlib.figure.Figure:
    """Draws where the targets fall in their predictive distributions; level if calibrated.

    High edges: predictions too narrow; a hump: too wide; a slope: shifted. The band holds 95 % of
    the bars of calibrated predictions (independent points).

    Args:
        values: Results of `probability_integral_transform`, by name of the fit, one histogram each.
        bins: Number of bars; default 20, or fewer so that calibrated ones hold 10 points or more.
        heading: A line above the picture.

    Returns:
        The figure, one axes a fit.

    Raises:
        InvalidArgumentError: If there is nothing to draw, or `bins` is not positive.
        InvalidDataError: If a fit has no value, or one outside [0, 1].
    """
    require(values)
    if bins is not None and bins < 1:
        raise InvalidArgumentError("too few bins", given=bins, accepted="at least 1")
    flat = {name: _unit_interval(name, pit) for name, pit in values.items()}
    figure = new_figure(height=0.7 + 2.9 * len(flat), width=6.4)
    axes_of = figure.subplots(len(flat), 1, sharex=True, squeeze=False)[:, 0]
    for i, (axes, (name, pit)) in enumerate(zip(axes_of, flat.items(), strict=True)):
        style(axes, name if len(flat) > 1 else heading, "", "density")
        axes.title.set_fontsize(10 if len(flat) > 1 else 12)
        _histogram(axes, pit, bins or max(1, min(20, len(pit) // 10)), COLOURS[i % len(COLOURS)])
    axes_of[-1].set_xlabel("P(target <= observed)")
    axes_of[-1].set_xlim(0.0, 1.0)
    if len(flat) > 1:
        figure.suptitle(heading, fontsize=12)
    return figure


def _accuracies(
    axes: matplotlib.axes.Axes, curve: Reliability, label: str, colour: str, marker: str
) -> None:
    kept = curve.counts > 0
    accuracy, counts = curve.accuracy[kept].cpu(), curve.counts[kept].cpu()
    # Agresti and Coull's interval: the plain standard error is zero where all are right.
    total = counts + _WIDTH**2
    centre = (accuracy * counts + 0.5 * _WIDTH**2) / total
    half = _WIDTH * (centre * (1 - centre) / total).sqrt()
    low = (accuracy - (centre - half).clamp(min=0.0)).clamp(min=0.0)
    high = ((centre + half).clamp(max=1.0) - accuracy).clamp(min=0.0)
    axes.errorbar(
        curve.confidence[kept].tolist(),
        accuracy.tolist(),
        yerr=torch.stack([low, high]).tolist(),
        label=label,
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.4,
        elinewidth=0.9,
        capsize=2,
        zorder=2,
    )


def _shares(axes: matplotlib.axes.Axes, curve: Reliability, colour: str, *, filled: bool) -> None:
    bins = len(curve.counts)
    edges = torch.linspace(0.0, 1.0, bins + 1).tolist()
    shares = (100.0 * curve.counts / curve.counts.sum()).tolist()
    if filled:
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.8)
    else:
        axes.stairs(shares, edges, color=colour, linewidth=1.4)


def _histogram(axes: matplotlib.axes.Axes, pit: Tensor, bins: int, colour: str) -> None:
    counts = torch.histc(pit, bins=bins, min=0.0, max=1.0)
    half = _WIDTH * sqrt((bins - 1) / len(pit))
    axes.axhspan(max(0.0, 1.0 - half), 1.0 + half, color=_BAND, linewidth=0, zorder=0)
    axes.axhline(1.0, color=_REFERENCE, linewidth=1, linestyle="--", zorder=3)
    heights = (counts * bins / len(pit)).tolist()
    edges = torch.linspace(0.0, 1.0, bins + 1).tolist()
    axes.stairs(heights, edges, fill=True, color=colour, alpha=0.75, zorder=1)
    axes.stairs(heights, edges, color=colour, linewidth=1, zorder=2)
    axes.set_ylim(0.0, 1.1 * max(*heights, 1.0 + half))


def _unit_interval(name: str, values: Tensor) -> Tensor:
    flat = values.detach().flatten().double().cpu()
    if not len(flat) or not bool(((flat >= 0.0) & (flat <= 1.0)).all()):
        raise InvalidDataError(
            f"the values of {name!r} are no probabilities",
            given="none" if not len(flat) else f"{float(flat.min())} .. {float(flat.max())}",
            accepted="at least one value, all in [0, 1]",
        )
    return flat
