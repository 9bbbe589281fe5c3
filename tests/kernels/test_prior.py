from __future__ import annotations

import pytest
import torch

from pyro_turbovbi.kernels import ChainLaw
from pyro_turbovbi.kernels.prior import chain_log_prob, sample_chains, sample_grids
from tests.oracles.enumeration import all_states, chain_log_prior, grid_log_prior

SIGMAS = 5.0  # two-sided failure rate of a statement below 6e-7, and the seeds are fixed


@pytest.mark.parametrize("law", [ChainLaw(0.02, 0.3), ChainLaw(1e-8, 0.9), ChainLaw(0.9, 0.8)])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_chain_log_prob_equals_the_product_of_transitions(length: int, law: ChainLaw) -> None:
    states = all_states(length)
    p01, p10 = torch.tensor(law, dtype=torch.float64)
    value = chain_log_prob(states, p01, p10)
    torch.testing.assert_close(value, chain_log_prior(states, *law), rtol=1e-10, atol=1e-10)
    turned = chain_log_prob(states.T, p01, p10, dim=0)
    torch.testing.assert_close(turned, value, rtol=1e-12, atol=1e-12)
    assert float(value.logsumexp(0)) == pytest.approx(0.0, abs=1e-10)


def test_chain_samples_have_the_law() -> None:
    torch.manual_seed(0)
    law, chains = ChainLaw(0.1, 0.25), 40_000
    states = sample_chains(6, chains, law)
    for step in states:  # stationary at every element
        error = float(step.mean()) - law.density
        assert abs(error) < SIGMAS * (law.density * (1 - law.density) / chains) ** 0.5
    for before, chance in ((0.0, law.p01), (1.0, law.p11)):
        followers = states[1:][states[:-1] == before]
        error = float(followers.mean()) - chance
        assert abs(error) < SIGMAS * (chance * (1 - chance) / len(followers)) ** 0.5


def test_chain_samples_resolve_rare_transitions() -> None:
    torch.manual_seed(0)
    states = sample_chains(2, 2000, ChainLaw(1e-12, 1 - 1e-12))
    assert float(states.sum()) == 0.0


def test_grid_samples_have_the_exact_marginals_and_pairs() -> None:
    torch.manual_seed(0)
    row, column = ChainLaw.stationary(0.3, 2.5), ChainLaw.stationary(0.3, 1.9)
    states = all_states(12).view(-1, 3, 4)
    weights = grid_log_prior(states, row, column).softmax(0)
    draws = sample_grids(20_000, 3, 4, row, column, sweeps=30)
    for statistic in (
        lambda s: s,
        lambda s: s[:, :, 1:] * s[:, :, :-1],
        lambda s: s[:, 1:] * s[:, :-1],
    ):
        exact = (weights.view(-1, 1, 1) * statistic(states)).sum(0)
        error = (statistic(draws).mean(0) - exact).abs()
        bound = SIGMAS * (exact * (1 - exact) / len(draws)).sqrt()
        assert bool((error < bound).all())


def test_grid_samples_without_sweeps_are_row_chains() -> None:
    torch.manual_seed(0)
    row, column = ChainLaw.stationary(0.3, 4.0), ChainLaw.stationary(0.3, 1.9)
    draws = sample_grids(2000, 3, 4, row, column, sweeps=0)
    torch.manual_seed(0)
    chains = sample_chains(4, 6000, row)
    assert torch.equal(draws.view(6000, 4), chains.T)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 5)])
def test_grid_samples_of_any_shape_without_coupling(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    law = ChainLaw(0.2, 0.8)
    draws = sample_grids(20_000, *shape, law, law, sweeps=2)
    assert draws.shape == (20_000, *shape)
    bound = SIGMAS * (0.2 * 0.8 / 20_000) ** 0.5
    assert float((draws.mean(0) - 0.2).abs().max()) < bound
