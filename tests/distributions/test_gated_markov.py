from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.distributions import GatedMarkovSupport, MarkovChainSupport
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.kernels import ChainLaw

EXACT = {"rtol": 1e-10, "atol": 1e-10}
GATE, WITHIN = ChainLaw.stationary(0.4, 3.0), ChainLaw.stationary(0.3, 2.0)


def random_llr(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_open_gates_leave_plain_chains() -> None:
    llr = random_llr(4, 9)
    gated = GatedMarkovSupport((4, 9), (1.0, 1e-12), WITHIN)
    chains = MarkovChainSupport((4, 9), *WITHIN)
    a, b = gated.posterior(llr), chains.posterior(llr)
    torch.testing.assert_close(a.log_odds, b.log_odds, rtol=0, atol=1e-8)
    torch.testing.assert_close(a.log_evidence, b.log_evidence, rtol=0, atol=1e-8)
    torch.testing.assert_close(a.pairwise.within, b.pairwise, rtol=0, atol=1e-8)
    value = chains.sample((5,)).double()
    torch.testing.assert_close(gated.log_prob(value), chains.log_prob(value), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("gate_dim", "dim"), [(0, 3), (1, 0), (-1, 1), (1, None), (3, None)])
def test_explicit_dims_are_those_of_the_tensor(gate_dim: int, dim: int | None) -> None:
    shape = (3, 2, 4, 5)
    prior = GatedMarkovSupport(shape, GATE, WITHIN, gate_dim, dim)
    gates = gate_dim % 4
    chain = (3 if gates != 3 else 2) if dim is None else dim % 4
    rest = [axis for axis in range(4) if axis not in (gates, chain)]
    turned = (gates, *rest, chain)
    llr = random_llr(2, *shape)
    post = prior.posterior(llr)
    assert post.gate_log_odds.shape == (2, shape[gates])
    lined = GatedMarkovSupport([shape[axis] for axis in turned], GATE, WITHIN, 0, 3)
    expected = lined.posterior(llr.permute(0, *(axis + 1 for axis in turned)))
    back = expected.log_odds.permute(0, *(turned.index(axis) + 1 for axis in range(4)))
    torch.testing.assert_close(post.log_odds, back, **EXACT)
    torch.testing.assert_close(post.log_evidence, expected.log_evidence, **EXACT)
    draws = prior.sample((7,)).double()
    torch.testing.assert_close(
        prior.log_prob(draws), lined.log_prob(draws.permute(0, *(axis + 1 for axis in turned)))
    )
    by_gate = draws.movedim(gates + 1, 1).flatten(2).any(-1)
    assert 0 < int(by_gate.sum()) < by_gate.numel()


def test_log_prob_is_differentiable_in_all_transition_probabilities() -> None:
    value = torch.tensor([[0.0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=torch.float64)

    def log_prob(*p: Tensor) -> Tensor:
        return GatedMarkovSupport((4, 3), p[:2], p[2:]).log_prob(value)

    inputs = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in (*GATE, *WITHIN)]
    assert torch.autograd.gradcheck(log_prob, inputs)


def test_impossible_and_certain_rows_have_finite_log_probs() -> None:
    prior = GatedMarkovSupport((3, 500), (1e-8, 1e-8), (1e-8, 1 - 1e-8))
    for value in (torch.zeros(3, 500), torch.ones(3, 500), torch.eye(3, 500)):
        assert bool(torch.isfinite(prior.log_prob(value.double())))


def test_expectation_maximisation_never_lowers_the_evidence_and_finds_the_laws() -> None:
    torch.manual_seed(1)
    truth = GatedMarkovSupport((600, 40), (0.1, 0.2), (0.15, 0.25))
    llr = 12.0 * truth.sample().double() - 6.0 + torch.randn(600, 40, dtype=torch.float64)
    prior, last = GatedMarkovSupport((600, 40), (0.5, 0.5), (0.4, 0.4)), -torch.inf
    for _ in range(60):
        post = prior.posterior(llr)
        assert float(post.log_evidence) >= last - 1e-7
        last, prior = float(post.log_evidence), prior.maximise(post)
    gate, within = prior.laws
    assert gate.p01 == pytest.approx(0.1, abs=0.04)
    assert gate.p10 == pytest.approx(0.2, abs=0.06)
    assert within.p01 == pytest.approx(0.15, abs=0.02)
    assert within.p10 == pytest.approx(0.25, abs=0.02)


def test_refuses_dims_that_are_not_there() -> None:
    for shape, gate_dim, dim in (
        ((5,), 0, None),
        ((3, 4), 2, None),
        ((3, 4), 0, 0),
        ((3, 4), 1, -1),
    ):
        with pytest.raises(ShapeError, match="two different dims"):
            GatedMarkovSupport(shape, GATE, WITHIN, gate_dim, dim)
    with pytest.raises(InvalidArgumentError, match="p01 of the gates"):
        GatedMarkovSupport((3, 4), (0.0, 0.1), WITHIN)
    prior = GatedMarkovSupport((3, 4), GATE, WITHIN)
    with pytest.raises(InvalidArgumentError, match="transition counts"):
        prior.maximise(prior.posterior(torch.zeros(3, 4), pairwise=False))
