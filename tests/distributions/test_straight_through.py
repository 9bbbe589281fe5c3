"""Straight-through supports: exact values, and gradients against enumeration and quadrature."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_turbovbi.distributions import (
    MarkovChainSupport,
    MarkovGridSupport,
    SelectedGamma,
    StraightThroughBernoulli,
)
from pyro_turbovbi.errors import InvalidArgumentError
from tests.oracles.enumeration import all_states

DOUBLE = torch.float64
EXACT = {"rtol": 1e-10, "atol": 1e-10}
ACTIVE, INACTIVE = (2.0, 3.0), (4.0, 0.01)
DRAWS = 40_000


def log_odds(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE, requires_grad=True)


def slope(temperature: float, logit: float) -> float:
    """E[d soft / d logit] of a relaxed Bernoulli by quadrature over its logistic noise."""
    noise = torch.linspace(-60.0, 60.0, 200_001, dtype=DOUBLE)
    density = noise.sigmoid() * (-noise).sigmoid()
    soft = (logit + noise) / temperature
    return float(torch.trapezoid(density * soft.sigmoid() * (-soft).sigmoid() / temperature, noise))


def test_samples_are_zeros_and_ones_of_the_right_frequency() -> None:
    logits = log_odds(-2.0, 0.0, 1.5)
    draws = StraightThroughBernoulli(0.5, logits).rsample((DRAWS,))
    assert ((draws == 0) | (draws == 1)).all()
    probs = logits.detach().sigmoid()
    error = (probs * (1 - probs) / DRAWS).sqrt()
    assert ((draws.detach().mean(0) - probs).abs() < 5 * error).all()
    assert not StraightThroughBernoulli(0.5, logits).sample().requires_grad


def test_log_prob_is_bernoulli_s_and_linear_in_the_value() -> None:
    logits = log_odds(-2.0, 0.0, 1.5)
    law = StraightThroughBernoulli(0.5, logits)
    for state in all_states(3):
        expected = dist.Bernoulli(logits=logits).log_prob(state)
        torch.testing.assert_close(law.log_prob(state), expected, **EXACT)
    value = law.rsample()
    (gradient,) = torch.autograd.grad(law.log_prob(value).sum(), value)
    torch.testing.assert_close(gradient, logits.detach(), **EXACT)


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0])
def test_gradients_of_the_sample_have_the_slope_of_the_relaxation(temperature: float) -> None:
    logits = log_odds(-2.0, 0.0, 1.5)
    many = logits.detach().expand(DRAWS, 3).clone().requires_grad_()
    StraightThroughBernoulli(temperature, many).rsample().sum().backward()
    assert many.grad is not None
    error = many.grad.std(0) / DRAWS**0.5
    expected = torch.tensor([slope(temperature, x) for x in logits.tolist()], dtype=DOUBLE)
    assert ((many.grad.mean(0) - expected).abs() < 5 * error).all()


def test_the_slope_tends_to_the_true_one_as_the_temperature_falls() -> None:
    for logit in (-3.0, 0.0, 2.0):
        true = torch.tensor(logit).sigmoid().item() * torch.tensor(-logit).sigmoid().item()
        assert slope(0.02, logit) == pytest.approx(true, rel=2e-3)
        assert 0.85 < slope(0.5, logit) / true < math.pi / 2


@pytest.mark.parametrize(
    "support",
    [
        MarkovChainSupport((2, 2), 0.2, 0.4),
        MarkovGridSupport((2, 2), 0.3, (2.0, 3.0)),
    ],
)
def test_the_gradient_of_a_support_s_log_prob_is_the_difference_of_its_two_values(
    support: MarkovChainSupport | MarkovGridSupport,
) -> None:
    """Multilinear: what the theory of the straight-through estimator rests on."""
    for state in all_states(4):
        value = state.view(2, 2).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(support.log_prob(value), value)
        for n in range(4):
            one, zero = state.clone(), state.clone()
            one[n], zero[n] = 1.0, 0.0
            difference = support.log_prob(one.view(2, 2)) - support.log_prob(zero.view(2, 2))
            torch.testing.assert_close(gradient.flatten()[n], difference, **EXACT)


def test_the_expected_gradient_is_the_true_one_times_the_ratio_of_slopes() -> None:
    """E_q[ln p(s) + L . s - ln q(s)] over a chain, against enumeration of all supports."""
    prior = MarkovChainSupport((3,), 0.2, 0.4)
    llr = torch.tensor([1.0, -0.5, 2.0], dtype=DOUBLE)
    logits, temperature = log_odds(-0.5, 0.3, 1.0), 0.5

    states = all_states(3)
    log_q = dist.Bernoulli(logits=logits).log_prob(states).sum(1)
    objective = (log_q.exp() * (prior.log_prob(states) + states @ llr - log_q)).sum()
    (true,) = torch.autograd.grad(objective, logits)

    many = logits.detach().expand(DRAWS, 3).clone().requires_grad_()
    law = StraightThroughBernoulli(temperature, many)
    value = law.rsample()
    total = prior.log_prob(value) + value @ llr - law.log_prob(value).sum(1)
    total.sum().backward()
    assert many.grad is not None
    probs = logits.detach().sigmoid()
    ratio = torch.tensor([slope(temperature, x) for x in logits.tolist()]) / (probs * (1 - probs))
    error = many.grad.std(0) / DRAWS**0.5
    assert ((many.grad.mean(0) - ratio * true).abs() < 5 * error).all()
    assert (many.grad.mean(0) * true > 0).all()


def test_a_selected_gamma_is_the_law_of_its_component() -> None:
    selected, value = torch.tensor([1.0, 0.0]), torch.tensor([0.7, 300.0])
    law = SelectedGamma(selected, ACTIVE, INACTIVE)
    expected = torch.stack(
        [dist.Gamma(*ACTIVE).log_prob(value[0]), dist.Gamma(*INACTIVE).log_prob(value[1])]
    )
    torch.testing.assert_close(law.log_prob(value), expected)
    assert law.sample((3,)).shape == (3, 2)


def test_a_selected_gamma_s_gradient_is_the_difference_of_its_components() -> None:
    logits = log_odds(3.0, -3.0)
    selected = StraightThroughBernoulli(0.5, logits).rsample()
    rate = torch.tensor([3.0, 4.0], dtype=DOUBLE, requires_grad=True)
    law = SelectedGamma(selected, (2.0, rate), INACTIVE)
    value = torch.tensor([0.7, 300.0], dtype=DOUBLE)
    total = law.log_prob(value)
    plain = SelectedGamma(selected.detach(), (2.0, rate), INACTIVE).log_prob(value)
    torch.testing.assert_close(total, plain, **EXACT)
    for_support, for_rate = torch.autograd.grad(total.sum(), (selected, rate))
    (plain_for_rate,) = torch.autograd.grad(plain.sum(), rate)
    active, inactive = dist.Gamma(2.0, rate), dist.Gamma(*(torch.tensor(p) for p in INACTIVE))
    difference = (active.log_prob(value) - inactive.log_prob(value)).detach()
    torch.testing.assert_close(for_support, difference, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(for_rate, plain_for_rate, **EXACT)


def test_both_take_plates() -> None:
    def model() -> None:
        with pyro.plate("many", 4):
            support = pyro.sample("s", StraightThroughBernoulli(0.5, torch.zeros(3)).to_event(1))
            pyro.sample("rho", SelectedGamma(support[0], ACTIVE, INACTIVE).to_event(1))

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["s"]["value"].shape == trace.nodes["rho"]["value"].shape == (4, 3)
    assert trace.nodes["rho"]["log_prob"].shape == (4,)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperatures_out_of_range(temperature: float) -> None:
    with pytest.raises(InvalidArgumentError, match="temperature is out of range; given: "):
        StraightThroughBernoulli(temperature, torch.zeros(2))
