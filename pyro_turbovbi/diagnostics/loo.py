"""Leave-one-out cross-validation from the posterior draws of one fit (PSIS-LOO).

The predictive density of a training point by a posterior that has not seen it is a weighted mean
over the draws of one that has:

    p(y_i | y_-i) = ( E_s[ 1 / p(y_i | w_s) ] )^-1        w_s ~ p(w | y)

with Pareto-smoothed weights 1 / p(y_i | w_s). A point's shape k tells how much it moves the
posterior; above the threshold its value cannot be trusted.

The draws come from q(w). The result is thus the cross-validation of *q taken as the posterior*: it
is as good an estimate for the exact posterior as q is close to it, and a small k says nothing
about that distance, which is what `khat` measures. Points that the fit has not seen need no
weights: for test data use `evaluate`.

Source: A. Vehtari, A. Gelman, J. Gabry, "Practical Bayesian model evaluation using leave-one-out
cross-validation and WAIC", Statistics and Computing 27:1413-1432, 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, sqrt

import torch
from torch import Tensor

from pyro_turbovbi._random import seeded
from pyro_turbovbi.batches import Data
from pyro_turbovbi.diagnostics._draws import (
    NUM_DRAWS,
    data_on_device,
    predict_with,
    require_draws,
)
from pyro_turbovbi.diagnostics.protocols import PosteriorFit
from pyro_turbovbi.diagnostics.psis import k_threshold, pareto_smooth
from pyro_turbovbi.diagnostics.table import Table
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Expected log predictive density under leave-one-out cross-validation.

    Attributes:
        pointwise: ln p(y_i | y_-i) of every point in nats, `[points]`, double precision.
        log_predictive: ln p(y_i | y) of every point, itself included, in nats, `[points]`.
        pareto_k: Shape of every point's importance ratios, `[points]`.
        num_draws: Posterior draws behind it.
    """

    pointwise: Tensor
    log_predictive: Tensor
    pareto_k: Tensor
    num_draws: int

    @property
    def elpd(self) -> float:
        """Sum of `pointwise`, in nats."""
        return float(self.pointwise.sum())

    @property
    def standard_error(self) -> float:
        """Standard error of `elpd` over data sets of this size, in nats."""
        return _standard_error(self.pointwise)

    @property
    def effective_parameters(self) -> float:
        """p_loo: how much the points' own influence flatters the fit, in nats."""
        return float((self.log_predictive - self.pointwise).sum())

    @property
    def threshold(self) -> float:
        """Largest k that the number of draws allows."""
        return k_threshold(self.num_draws)

    @property
    def bad(self) -> Tensor:
        """Indices of the points whose k is above the threshold."""
        return torch.nonzero(self.pareto_k > self.threshold).flatten()

    @property
    def reliable(self) -> bool:
        """Whether no point's k is above the threshold."""
        return len(self.bad) == 0

    def __str__(self) -> str:
        trust = "" if self.reliable else f"; not reliable: {self._verdict()}"
        return (
            f"elpd {self.elpd:,.1f} +- {self.standard_error:,.1f} nats, p_loo "
            f"{self.effective_parameters:,.1f} ({len(self.pointwise):,} points){trust}"
        )

    def _verdict(self) -> str:
        return (
            f"k above {self.threshold:.2f} at {len(self.bad):,} of {len(self.pointwise):,} points, "
            f"up to {float(self.pareto_k.max()):.2f}"
        )


@dataclass(frozen=True)
class RankedFit:
    """A fit's place in a ranking.

    Attributes:
        name: Name of the fit.
        elpd: Its expected log predictive density, in nats.
        standard_error: Standard error of `elpd`, in nats.
        difference: `elpd` minus that of the best fit, in nats; not positive.
        difference_error: Standard error of `difference` over paired points, in nats. A difference
            of less than a few of these, or of less than 4 nats, decides nothing.
        effective_parameters: p_loo, in nats.
    """

    name: str
    elpd: float
    standard_error: float
    difference: float
    difference_error: float
    effective_parameters: float

    @property
    def numbers(self) -> tuple[float, ...]:
        """All but the name, in order."""
        return (
            self.elpd,
            self.standard_error,
            self.difference,
            self.difference_error,
            self.effective_parameters,
        )


@dataclass(frozen=True)
class Ranking:
    """Fits by expected log predictive density, best first; prints as a table."""

    fits: tuple[RankedFit, ...]

    def __str__(self) -> str:
        headers = ("", "elpd", "+-", "difference", "+-", "p_loo")
        cells = [(fit.name, *(f"{value:,.1f}" for value in fit.numbers)) for fit in self.fits]
        return Table(headers, cells, ("nats; leave-one-out cross-validation",)).to_text()


@torch.no_grad()
def leave_one_out(
    fit: PosteriorFit, data: Data, *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> LeaveOneOut:
    """PSIS-LOO of a fit on the data that it was trained on.

    Args:
        fit: A fitted net.
        data: The training data: `DataLoader`, `Dataset` or pair of tensors, N points.
        num_draws: Posterior draws S; memory holds a few [S, N] arrays in double precision.
        seed: Seed of the draws; the global random state is left as it was.

    Returns:
        Pointwise values with their Pareto k.

    Raises:
        InvalidArgumentError: if there are fewer than 25 draws.
        NumericalError: if a log-likelihood is not finite.
        UnsupportedError: if the fit is a point estimate.
    """
    x, y = data_on_device(fit, data)
    with seeded(seed):
        require_draws(fit, "leave-one-out cross-validation")
        terms = [
            predict_with(fit, fit.posterior.draw(), x).log_likelihood(y)[0]
            for _ in range(num_draws)
        ]
    return from_log_likelihood(torch.stack(terms))


def from_log_likelihood(log_likelihood: Tensor) -> LeaveOneOut:
    """PSIS-LOO from pointwise log-likelihoods.

    Args:
        log_likelihood: ln p(y_i | w_s) in nats, `[draws, points]`.

    Raises:
        InvalidArgumentError: if there are fewer than 25 draws.
        NumericalError: if a log-likelihood is not finite.
    """
    log_lik = log_likelihood.double()
    smoothed = pareto_smooth(-log_lik)
    weights = smoothed.log_ratios.log_softmax(0)
    return LeaveOneOut(
        pointwise=(weights + log_lik).logsumexp(0),
        log_predictive=log_lik.logsumexp(0) - log(len(log_lik)),
        pareto_k=smoothed.k,
        num_draws=len(log_lik),
    )


def rank(results: Mapping[str, LeaveOneOut]) -> Ranking:
    """Order fits of one data set by their expected log predictive density.

    Args:
        results: Results of `leave_one_out` on the same points in the same order, by name.

    Returns:
        The ranking, best first, with paired standard errors of the differences.

    Raises:
        InvalidArgumentError: if there is nothing to rank.
        ShapeError: if the numbers of points differ.
        UnsupportedError: if some k is above its threshold: such values must not be ranked.
    """
    if not results:
        raise InvalidArgumentError("there is no fit to rank", accepted="{name: result, ...}")
    counts = {name: len(result.pointwise) for name, result in results.items()}
    if len(set(counts.values())) > 1:
        raise ShapeError(
            "the fits are cross-validated on different points",
            given=", ".join(f"{name}: {count}" for name, count in counts.items()),
            accepted="the same training data for all",
        )
    bad = [f"{name}: {r._verdict()}" for name, r in results.items() if not r.reliable]
    if bad:
        raise UnsupportedError(
            "these fits cannot be ranked by leave-one-out cross-validation: their importance "
            "weights are too heavy-tailed",
            given="; ".join(bad),
            accepted="a held-out test set (ptv.compare), K-fold cross-validation, or more draws "
            "where k is only just too large",
        )
    best = max(results.values(), key=lambda result: result.elpd)
    ranked = [_ranked(name, result, best) for name, result in results.items()]
    return Ranking(tuple(sorted(ranked, key=lambda fit: -fit.elpd)))


def _ranked(name: str, result: LeaveOneOut, best: LeaveOneOut) -> RankedFit:
    differences = result.pointwise - best.pointwise
    return RankedFit(
        name,
        result.elpd,
        result.standard_error,
        float(differences.sum()),
        _standard_error(differences),
        result.effective_parameters,
    )


def _standard_error(pointwise: Tensor) -> float:
    """Standard error of the sum of independent terms."""
    return sqrt(len(pointwise) * float(pointwise.var(correction=0)))
