"""The collapsed prior against enumeration over supports and quadrature over precisions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_turbovbi.distributions import (
    BlockSupport,
    CollapsedPrecision,
    CollapsedThreeLayer,
    GatedMarkovSupport,
    IndependentSupport,
    MarkovChainSupport,
    MarkovGridSupport,
    SupportDistribution,
)
from pyro_turbovbi.errors import InvalidArgumentError, NumericalError, UnsupportedError
from pyro_turbovbi.kernels import ChainLaw
from tests.oracles.enumeration import all_states

ACTIVE, INACTIVE = (2.0, 3.0), (4.0, 0.01)
SHAPE = (3, 3)
GATE, WITHIN = ChainLaw.stationary(0.6, 2.0), ChainLaw.stationary(0.5, 2.5)
EXACT = {"rtol": 1e-10, "atol": 1e-10}
SUPPORTS: dict[str, Callable[[], SupportDistribution]] = {
    "independent": lambda: IndependentSupport(SHAPE, 0.3),
    "chain": lambda: MarkovChainSupport(SHAPE, 0.2, 0.4),
    "chain along dim 0": lambda: MarkovChainSupport(SHAPE, 0.2, 0.4, dim=0),
    "gated": lambda: GatedMarkovSupport(SHAPE, GATE, WITHIN),
    "blocks": lambda: BlockSupport(SHAPE, (2, 2), MarkovChainSupport((2, 2), 0.2, 0.4)),
}
every_support = pytest.mark.parametrize("kind", SUPPORTS)


def law(kind: str) -> CollapsedThreeLayer:
    return CollapsedThreeLayer(SUPPORTS[kind](), ACTIVE, INACTIVE)


def weights(*shape: int, seed: int = 0) -> Tensor:
    """Weights on both sides of the crossing of spike and slab."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return normal * torch.rand(*shape, generator=generator, dtype=torch.float64).pow(3)


def student_t(parameters: tuple[float, float], weight: Tensor) -> Tensor:
    a, b = torch.tensor(parameters, dtype=torch.float64)
    return dist.StudentT(2 * a, 0.0, (b / a).sqrt()).log_prob(weight)


def enumerated(kind: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`ln p(w)` and `P(s = 1 | w)` of one weight tensor by summing over all supports."""
    states = all_states(9)
    log_prior = SUPPORTS[kind]().log_prob(states.view(-1, *SHAPE))
    each = torch.where(
        states.bool(), student_t(ACTIVE, weight).flatten(), student_t(INACTIVE, weight).flatten()
    )
    scores = log_prior + each.sum(1)
    return scores.logsumexp(0), (scores.softmax(0) @ states).view(SHAPE)


def quadrature(parameters: tuple[float, float], weight: float) -> float:
    """`p(w | s)` by integrating over the logarithm of the precision."""
    a, b = (torch.tensor(value, dtype=torch.float64) for value in parameters)
    log_rho = torch.linspace(-40.0, 25.0, 20_001, dtype=torch.float64)
    rho = log_rho.exp()
    log_density = (
        dist.Gamma(a, b).log_prob(rho)
        + dist.Normal(torch.zeros_like(rho), rho.rsqrt()).log_prob(
            torch.tensor(weight, dtype=torch.float64)
        )
        + log_rho
    )
    return float(torch.trapezoid(log_density.exp(), log_rho))


@every_support
def test_density_is_the_sum_over_all_supports(kind: str) -> None:
    for seed in range(5):
        weight = weights(*SHAPE, seed=seed)
        expected, _ = enumerated(kind, weight)
        torch.testing.assert_close(law(kind).log_prob(weight), expected, **EXACT)


@pytest.mark.parametrize("weight", [(0.0, 0.0), (0.02, 0.9), (-1.5, 3.0), (0.3, -0.01)])
def test_density_is_the_integral_over_the_precisions(weight: tuple[float, float]) -> None:
    """Two weights under a chain, nothing in closed form: four supports, each by quadrature."""
    p01, p10 = 0.2, 0.4
    start, steps = (p10 / (p01 + p10), p01 / (p01 + p10)), ((1 - p01, p01), (p10, 1 - p10))
    total = sum(
        start[i]
        * steps[i][j]
        * quadrature((INACTIVE, ACTIVE)[i], weight[0])
        * quadrature((INACTIVE, ACTIVE)[j], weight[1])
        for i in (0, 1)
        for j in (0, 1)
    )
    subject = CollapsedThreeLayer(MarkovChainSupport((2,), p01, p10), ACTIVE, INACTIVE)
    log_prob = subject.log_prob(torch.tensor(weight, dtype=torch.float64))
    assert float(log_prob) == pytest.approx(math.log(total), abs=1e-9)


def test_density_integrates_to_one() -> None:
    """Over two weights, on a grid that is fine in the spike and reaches into the slab's tails."""
    grid = torch.linspace(-14.0, 14.0, 801, dtype=torch.float64)
    points, slope = 1e-3 * grid.sinh(), 1e-3 * grid.cosh()
    subject = CollapsedThreeLayer(MarkovChainSupport((2,), 0.2, 0.4), ACTIVE, INACTIVE)
    both = torch.cartesian_prod(points, points)
    density = subject.log_prob(both).exp().view(801, 801) * slope * slope[:, None]
    integral = torch.trapezoid(torch.trapezoid(density, grid), grid)
    assert float(integral) == pytest.approx(1.0, abs=1e-6)


@every_support
def test_gradient_is_minus_the_expected_precision_times_the_weight(kind: str) -> None:
    weight = weights(*SHAPE, seed=3).requires_grad_()
    (gradient,) = torch.autograd.grad(law(kind).log_prob(weight), weight)
    weight = weight.detach()
    _, probs = enumerated(kind, weight)
    active, inactive = ((a + 0.5) / (b + 0.5 * weight.square()) for a, b in (ACTIVE, INACTIVE))
    precision = probs * active + (1 - probs) * inactive
    torch.testing.assert_close(gradient, -precision * weight, **EXACT)


@every_support
def test_support_posterior_equals_enumeration(kind: str) -> None:
    weight = weights(*SHAPE, seed=4)
    _, probs = enumerated(kind, weight)
    torch.testing.assert_close(law(kind).support_posterior(weight).probs, probs, **EXACT)


@every_support
def test_is_differentiable_twice(kind: str) -> None:
    weight = weights(2, *SHAPE, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(law(kind).log_prob, weight)
    assert torch.autograd.gradgradcheck(law(kind).log_prob, weight)


@every_support
def test_batches_and_draws_are_taken_one_by_one(kind: str) -> None:
    weight = weights(4, 2, *SHAPE)
    together = law(kind).expand((2,)).log_prob(weight)
    assert together.shape == (4, 2)
    for i in range(4):
        for j in range(2):
            alone = law(kind).log_prob(weight[i, j])
            torch.testing.assert_close(together[i, j], alone, **EXACT)


def test_single_precision_is_close_to_double() -> None:
    weight = weights(30, *SHAPE, seed=6)
    single, double = law("chain").log_prob(weight.float()), law("chain").log_prob(weight)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["independent", "chain", "gated", "blocks"])
def test_samples_follow_the_density(kind: str) -> None:
    """Of two neighbours: how often one is large, and both are; against the exact law."""
    count, edge = 20_000, 0.2
    subject = law(kind)
    large = subject.sample((count,))[:, 0, :2].abs() > edge
    states = all_states(9)
    prior = SUPPORTS[kind]().log_prob(states.view(-1, *SHAPE)).exp()
    # P(|w| > edge | s): Student-t tails by quadrature over the weight
    axis = torch.linspace(-edge, edge, 20_001, dtype=torch.float64)
    tail = [
        1.0 - float(torch.trapezoid(student_t(parameters, axis).exp(), axis))
        for parameters in (INACTIVE, ACTIVE)
    ]
    exceeds = torch.tensor(tail, dtype=torch.float64)[states.long()]
    for observed, probability in (
        (large[:, 0], float(prior @ exceeds[:, 0])),
        (large[:, 1], float(prior @ exceeds[:, 1])),
        (large.all(1), float(prior @ (exceeds[:, 0] * exceeds[:, 1]))),
    ):
        error = math.sqrt(probability * (1 - probability) / count)
        assert abs(float(observed.double().mean()) - probability) < 5 * error


def test_samples_have_the_shape_dtype_and_device_asked_for() -> None:
    like = torch.zeros((), dtype=torch.float64)
    subject = CollapsedThreeLayer(IndependentSupport((2, 3), 0.3), ACTIVE, INACTIVE, like=like)
    draws = subject.expand((4,)).sample((5,))
    assert draws.shape == (5, 4, 2, 3)
    assert draws.dtype == torch.float64
    assert law("chain").sample().dtype == torch.get_default_dtype()


def test_is_a_pyro_distribution_over_one_event() -> None:
    def model() -> Tensor:
        with pyro.plate("nets", 2):
            return pyro.sample("w", law("gated"))

    trace = poutine.trace(model).get_trace()
    node = trace.nodes["w"]
    assert node["value"].shape == (2, *SHAPE)
    assert node["fn"].event_shape == SHAPE
    assert not node["fn"].has_enumerate_support
    torch.testing.assert_close(
        trace.log_prob_sum(), law("gated").log_prob(node["value"]).sum(), rtol=1e-5, atol=1e-4
    )


def test_values_are_validated_unless_that_is_off() -> None:
    bad = torch.full(SHAPE, math.nan)
    strict = CollapsedThreeLayer(SUPPORTS["chain"](), ACTIVE, INACTIVE, validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        strict.log_prob(bad)
    lenient = CollapsedThreeLayer(SUPPORTS["chain"](), ACTIVE, INACTIVE, validate_args=False)
    assert lenient.log_prob(bad).isnan()
    with pytest.raises(NumericalError, match="not all finite"):
        lenient.support_posterior(bad)


def test_a_grid_has_no_density() -> None:
    subject = CollapsedThreeLayer(MarkovGridSupport(SHAPE, 0.3, (2.0, 2.0)), ACTIVE, INACTIVE)
    with pytest.raises(UnsupportedError, match="intractable"):
        subject.log_prob(weights(*SHAPE))


def test_components_are_checked() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        CollapsedThreeLayer(SUPPORTS["chain"](), (1.0, 0.0), INACTIVE)
    assert str(error.value) == (
        "a Gamma law of the precisions is out of range; given: active (1.0, 0.0), "
        "inactive (4.0, 0.01); accepted: pairs (concentration, rate) of positive numbers"
    )


# Precisions ------------------------------------------------------------------------------------


def precision_law(kind: str) -> CollapsedPrecision:
    return CollapsedPrecision(SUPPORTS[kind](), ACTIVE, INACTIVE)


def precisions(*shape: int) -> Tensor:
    """Precisions of both components, and between them."""
    generator = torch.Generator().manual_seed(0)
    return (6.0 * torch.rand(*shape, generator=generator, dtype=torch.float64)).exp()


def hidden_markov_model(length: int, p01: float, p10: float) -> dist.DiscreteHMM:
    """Pyro's own law of a chain of precisions."""
    stationary = torch.tensor([p10, p01], dtype=torch.float64).log()
    transitions = torch.tensor([[1 - p01, p01], [p10, 1 - p10]], dtype=torch.float64).log()
    both = zip(INACTIVE, ACTIVE, strict=True)
    emissions = dist.Gamma(*(torch.tensor(pair, dtype=torch.float64) for pair in both))
    return dist.DiscreteHMM(stationary, transitions, emissions, duration=length)


@every_support
def test_density_of_precisions_is_the_sum_over_all_supports(kind: str) -> None:
    states, value = all_states(9), precisions(*SHAPE)
    active, inactive = (
        dist.Gamma(*(torch.tensor(p, dtype=torch.float64) for p in pair)).log_prob(value).flatten()
        for pair in (ACTIVE, INACTIVE)
    )
    scores = SUPPORTS[kind]().log_prob(states.view(-1, *SHAPE))
    scores = scores + torch.where(states.bool(), active, inactive).sum(1)
    torch.testing.assert_close(precision_law(kind).log_prob(value), scores.logsumexp(0), **EXACT)
    expected = (scores.softmax(0) @ states).view(SHAPE)
    torch.testing.assert_close(precision_law(kind).support_posterior(value).probs, expected)


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_a_chain_of_precisions_is_pyro_s_hidden_markov_model(length: int) -> None:
    value = precisions(3, length).requires_grad_()
    ours = CollapsedPrecision(MarkovChainSupport((3, length), 0.2, 0.4), ACTIVE, INACTIVE)
    theirs = hidden_markov_model(length, 0.2, 0.4)
    expected = theirs.log_prob(value).sum()
    torch.testing.assert_close(ours.log_prob(value), expected, **EXACT)
    gradients = [torch.autograd.grad(total, value)[0] for total in (ours.log_prob(value), expected)]
    torch.testing.assert_close(*gradients, **EXACT)
    single = ours.log_prob(value.float())
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=1e-4)


@every_support
def test_samples_of_precisions_have_the_mean_of_the_mixture(kind: str) -> None:
    subject, count = precision_law(kind), 4000
    values = subject.sample((count,))
    assert values.shape == (count, *SHAPE)
    assert subject.support.check(values).all()
    active = float(SUPPORTS[kind]().density)
    (a1, b1), (a0, b0) = ACTIVE, INACTIVE
    expected = active * a1 / b1 + (1 - active) * a0 / b0
    error = values.std(0) / count**0.5
    assert ((values.mean(0) - expected).abs() < 5 * error).all()


def test_expected_precision_is_minus_the_gradient_over_the_weight() -> None:
    """Equation (18) of the theory."""
    weight = weights(*SHAPE).requires_grad_()
    (gradient,) = torch.autograd.grad(law("chain").log_prob(weight), weight)
    torch.testing.assert_close(law("chain").expected_precision(weight) * weight, -gradient)
