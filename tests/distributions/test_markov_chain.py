from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.distributions import IndependentSupport, MarkovChainSupport
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def random_llr(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64) - 1


def test_without_coupling_it_is_the_independent_support() -> None:
    llr, density = random_llr(4, 9), 0.2
    chain = MarkovChainSupport((4, 9), density, 1 - density)
    independent = IndependentSupport((4, 9), density)
    a, b = chain.posterior(llr), independent.posterior(llr)
    torch.testing.assert_close(a.log_odds, b.log_odds, **EXACT)
    torch.testing.assert_close(a.log_evidence, b.log_evidence, **EXACT)
    value = independent.sample((5,))
    torch.testing.assert_close(chain.log_prob(value), independent.log_prob(value))


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -3])
def test_an_explicit_dim_is_one_of_the_tensor(dim: int) -> None:
    shape = (3, 2, 4, 5)
    llr = random_llr(*shape)
    post = MarkovChainSupport(shape, 0.1, 0.3, dim=dim).posterior(llr)
    last = llr.movedim(dim, -1)
    rows = MarkovChainSupport(last.shape, 0.1, 0.3, dim=-1).posterior(last)
    torch.testing.assert_close(post.log_odds.movedim(dim, -1), rows.log_odds, **EXACT)
    torch.testing.assert_close(post.pairwise, rows.pairwise, **EXACT)
    torch.testing.assert_close(post.log_evidence, rows.log_evidence, **EXACT)


@pytest.mark.parametrize("dim", [None, 0, 1])
def test_runs_have_the_mean_length(dim: int | None) -> None:
    torch.manual_seed(0)
    p01, p10 = 0.02, 0.2
    draw = MarkovChainSupport((400, 400), p01, p10, dim=dim).sample()
    lines = draw if dim != 0 else draw.T
    before, after = lines[:, :-1], lines[:, 1:]
    ones, ends = before.sum(), (before * (1 - after)).sum()
    bound = 5 * (p10 * (1 - p10) / float(ones)) ** 0.5
    assert float(ends / ones) == pytest.approx(p10, abs=bound)
    # across the chains there is no memory
    follow = float((lines[1:] * lines[:-1]).sum() / lines[:-1].sum())
    density = p01 / (p01 + p10)
    assert follow == pytest.approx(density, abs=0.02)


def test_rare_transitions_survive_single_precision() -> None:
    distribution = MarkovChainSupport((50,), 1e-8, 1e-8)
    post = distribution.posterior(torch.full((50,), 0.1))
    torch.testing.assert_close(post.log_odds, torch.full((50,), 5.0), rtol=1e-4, atol=1e-4)
    assert float(distribution.p01) == 1e-8


def test_certain_transitions_are_kept_off_the_border() -> None:
    alternating = MarkovChainSupport((6,), 1.0, 1.0)
    post = alternating.posterior(torch.tensor([50.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(post.probs, torch.tensor([1.0, 0, 1, 0, 1, 0]), rtol=0, atol=1e-6)
    assert bool(torch.isfinite(alternating.log_prob(torch.ones(6))))


def test_expectation_maximisation_never_lowers_the_evidence() -> None:
    torch.manual_seed(0)
    truth = MarkovChainSupport((20, 60), 0.03, 0.2)
    support = truth.sample().double()
    noise = random_llr(20, 60)
    llr = 4 * (2 * support - 1) + noise
    distribution, evidence = MarkovChainSupport((20, 60), 0.5, 0.5), -math.inf
    for _ in range(30):
        post = distribution.posterior(llr)
        assert float(post.log_evidence) >= evidence - 1e-9
        evidence = float(post.log_evidence)
        distribution = distribution.maximise(post)
    assert float(distribution.p01) == pytest.approx(0.03, abs=0.02)
    assert float(distribution.p10) == pytest.approx(0.2, abs=0.1)


def test_log_prob_has_gradients_in_the_transitions() -> None:
    p01 = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    p10 = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    value = torch.tensor([[0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: MarkovChainSupport((1, 4), a, b).log_prob(value), (p01, p10)
    )


def test_refuses_bad_dims_and_posteriors_without_counts() -> None:
    with pytest.raises(ShapeError, match="dim 2"):
        MarkovChainSupport((3, 4), 0.1, 0.2, dim=2)
    with pytest.raises(ShapeError, match="at least one dim"):
        MarkovChainSupport((), 0.1, 0.2)
    distribution = MarkovChainSupport((3, 4), 0.1, 0.2)
    with pytest.raises(InvalidArgumentError, match="pairwise=True"):
        distribution.maximise(distribution.posterior(torch.zeros(3, 4), pairwise=False))
