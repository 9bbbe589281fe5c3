"""Simulation-based calibration: truths drawn from the prior rank uniformly among posterior draws.

Supports are drawn from the prior and seen through unit normal noise; posterior draws are made with
nothing but the posterior under test, element by element, each drawn element fixed by overwhelming
evidence. If prior, evidence and posterior belong together, the rank of a truth's statistic among
those of its draws is uniform. Each test fails by chance once in 10,000 random seeds.

Reference: S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman, "Validating Bayesian
inference algorithms with simulation-based calibration", arXiv 1804.06788.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.distributions import (
    BlockSupport,
    GatedMarkovSupport,
    IndependentSupport,
    MarkovChainSupport,
    SupportDistribution,
)

TRIALS, DRAWS = 2000, 19
SHAPE = (3, 4)
FIXED = 1e3  # nats
CHI_SQUARED_19 = 52.4  # exceeded with a probability of 1e-4 at 19 degrees of freedom

PRIORS: dict[str, SupportDistribution] = {
    "independent": IndependentSupport(SHAPE, 0.3),
    "chain": MarkovChainSupport(SHAPE, 0.2, 0.4),
    "chain along columns": MarkovChainSupport(SHAPE, 0.2, 0.4, dim=0),
    "gated rows": GatedMarkovSupport(SHAPE, (0.3, 0.4), (0.4, 0.5)),
    "gated columns": GatedMarkovSupport(SHAPE, (0.3, 0.4), (0.4, 0.5), gate_dim=1, dim=0),
    "blocks": BlockSupport(SHAPE, (2, 2), MarkovChainSupport((2, 2), 0.2, 0.4)),
}
STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "active elements": lambda s: s.sum((-2, -1)),
    "active rows": lambda s: s.any(-1).sum(-1),
    "active columns": lambda s: s.any(-2).sum(-1),
    "neighbours in a row": lambda s: (s[..., 1:] * s[..., :-1]).sum((-2, -1)),
}


def posterior_draws(prior: SupportDistribution, llr: Tensor) -> Tensor:
    """Joint draws given `llr [*batch, *event]`, one for each batch element."""
    known, draws = llr.clone(), torch.empty_like(llr)
    for i in range(SHAPE[0]):
        for j in range(SHAPE[1]):
            probs = prior.posterior(known, pairwise=False, log_evidence=False).probs[..., i, j]
            draws[..., i, j] = torch.bernoulli(probs)
            known[..., i, j] = FIXED * (2 * draws[..., i, j] - 1)
    return draws


def ranks(truth: Tensor, draws: Tensor) -> Tensor:
    """Ranks `[trials]` of truths among draws `[trials, draws]`, ties broken at random."""
    below = (draws < truth[:, None]).sum(1)
    ties = (draws == truth[:, None]).sum(1)
    return below + (torch.rand(len(truth)) * (ties + 1)).long()


def chi_squared(prior: SupportDistribution, posterior: SupportDistribution, name: str) -> float:
    """Distance of the ranks of a statistic from uniform ones."""
    truth = prior.sample((TRIALS,)).double()
    llr = truth + torch.randn_like(truth) - 0.5  # of Normal(1, 1) against Normal(0, 1)
    draws = posterior_draws(posterior, llr[:, None].repeat(1, DRAWS, 1, 1))
    statistic = STATISTICS[name]
    found = ranks(statistic(truth).double(), statistic(draws).double())
    observed = torch.bincount(found, minlength=DRAWS + 1).double()
    expected = TRIALS / (DRAWS + 1)
    return float(((observed - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("name", PRIORS)
def test_truths_rank_uniformly_among_posterior_draws(name: str, statistic: str) -> None:
    assert chi_squared(PRIORS[name], PRIORS[name], statistic) < CHI_SQUARED_19


def test_a_wrong_posterior_is_noticed() -> None:
    chain, independent = PRIORS["chain"], IndependentSupport(SHAPE, 0.2 / 0.6)
    assert chi_squared(chain, independent, "neighbours in a row") > CHI_SQUARED_19
