"""Pareto-smoothed importance sampling.

The largest importance ratios follow a generalised Pareto law, whose shape k says how many moments
the ratios have (all below 1 / k): below 1/2 plain importance sampling has a finite variance, below
0.7 the smoothed one is still good in practice, above 1 not even the mean exists. The shape is
estimated from the largest ratios, and these are then replaced by the law's quantiles.

Source: A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, "Pareto smoothed importance sampling",
JMLR 25(72):1-58, 2024; the estimator of the law: J. Zhang, M. A. Stephens, "A new and efficient
estimation method for the generalized Pareto distribution", Technometrics 51:316-325, 2009.
"""

from __future__ import annotations

from math import ceil, log, log10, sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, NumericalError

#: Fewer draws leave too short a tail for a fit.
MIN_DRAWS = 25
#: Fewer ratios above the cut-off than this say nothing of a tail.
_MIN_TAIL = 5
#: Columns smoothed at once: bounds the memory of the grid that the fit integrates over.
_COLUMNS = 1024
#: Ratios below this share of the largest one vanish in double precision.
_LOWEST = log(torch.finfo(torch.float64).tiny)


class Smoothed(NamedTuple):
    """Pareto-smoothed ratios.

    Attributes:
        log_ratios: The logarithms of the smoothed ratios, in the order of the draws, not
            normalised; double precision.
        k: Estimated shape of the tail of every column; -inf where the largest ratios are all equal,
            inf where a handful of draws outweigh all others beyond the range of double precision.
    """

    log_ratios: Float[Tensor, "draws ..."]
    k: Float[Tensor, "*columns"]


class ParetoFit(NamedTuple):
    """A generalised Pareto law of every row: shape k and scale sigma."""

    shape: Float[Tensor, " rows"]
    scale: Float[Tensor, " rows"]


def k_threshold(num_draws: int) -> float:
    """Largest shape k with which `num_draws` draws are enough: min(1 - 1 / log10 S, 0.7).

    Args:
        num_draws: S, greater than 1.
    """
    return min(1.0 - 1.0 / log10(num_draws), 0.7)


def pareto_smooth(log_ratios: Float[Tensor, "draws ..."]) -> Smoothed:
    """Smooth the largest importance ratios of every column.

    Args:
        log_ratios: ln(target density / proposal density) of each draw, up to a constant a column.

    Returns:
        Smoothed ratios and the shapes of their tails.

    Raises:
        InvalidArgumentError: if there are fewer than 25 draws.
        NumericalError: if a ratio is not finite.
    """
    if len(log_ratios) < MIN_DRAWS:
        raise InvalidArgumentError(
            "too few draws to see the tail of their importance ratios",
            given=len(log_ratios),
            accepted=f"at least {MIN_DRAWS}, better 1,000",
        )
    if not bool(torch.isfinite(log_ratios).all()):
        raise NumericalError(
            "an importance ratio is not finite",
            accepted="finite log-likelihoods and log-densities of every draw",
        )
    table = log_ratios.detach().double().reshape(len(log_ratios), -1).T
    parts = [_smooth_rows(part.contiguous()) for part in table.split(_COLUMNS)]
    smoothed = torch.cat([values for values, _ in parts]).T.reshape(log_ratios.shape)
    shapes = torch.cat([k for _, k in parts]).reshape(log_ratios.shape[1:])
    return Smoothed(smoothed, shapes)


def fit_generalised_pareto(excesses: Float[Tensor, "rows points"]) -> ParetoFit:
    """Shape and scale of the generalised Pareto law of every row of excesses over a threshold.

    The posterior mean of Zhang and Stephens over a grid of theta = -k / sigma, with the shape then
    drawn towards 1/2 by ten pseudo-observations, as Vehtari et al. do for short tails.

    Args:
        excesses: Positive excesses, ascending in every row.

    Returns:
        Shape and scale by row.
    """
    count = excesses.shape[1]
    size = 30 + int(sqrt(count))
    steps = torch.arange(1, size + 1, dtype=excesses.dtype, device=excesses.device) - 0.5
    quartile, largest = excesses[:, int(count / 4 + 0.5) - 1], excesses[:, -1]
    offsets = (1.0 - (size / steps).sqrt()) / 3.0
    theta = 1.0 / largest[:, None] + offsets / quartile[:, None]
    shapes = torch.log1p(-theta[:, :, None] * excesses[:, None, :]).mean(-1)
    profile = count * ((-theta / shapes).log() - shapes - 1.0)
    theta = (profile.softmax(1) * theta).sum(1)
    shape = torch.log1p(-theta[:, None] * excesses).mean(1)
    return ParetoFit((count * shape + 5.0) / (count + 10.0), -shape / theta)


def _smooth_rows(log_ratios: Tensor) -> tuple[Tensor, Tensor]:
    """Smoothed rows [rows, draws] and their shapes [rows]."""
    draws = log_ratios.shape[1]
    tail = ceil(min(draws / 5, 3 * sqrt(draws)))
    largest = log_ratios.max(dim=1, keepdim=True).values
    ordered, order = (log_ratios - largest).sort(dim=1)
    cutoff = ordered[:, -tail - 1].clamp(min=_LOWEST)
    lengths = (ordered > cutoff[:, None]).sum(1)
    k = torch.where(cutoff < 0.0, torch.inf, -torch.inf).to(ordered)
    for length in lengths.unique().tolist():
        if length < _MIN_TAIL:
            continue
        rows = lengths == length
        smooth, k[rows] = _smooth_tails(ordered[rows, -length:], cutoff[rows])
        ordered[rows, -length:] = smooth
    smoothed = log_ratios.scatter(1, order[:, -tail:], ordered[:, -tail:] + largest)
    return smoothed, k


def _smooth_tails(tails: Tensor, cutoff: Tensor) -> tuple[Tensor, Tensor]:
    """Quantiles of the fitted law in place of the log-ratios [rows, length]; shapes [rows]."""
    threshold = cutoff[:, None].exp()
    excesses = tails.exp() - threshold
    fit = fit_generalised_pareto(excesses)
    length = tails.shape[1]
    levels = (torch.arange(length, dtype=tails.dtype, device=tails.device) + 0.5) / length
    smooth = (threshold + _quantiles(fit, levels)).log().clamp_(max=0.0)
    fitted = torch.isfinite(fit.shape) & torch.isfinite(fit.scale)
    return torch.where(fitted[:, None], smooth, tails), fit.shape.nan_to_num(torch.inf)


def _quantiles(fit: ParetoFit, levels: Tensor) -> Tensor:
    """By row: sigma ((1 - p)^-k - 1) / k, or its limit -sigma ln(1 - p) at k = 0."""
    survival = torch.log1p(-levels)[None]
    shape, scale = fit.shape[:, None], fit.scale[:, None]
    safe = torch.where(shape == 0.0, 1.0, shape)
    return scale * torch.where(shape == 0.0, -survival, torch.expm1(-safe * survival) / safe)
