"""Pictures of a training: the ELBO, and what is left of the weights, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyro_turbovbi.diagnostics._axes import (
    COLOURS,
    DASHES,
    MARKERS,
    new_figure,
    scale_elbo_axis,
    style,
)
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.result import EpochRecord

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST_LAYERS = 6
"""So many layers have a colour each; of more, all are drawn in grey."""
_ALL = "all weights"
_QUIET = "#999999"
_INK = "#000000"


def training_history(
    history: Sequence[EpochRecord],
    sizes: Mapping[str, int],
    *,
    heading: str = "Training",
    elbo_label: str = "ELBO (nats)",
) -> matplotlib.figure.Figure:
    """Draws the ELBO of every epoch, and below it the share of weights left, by layer and in all.

    Args:
        history: Records of the epochs, such as `fit.history`.
        sizes: Number of weights by name of the site.
        heading: A line above the picture.
        elbo_label: Name of the upper axis.

    Returns:
        The figure; its first axes are the ELBO, its second the shares.

    Raises:
        InvalidArgumentError: If there is no epoch.
    """
    if not history:
        raise InvalidArgumentError("there is no epoch to draw", accepted="at least 1")
    figure = new_figure(height=6.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    epochs = [record.epoch for record in history]
    style(upper, heading, "", elbo_label)
    _curve(upper, epochs, [record.elbo for record in history], COLOURS[0], "-", MARKERS[0])
    scale_elbo_axis(upper, [record.elbo for record in history if math.isfinite(record.elbo)])
    style(lower, "", "epoch", "weights left (%)")
    _shares(lower, epochs, shares_left(history, sizes))
    lower.set_ylim(bottom=0.0)
    lower.locator_params(axis="x", integer=True)
    return figure


def shares_left(history: Sequence[EpochRecord], sizes: Mapping[str, int]) -> dict[str, list[float]]:
    """Share of weights left after each epoch, by site and, under `"all weights"`, of all of them.

    Args:
        history: Records of the epochs.
        sizes: Number of weights by name of the site.

    Returns:
        Shares in [0, 1]; sites that no record speaks of are left out.
    """
    known = {name: size for name, size in sizes.items() if all(name in r.density for r in history)}
    shares = {name: [record.density[name] for record in history] for name in known}
    total = sum(known.values())
    if total:
        shares[_ALL] = [
            sum(record.density[name] * size for name, size in known.items()) / total
            for record in history
        ]
    return shares


def _shares(
    axes: matplotlib.axes.Axes, epochs: Sequence[int], shares: Mapping[str, Sequence[float]]
) -> None:
    layers = {name: values for name, values in shares.items() if name != _ALL}
    many = len(layers) > MOST_LAYERS
    for i, (name, values) in enumerate(layers.items(), start=1):
        colour = _QUIET if many else COLOURS[i % len(COLOURS)]
        label = "one layer each" if many and i == 1 else None if many else name
        dash, marker = ("-", "") if many else (DASHES[i % len(DASHES)], MARKERS[i])
        _curve(axes, epochs, _percent(values), colour, dash, marker, label=label)
    if _ALL in shares:
        _curve(axes, epochs, _percent(shares[_ALL]), _INK, "-", "", label=_ALL, width=2.2)
    if shares:
        axes.legend(fontsize=9, frameon=False)


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _curve(
    axes: matplotlib.axes.Axes,
    epochs: Sequence[int],
    values: Sequence[float],
    colour: str,
    dash: object,
    marker: str,
    *,
    label: str | None = None,
    width: float = 1.4,
) -> None:
    axes.plot(
        epochs,
        values,
        label=label,
        color=colour,
        linestyle=dash,
        linewidth=width,
        marker=marker,
        markersize=5,
        markevery=max(1, len(values) // 8),
    )
