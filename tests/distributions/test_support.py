"""What every support distribution promises, checked on all of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor

from pyro_turbovbi.distributions import (
    BlockSupport,
    GatedMarkovSupport,
    IndependentSupport,
    MarkovChainSupport,
    MarkovGridSupport,
    SupportDistribution,
)
from pyro_turbovbi.distributions.block import block_shape
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    NumericalError,
    ShapeError,
    UnsupportedError,
)
from pyro_turbovbi.kernels import ChainLaw
from tests.oracles.enumeration import (
    all_states,
    chain_log_prior,
    enumerate_posterior,
    gated_log_joint,
    grid_log_prior,
)

Maker = Callable[[tuple[int, ...]], SupportDistribution]
DENSITY, RUN = 0.3, 2.0
P10 = 1 / RUN
P01 = P10 * DENSITY / (1 - DENSITY)
EXACT = {"rtol": 1e-10, "atol": 1e-10}
GATE, WITHIN = ChainLaw.stationary(0.6, 2.0), ChainLaw.stationary(0.5, 2.5)  # 0.6 0.5 = DENSITY
SIZE = (1, 2)


def blocks(shape: tuple[int, ...]) -> BlockSupport:
    inner = block_shape(shape, SIZE)
    return BlockSupport(shape, SIZE, MarkovChainSupport(inner, P01, P10))


MAKERS: dict[str, Maker] = {
    "independent": lambda shape: IndependentSupport(shape, DENSITY),
    "chain": lambda shape: MarkovChainSupport(shape, P01, P10),
    "chain along dim 0": lambda shape: MarkovChainSupport(shape, P01, P10, dim=0),
    "grid": lambda shape: MarkovGridSupport(shape, DENSITY, (RUN, RUN), sweeps=50),
    "gated": lambda shape: GatedMarkovSupport(shape, GATE, WITHIN),
    "gated columns": lambda shape: GatedMarkovSupport(shape, GATE, WITHIN, gate_dim=1, dim=0),
    "blocks": blocks,
}
every_kind = pytest.mark.parametrize("kind", MAKERS)


def log_prior(kind: str, states: Tensor) -> Tensor:
    """Oracle for `log_prob` over matrices `[S, rows, columns]`."""
    if kind == "independent":
        return (states * math.log(DENSITY) + (1 - states) * math.log(1 - DENSITY)).sum((1, 2))
    if kind == "grid":
        return grid_log_prior(states, (P01, P10), (P01, P10))
    if kind.startswith("gated"):
        lines = states if kind == "gated" else states.transpose(1, 2)
        return gated_log_joint(lines, all_states(lines.shape[1]), GATE, WITHIN).logsumexp(1)
    if kind == "blocks":
        corners = states[:, :, ::2]
        whole = corners.repeat_interleave(2, 2)[:, :, : states.shape[2]] == states
        inside = chain_log_prior(corners, P01, P10).sum(1)
        return torch.where(whole.flatten(1).all(1), inside, -torch.inf)
    lines = states if kind == "chain" else states.transpose(1, 2)
    return chain_log_prior(lines, P01, P10).sum(1)


def random_llr(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


@every_kind
def test_log_prob_equals_enumeration_and_is_normalised(kind: str) -> None:
    states = all_states(6).view(-1, 2, 3)
    value = MAKERS[kind]((2, 3)).log_prob(states)
    torch.testing.assert_close(value, log_prior(kind, states), **EXACT)
    if kind != "grid":
        assert float(value.logsumexp(0)) == pytest.approx(0.0, abs=1e-10)


@every_kind
def test_posterior_equals_enumeration(kind: str) -> None:
    states, llr = all_states(6).view(-1, 2, 3), random_llr(5, 2, 3)
    exact = enumerate_posterior(states.flatten(1), log_prior(kind, states), llr.flatten(1))
    post = MAKERS[kind]((2, 3)).posterior(llr)
    bound = 0.05 if kind == "grid" else 1e-10
    error = (post.probs.flatten(1) - exact.probs).abs().max()
    assert float(error) < bound
    assert float((post.log_evidence - exact.log_evidence).abs().max()) < bound
    torch.testing.assert_close(post.log_odds.sigmoid(), post.probs, **EXACT)
    torch.testing.assert_close(post.extrinsic + llr, post.log_odds, **EXACT)


@every_kind
def test_keeps_the_dtype_of_the_llr(kind: str) -> None:
    distribution = MAKERS[kind]((4, 5))
    single = distribution.posterior(random_llr(4, 5).float())
    double = distribution.posterior(random_llr(4, 5))
    for a, b in zip(single, double, strict=True):
        if isinstance(a, Tensor):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


@every_kind
def test_what_is_not_asked_for_is_none(kind: str) -> None:
    post = MAKERS[kind]((3, 4)).posterior(random_llr(3, 4), pairwise=False, log_evidence=False)
    assert post.pairwise is None
    assert post.log_evidence is None


@every_kind
def test_batches_in_front_of_the_llr(kind: str) -> None:
    distribution, llr = MAKERS[kind]((3, 4)), random_llr(2, 5, 3, 4)
    post = distribution.posterior(llr)
    assert post.log_evidence.shape == (2, 5)
    alone = distribution.posterior(llr[1, 3])
    torch.testing.assert_close(post.log_odds[1, 3], alone.log_odds, **EXACT)
    torch.testing.assert_close(post.log_evidence[1, 3], alone.log_evidence, **EXACT)


@every_kind
@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (3, 2, 5)])
def test_conv_shapes_are_seen_as_a_matrix(kind: str, shape: tuple[int, ...]) -> None:
    matrix = (shape[0], math.prod(shape[1:]))
    llr = random_llr(2, *shape)
    post = MAKERS[kind](shape).posterior(llr)
    if kind in ("chain along dim 0", "gated columns"):  # explicit dims are the tensor's own
        assert post.log_odds.shape == llr.shape
        if kind == "gated columns":
            return
    flat = MAKERS[kind](matrix).posterior(llr.view(2, *matrix))
    torch.testing.assert_close(post.log_odds, flat.log_odds.view(llr.shape), **EXACT)
    torch.testing.assert_close(post.log_evidence, flat.log_evidence, **EXACT)
    draws = MAKERS[kind](shape).sample((3,))
    assert draws.shape == (3, *shape)
    torch.testing.assert_close(
        MAKERS[kind](shape).log_prob(draws), MAKERS[kind](matrix).log_prob(draws.view(3, *matrix))
    )


@every_kind
def test_samples_are_binary_with_all_batch_shapes(kind: str) -> None:
    torch.manual_seed(0)
    distribution = MAKERS[kind]((3, 4)).expand([5])
    assert distribution.batch_shape == (5,)
    draws = distribution.sample((2, 6))
    assert draws.shape == (2, 6, 5, 3, 4)
    assert draws.dtype == torch.get_default_dtype()
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert distribution.log_prob(draws).shape == (2, 6, 5)
    assert distribution.log_prob(draws[0, 0, 0]).shape == (5,)
    # the five supports of a batch are different draws
    assert bool((draws[:, :, 0] != draws[:, :, 1]).any())


@every_kind
def test_sample_frequencies_equal_enumeration(kind: str) -> None:
    torch.manual_seed(0)
    states, count = all_states(4).view(-1, 2, 2), 20_000
    exact = log_prior(kind, states).softmax(0)
    draws = MAKERS[kind]((2, 2)).sample((count,)).double()
    index = (draws.flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)).long()
    observed = torch.bincount(index, minlength=16).double()
    assert not bool(observed[exact == 0].any())
    expected = (count * exact)[exact > 0]
    chi_squared = float(((observed[exact > 0] - expected) ** 2 / expected).sum())
    assert chi_squared < 44.3  # 15 degrees of freedom: exceeded once in 10,000


@every_kind
def test_is_a_pyro_site_in_a_plate(kind: str) -> None:
    distribution = MAKERS[kind]((3, 4))

    def model() -> Tensor:
        with pyro.plate("nets", 7):
            support = pyro.sample("support", distribution)
        return support

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["support"]["value"].shape == (7, 3, 4)
    assert trace.nodes["support"]["log_prob"].shape == (7,)


@every_kind
@pytest.mark.parametrize("parallel", [False, True])
def test_works_in_predictive(kind: str, parallel: bool) -> None:
    distribution = MAKERS[kind]((3, 4))

    def model() -> None:
        support = pyro.sample("support", distribution)
        pyro.sample("weight", dist.Normal(0.0, 0.1 + support).to_event(2))

    samples = Predictive(model, num_samples=6, parallel=parallel)()
    assert samples["support"].reshape(6, 3, 4).shape == (6, 3, 4)
    assert samples["weight"].numel() == 72


@every_kind
def test_expectation_maximisation_keeps_family_and_shape(kind: str) -> None:
    distribution = MAKERS[kind]((6, 8)).expand([2])
    fitted = distribution.maximise(distribution.posterior(random_llr(2, 6, 8)))
    assert type(fitted) is type(distribution)
    assert fitted.event_shape == (6, 8)
    assert fitted.batch_shape == (2,)
    assert float(fitted.density) != pytest.approx(DENSITY)


@every_kind
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_expectation_maximisation_stays_off_the_border(kind: str, size: float) -> None:
    distribution, llr = MAKERS[kind]((6, 8)), torch.full((6, 8), size)
    for _ in range(3):
        distribution = distribution.maximise(distribution.posterior(llr))
    assert 1e-13 < float(distribution.density) < 1  # two probabilities of 1e-6 or more
    assert bool(torch.isfinite(distribution.posterior(llr).log_odds).all())
    assert bool(torch.isfinite(distribution.log_prob(distribution.sample())))


@every_kind
def test_prior_log_odds_is_the_logit_of_the_density(kind: str) -> None:
    distribution = MAKERS[kind]((3, 4))
    assert distribution.density.dtype == distribution.prior_log_odds.dtype == torch.float64
    assert float(distribution.density) == pytest.approx(DENSITY)
    assert float(distribution.prior_log_odds) == pytest.approx(math.log(DENSITY / (1 - DENSITY)))


@every_kind
def test_posterior_leaves_no_graph_and_no_change(kind: str) -> None:
    llr = random_llr(3, 4).requires_grad_()
    copy = llr.detach().clone()
    post = MAKERS[kind]((3, 4)).posterior(llr)
    assert not post.log_odds.requires_grad
    assert torch.equal(llr.detach(), copy)


@every_kind
@pytest.mark.parametrize("shape", [(3, 4), (4, 3, 2, 2)])
def test_a_posterior_can_be_overwritten(kind: str, shape: tuple[int, ...]) -> None:
    prior = MAKERS[kind](shape)
    first, second = torch.randn(2, *shape), torch.randn(2, *shape)
    old = prior.posterior(first)
    expected = prior.posterior(second, start=old.messages)
    new = prior.posterior(second, start=old.messages, out=old)
    for got, into, value in zip(new[:3], old[:3], expected[:3], strict=True):
        assert got.data_ptr() == into.data_ptr()
        torch.testing.assert_close(got, value)
    torch.testing.assert_close(new.log_evidence, expected.log_evidence)
    with pytest.raises(ShapeError, match="overwritten"):
        prior.posterior(second[0], out=old)


@every_kind
def test_refuses_what_does_not_fit(kind: str) -> None:
    distribution = MAKERS[kind]((3, 4))
    with pytest.raises(ShapeError, match="do not fit"):
        distribution.posterior(torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="do not fit"):
        distribution.posterior(torch.zeros(4))
    with pytest.raises(NumericalError, match=r"'net\.0\.weight'.*2 of 12"):
        distribution.posterior(
            torch.tensor([[math.nan, math.inf, 1.0, 1.0]] + [[0.0] * 4] * 2), site="net.0.weight"
        )
    with pytest.raises(ValueError, match="support"):
        distribution.log_prob(torch.full((3, 4), 0.5))
    with pytest.raises(ShapeError, match="at least one element"):
        MAKERS[kind]((3, 0))


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.1, math.nan])
def test_refuses_what_is_no_probability(bad: float) -> None:
    for make in (
        lambda: IndependentSupport((3,), bad),
        lambda: MarkovChainSupport((3,), bad, 0.5),
        lambda: MarkovChainSupport((3,), 0.5, bad),
        lambda: MarkovGridSupport((3, 3), bad, (2.0, 2.0)),
    ):
        with pytest.raises(InvalidArgumentError, match="is not a probability"):
            make()


every_tree = pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "grid"])


@every_tree
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 2)])
def test_differentiable_log_evidence_and_its_gradient(kind: str, shape: tuple[int, ...]) -> None:
    """The log-evidence of the posterior; its gradient is the posterior probability."""
    support = MAKERS[kind](shape)
    llr = 3 * torch.randn(5, 2, *shape, dtype=torch.float64)
    exact = support.posterior(llr)
    evidence = support.log_evidence(llr.requires_grad_())
    assert exact.log_evidence is not None
    torch.testing.assert_close(evidence, exact.log_evidence, **EXACT)
    (gradient,) = torch.autograd.grad(evidence.sum(), llr)
    torch.testing.assert_close(gradient, exact.probs, **EXACT)


@every_tree
def test_log_evidence_is_differentiable_twice(kind: str) -> None:
    support = MAKERS[kind]((2, 3))
    llr = 2 * torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(support.log_evidence, llr)
    assert torch.autograd.gradgradcheck(support.log_evidence, llr)


@every_tree
def test_log_evidence_tells_pyro_where_it_comes_from(kind: str) -> None:
    """As `AutoStructured` asks for it."""
    support, llr = MAKERS[kind]((3, 4)), random_llr(3, 4)
    evidence = support.log_evidence(track_provenance(llr, frozenset({"weight"})))
    assert get_provenance(evidence) == {"weight"}
    assert torch.equal(detach_provenance(evidence), support.log_evidence(llr))


@every_tree
def test_log_evidence_keeps_the_dtype(kind: str) -> None:
    support = MAKERS[kind]((3, 4))
    llr = torch.randn(3, 4)
    single, double = support.log_evidence(llr), support.log_evidence(llr.double())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


@every_tree
def test_log_evidence_needs_a_llr_of_the_event_shape(kind: str) -> None:
    with pytest.raises(ShapeError, match="do not fit the support"):
        MAKERS[kind]((3, 4)).log_evidence(torch.zeros(4, 3))


def test_grids_have_no_exact_log_evidence() -> None:
    grid = MAKERS["grid"]((3, 4))
    message = "a grid's normaliser is intractable, so its log-evidence is not known"
    for support in (grid, BlockSupport((6, 8), (2, 2), grid)):
        with pytest.raises(UnsupportedError, match=message) as error:
            support.log_evidence(torch.zeros(support.event_shape))
        assert "supports.Chain()" in str(error.value)


def test_a_support_without_log_evidence_says_so() -> None:
    class Minimal(IndependentSupport):
        _log_evidence = SupportDistribution._log_evidence

    with pytest.raises(UnsupportedError, match="no exact, differentiable log-evidence; given: Min"):
        Minimal((2,), 0.3).log_evidence(torch.zeros(2))
