"""Pictures of the posterior of single weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_turbovbi._random import seeded
from pyro_turbovbi.diagnostics._axes import COLOURS, new_figure, require, style
from pyro_turbovbi.diagnostics._draws import require_positive
from pyro_turbovbi.diagnostics.protocols import PosteriorFit
from pyro_turbovbi.errors import InvalidArgumentError

if TYPE_CHECKING:
    import matplotlib.figure

_QUANTILES = (0.025, 0.25, 0.5, 0.75, 0.975)
_QUIET = "#777777"


def weight_draws(
    fit: PosteriorFit, *, number: int = 12, num_samples: int = 200, seed: int = 0
) -> dict[str, Tensor]:
    """Posterior draws of the weights whose means are largest in magnitude, over all sites.

    Args:
        fit: A fit.
        number: How many weights.
        num_samples: Draws.
        seed: Seed of the draws; the global random state is left as it was.

    Returns:
        Draws, shape [num_samples], by name and place of the weight, such as `"0.weight[3, 17]"`;
            the largest first.

    Raises:
        InvalidArgumentError: If a number is not positive.
    """
    require_positive("number", number)
    require_positive("num_samples", num_samples)
    with seeded(seed):
        chosen = _largest(fit.posterior.mean(), number)
        draws = [_picked(fit.posterior.draw(), chosen) for _ in range(num_samples)]
    table = torch.stack(draws)
    return {
        f"{name}[{', '.join(map(str, place))}]": table[:, i]
        for i, (name, place) in enumerate(chosen)
    }


def weight_intervals(
    draws: Mapping[str, Tensor], *, heading: str = "Posterior of the largest weights"
) -> matplotlib.figure.Figure:
    """Draws the posterior of weights as intervals: 50 % thick, 95 % thin, the median a dot.

    Args:
        draws: Posterior draws, shape [draws], by name of the weight.
        heading: A line above the picture.

    Returns:
        The figure, the first weight on top.

    Raises:
        InvalidArgumentError: If there is no weight, or a weight has no draw.
    """
    require(draws)
    for name, values in draws.items():
        if not values.numel():
            raise InvalidArgumentError(f"there is no draw of {name!r}", accepted="at least 1")
    figure = new_figure(height=1.2 + 0.26 * len(draws))
    axes = figure.add_subplot()
    style(axes, heading, "weight", "")
    axes.axvline(0.0, color=_QUIET, linewidth=1, linestyle="--")
    levels = torch.tensor(_QUANTILES, dtype=torch.float64)
    for i, values in enumerate(draws.values()):
        low, quarter, median, three_quarters, high = (
            values.detach().double().cpu().quantile(levels).tolist()
        )
        axes.plot([low, high], [i, i], color=COLOURS[0], linewidth=1.2)
        axes.plot([quarter, three_quarters], [i, i], color=COLOURS[0], linewidth=4.5, alpha=0.8)
        axes.plot([median], [i], color=COLOURS[1], marker="o", markersize=5)
    axes.set_yticks(range(len(draws)), list(draws), fontsize=9)
    axes.invert_yaxis()
    return figure


def _largest(means: Mapping[str, Tensor], number: int) -> list[tuple[str, tuple[int, ...]]]:
    """Site and place of the weights of largest magnitude."""
    flat = torch.cat([mean.abs().flatten() for mean in means.values()])
    order = flat.topk(min(number, len(flat))).indices.tolist()
    places = []
    for index in order:
        for name, mean in means.items():
            if index < mean.numel():
                place = torch.unravel_index(torch.tensor(index), mean.shape)
                places.append((name, tuple(int(n) for n in place)))
                break
            index -= mean.numel()
    return places


def _picked(draw: Mapping[str, Tensor], chosen: list[tuple[str, tuple[int, ...]]]) -> Tensor:
    return torch.stack([draw[name][place].detach().cpu() for name, place in chosen])
