from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_turbovbi.errors import NumericalError, ShapeError
from pyro_turbovbi.kernels import ChainLaw, chain_log_evidence, chain_posterior
from tests.oracles.enumeration import (
    Exact,
    all_states,
    chain_log_prior,
    enumerate_posterior,
    transition_counts,
)
from tests.oracles.forward_backward import forward_backward

LAWS = [
    ChainLaw.stationary(0.05, 5.0),
    ChainLaw.stationary(0.9, 20.0),
    ChainLaw(0.3, 0.95),
    ChainLaw(0.95, 0.9),
    ChainLaw(1e-8, 1e-8),
    ChainLaw(1e-8, 0.5),
    ChainLaw(0.5, 1e-8),
]
EXACT = {"rtol": 1e-10, "atol": 1e-10}

probabilities = st.floats(-8.0, -1e-3).map(lambda x: 10.0**x)
lengths = st.integers(1, 9)
seeds = st.integers(0, 2**20)
scales = st.sampled_from([1e-3, 1.0, 30.0, 1e4])


def random_llr(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def enumerated(llr: Tensor, law: ChainLaw) -> Exact:
    states = all_states(llr.shape[-1])
    return enumerate_posterior(states, chain_log_prior(states, *law), llr)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("length", range(1, 13))
def test_equals_enumeration(length: int, law: ChainLaw) -> None:
    llr = random_llr(2, 3, length, seed=length)
    exact = enumerated(llr, law)
    post = chain_posterior(llr, law, pairwise=True, log_evidence=True)
    torch.testing.assert_close(post.log_odds, exact.log_odds, **EXACT)
    torch.testing.assert_close(post.log_evidence, exact.log_evidence, **EXACT)
    counts = transition_counts(all_states(length), exact.weights)
    torch.testing.assert_close(post.transitions, counts, **EXACT)


@pytest.mark.parametrize("dim", [0, 1, 2, -3, -2, -1])
def test_runs_along_the_dim_it_is_given(dim: int) -> None:
    law, llr = LAWS[0], random_llr(3, 4, 5)
    post = chain_posterior(llr, law, dim=dim, pairwise=True, log_evidence=True)
    last = llr.movedim(dim, -1)
    exact = enumerated(last, law)
    torch.testing.assert_close(post.log_odds.movedim(dim, -1), exact.log_odds, **EXACT)
    torch.testing.assert_close(post.log_evidence, exact.log_evidence, **EXACT)
    counts = transition_counts(all_states(last.shape[-1]), exact.weights)
    torch.testing.assert_close(post.transitions, counts, **EXACT)
    evidence = chain_log_evidence(llr, *law, dim=dim)
    torch.testing.assert_close(evidence, exact.log_evidence, **EXACT)
    assert post.log_odds.is_contiguous()


@pytest.mark.parametrize("law", LAWS)
def test_long_chain_equals_log_domain_forward_backward(law: ChainLaw) -> None:
    llr = random_llr(501, seed=3)
    log_odds, log_evidence = forward_backward(llr, *law)
    post = chain_posterior(llr, law, log_evidence=True)
    torch.testing.assert_close(post.log_odds, log_odds, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(post.log_evidence, log_evidence, **EXACT)


@settings(max_examples=60, deadline=None)
@given(p01=probabilities, p10=probabilities, length=lengths, seed=seeds, scale=scales)
def test_exact_over_the_whole_range(
    p01: float, p10: float, length: int, seed: int, scale: float
) -> None:
    law, llr = ChainLaw(p01, p10), random_llr(length, seed=seed, scale=scale)
    exact = enumerated(llr, law)
    post = chain_posterior(llr, law, log_evidence=True)
    # the oracle itself subtracts scores of the size of the summed evidence
    tolerance = 1e-10 + 1e-14 * float(llr.abs().sum())
    torch.testing.assert_close(post.log_odds, exact.log_odds, rtol=0, atol=tolerance)
    torch.testing.assert_close(post.log_evidence, exact.log_evidence, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("law", LAWS)
def test_overwhelming_evidence_gives_the_limits(law: ChainLaw, size: float) -> None:
    llr = torch.full((400,), size, dtype=torch.float64)
    post = chain_posterior(llr, law, pairwise=True, log_evidence=True)
    state = int(size > 0)
    stay = (law.p00, law.p11)[state]
    start = (law.p10, law.p01)[state] / (law.p01 + law.p10)
    limit = math.log(start) + 399 * math.log(stay) + (400 * size if size > 0 else 0.0)
    assert float(post.log_evidence) == pytest.approx(limit, rel=1e-12, abs=1e-9)
    assert float(post.transitions[state, state]) == pytest.approx(399.0, rel=1e-12)
    middle = 2 * math.log(law.p11 / law.p01 if state else law.p10 / law.p00) + law.log_odds
    torch.testing.assert_close(
        post.extrinsic[1:-1], torch.full((398,), middle, dtype=torch.float64), **EXACT
    )


@pytest.mark.parametrize("law", LAWS)
def test_single_precision_is_close_to_double(law: ChainLaw) -> None:
    llr = random_llr(20, 784, seed=1).float()
    single, double = chain_posterior(llr, law), chain_posterior(llr.double(), law)
    assert single.log_odds.dtype == single.extrinsic.dtype == torch.float32
    torch.testing.assert_close(single.log_odds.double(), double.log_odds, rtol=0, atol=1e-5)
    torch.testing.assert_close(single.extrinsic.double(), double.extrinsic, rtol=0, atol=1e-5)


def test_no_evidence_gives_the_stationary_law() -> None:
    for law in LAWS:
        post = chain_posterior(torch.zeros(50, dtype=torch.float64), law, log_evidence=True)
        torch.testing.assert_close(
            post.log_odds, torch.full_like(post.log_odds, law.log_odds), **EXACT
        )
        assert float(post.log_evidence) == pytest.approx(0.0, abs=1e-12)


def test_extrinsic_ignores_the_elements_own_evidence() -> None:
    law, llr = LAWS[0], random_llr(3, 9)
    changed = llr.clone()
    changed[:, 4] += 17.0
    before, after = chain_posterior(llr, law), chain_posterior(changed, law)
    assert torch.equal(before.extrinsic[:, 4], after.extrinsic[:, 4])
    assert bool((before.extrinsic[:, 3] != after.extrinsic[:, 3]).all())
    # a difference of posterior and llr would be lost in rounding here
    changed[:, 4] = 1e17
    assert torch.equal(chain_posterior(changed, law).extrinsic[:, 4], before.extrinsic[:, 4])


@settings(max_examples=25, deadline=None)
@given(p01=probabilities, p10=probabilities, length=st.integers(1, 60), seed=seeds)
def test_flip_symmetry(p01: float, p10: float, length: int, seed: int) -> None:
    llr = random_llr(2, length, seed=seed)
    ones = chain_posterior(llr, ChainLaw(p01, p10), log_evidence=True, pairwise=True)
    zeros = chain_posterior(-llr, ChainLaw(p10, p01), log_evidence=True, pairwise=True)
    torch.testing.assert_close(zeros.log_odds, -ones.log_odds, **EXACT)
    torch.testing.assert_close(zeros.log_evidence + llr.sum(-1), ones.log_evidence, **EXACT)
    torch.testing.assert_close(zeros.transitions.flip(-1, -2), ones.transitions, **EXACT)


@settings(max_examples=25, deadline=None)
@given(p01=probabilities, p10=probabilities, length=st.integers(1, 60), seed=seeds)
def test_reversal_symmetry(p01: float, p10: float, length: int, seed: int) -> None:
    law, llr = ChainLaw(p01, p10), random_llr(2, length, seed=seed)
    forward = chain_posterior(llr, law, log_evidence=True)
    backward = chain_posterior(llr.flip(-1), law, log_evidence=True)
    torch.testing.assert_close(backward.log_odds.flip(-1), forward.log_odds, **EXACT)
    torch.testing.assert_close(backward.log_evidence, forward.log_evidence, **EXACT)


@settings(max_examples=25, deadline=None)
@given(p01=probabilities, p10=probabilities, length=st.integers(1, 40), seed=seeds)
def test_counts_agree_with_marginals(p01: float, p10: float, length: int, seed: int) -> None:
    llr = random_llr(2, length, seed=seed)
    post = chain_posterior(llr, ChainLaw(p01, p10), pairwise=True)
    probs = post.log_odds.sigmoid()
    torch.testing.assert_close(post.transitions[:, 1].sum(-1), probs[:, :-1].sum(-1), **EXACT)
    torch.testing.assert_close(post.transitions[:, :, 1].sum(-1), probs[:, 1:].sum(-1), **EXACT)
    torch.testing.assert_close(
        post.transitions.sum((1, 2)), torch.full((2,), length - 1.0, dtype=torch.float64), **EXACT
    )


def test_without_coupling_elements_are_independent() -> None:
    density, llr = 0.2, random_llr(3, 30)
    post = chain_posterior(llr, ChainLaw(density, 1 - density), log_evidence=True)
    prior = math.log(density / (1 - density))
    torch.testing.assert_close(post.extrinsic, torch.full_like(llr, prior), **EXACT)
    each = (1 - density + density * llr.exp()).log()
    torch.testing.assert_close(post.log_evidence, each.sum(-1), **EXACT)


@pytest.mark.parametrize("tiny", [1e-8, 1e-12, 1e-30])
def test_rare_transitions_make_the_chain_one_variable(tiny: float) -> None:
    llr = random_llr(6, seed=5)
    post = chain_posterior(llr, ChainLaw(tiny, tiny), log_evidence=True)
    together = torch.full_like(llr, float(llr.sum()))
    torch.testing.assert_close(post.log_odds, together, rtol=0, atol=1e5 * tiny + 1e-10)
    assert bool(torch.isfinite(post.log_evidence))


@pytest.mark.parametrize("law", LAWS)
def test_gradient_of_the_log_evidence_is_the_posterior(law: ChainLaw) -> None:
    llr = random_llr(4, 50, seed=2).requires_grad_()
    evidence = chain_log_evidence(llr, *law)
    post = chain_posterior(llr, law, log_evidence=True)
    torch.testing.assert_close(evidence, post.log_evidence, **EXACT)
    (gradient,) = torch.autograd.grad(evidence.sum(), llr)
    torch.testing.assert_close(gradient, post.log_odds.sigmoid(), **EXACT)


def test_gradient_survives_overwhelming_evidence() -> None:
    llr = torch.tensor([1e4, -1e4, 300.0, 2.0], dtype=torch.float64, requires_grad=True)
    evidence = chain_log_evidence(llr, 1e-8, 1e-8)
    (gradient,) = torch.autograd.grad(evidence, llr)
    expected = chain_posterior(llr, ChainLaw(1e-8, 1e-8)).log_odds.sigmoid()
    torch.testing.assert_close(gradient, expected, **EXACT)


def test_log_evidence_is_differentiable_twice_and_in_its_parameters() -> None:
    llr = random_llr(2, 5).requires_grad_()
    p01 = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    p10 = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(chain_log_evidence, (llr, p01, p10))
    assert torch.autograd.gradgradcheck(chain_log_evidence, (llr, p01, p10))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_log_evidence_with_fixed_transitions_is_differentiable_twice(
    law: ChainLaw, dim: int
) -> None:
    """The posterior as first derivative, the recursion as second: one function to autograd."""
    llr = random_llr(3, 4, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: chain_log_evidence(x, *law, dim=dim), llr)
    assert torch.autograd.gradgradcheck(lambda x: chain_log_evidence(x, *law, dim=dim), llr)


@pytest.mark.parametrize("law", LAWS)
def test_both_ways_to_the_log_evidence_agree(law: ChainLaw) -> None:
    llr = random_llr(4, 30, seed=7).requires_grad_()
    p01 = torch.tensor(law.p01, dtype=torch.float64, requires_grad=True)
    stepwise, fast = chain_log_evidence(llr, p01, law.p10), chain_log_evidence(llr, *law)
    torch.testing.assert_close(fast, stepwise, **EXACT)
    weights = torch.linspace(-1, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(fast @ weights, llr), torch.autograd.grad(stepwise @ weights, llr),
        **EXACT,
    )  # fmt: skip


def test_curvature_of_the_log_evidence_is_the_posterior_covariance() -> None:
    llr, law = random_llr(5, seed=8), LAWS[0]
    curvature = torch.autograd.functional.hessian(lambda x: chain_log_evidence(x, *law), llr)
    states, weights = all_states(5), enumerated(llr, law).weights
    mean = weights @ states
    expected = states.T @ (weights[:, None] * states) - torch.outer(mean, mean)
    torch.testing.assert_close(curvature, expected, **EXACT)


@pytest.mark.parametrize("dim", [0, -1])
def test_log_evidence_works_under_vmap(dim: int) -> None:
    llr = random_llr(3, 4, 6)

    def evidence(x: Tensor) -> Tensor:
        return chain_log_evidence(x, *LAWS[0], dim=dim)

    expected = torch.stack([evidence(x) for x in llr])
    torch.testing.assert_close(torch.func.vmap(evidence)(llr), expected, **EXACT)
    last = torch.func.vmap(evidence, in_dims=-1)(llr.movedim(0, -1))
    torch.testing.assert_close(last, expected, **EXACT)
    gradient = torch.func.vmap(torch.func.grad(lambda x: evidence(x).sum()))(llr)
    alone = llr.clone().requires_grad_()
    torch.stack([evidence(x) for x in alone]).sum().backward()
    torch.testing.assert_close(gradient, alone.grad, **EXACT)


def test_log_evidence_of_llr_that_are_not_finite_is_nan() -> None:
    llr = torch.tensor([[1.0, math.nan], [1.0, 2.0]], requires_grad=True)
    evidence = chain_log_evidence(llr, *LAWS[0])
    assert evidence.isnan().all()
    (gradient,) = torch.autograd.grad(evidence.sum(), llr)
    assert gradient.isnan().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_llr_that_are_not_finite(bad: float) -> None:
    llr = torch.zeros(3, 4)
    llr[1, 2] = bad
    with pytest.raises(NumericalError, match="1 of 12 elements"):
        chain_posterior(llr, LAWS[0])


def test_accepts_finite_llr_whose_sum_overflows() -> None:
    llr = torch.full((4,), 3e38)
    assert bool(torch.isfinite(chain_posterior(llr, LAWS[0]).extrinsic).all())


@pytest.mark.parametrize(("shape", "dim"), [((), -1), ((3, 0), -1), ((3, 4), 2), ((3, 4), -3)])
def test_refuses_shapes_without_a_chain(shape: tuple[int, ...], dim: int) -> None:
    with pytest.raises(ShapeError, match="no chain"):
        chain_posterior(torch.zeros(shape), LAWS[0], dim=dim)


def test_leaves_its_input_alone() -> None:
    llr = random_llr(5, 6)
    copy = llr.clone()
    chain_posterior(llr, LAWS[0], dim=0, pairwise=True, log_evidence=True)
    assert torch.equal(llr, copy)


def test_law_from_density_and_mean_run() -> None:
    law = ChainLaw.stationary(0.2, 4.0)
    assert law.p10 == pytest.approx(0.25)
    assert law.density == pytest.approx(0.2)
    assert law.log_odds == pytest.approx(math.log(0.25))
    assert law.p00 + law.p01 == law.p10 + law.p11 == 1.0
