"""Module A: closed forms against autograd, and the fixed points that tell the two factorisations
apart.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.engines.turbo import module_a
from pyro_turbovbi.priors.three_layer import Components, GammaParameters

COMPONENTS = Components(GammaParameters(1.0, 1.0), GammaParameters(1.0, 1e-4))
M = torch.logspace(-7, 0.5, 25, dtype=torch.float64)


def student_t(m: Tensor, parameters: GammaParameters) -> Tensor:
    """ln Z(m), written as a Student-t density at sqrt(m)."""
    a, b = parameters
    degrees, scale = (torch.tensor(v, dtype=torch.float64) for v in (2 * a, math.sqrt(b / a)))
    return torch.distributions.StudentT(degrees, 0 * scale, scale).log_prob(m.sqrt())


def test_structured_evidence() -> None:
    active, inactive = (student_t(M, c) for c in COMPONENTS)
    result = module_a.structured(M, COMPONENTS)
    torch.testing.assert_close(result.llr, active - inactive, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.base, inactive.sum(), rtol=1e-10, atol=0)
    assert result.precision is None


def test_mixed_precision_is_minus_twice_the_slope_of_the_mixture() -> None:
    """d/dm ln((1 - p) Z_0 + p Z_1) = -E[rho] / 2 at q(s) = its posterior."""
    m = M.clone().requires_grad_()
    log_prior = torch.tensor([0.2, 0.8], dtype=torch.float64).log()
    terms = torch.stack(
        [
            log_prior[0] + student_t(m, COMPONENTS.active),
            log_prior[1] + student_t(m, COMPONENTS.inactive),
        ]
    )
    (slope,) = torch.autograd.grad(terms.logsumexp(0).sum(), m)
    probs = terms.detach().softmax(0)[0]
    precision = module_a.mixed_precision(M, probs, COMPONENTS)
    torch.testing.assert_close(precision, -2 * slope, rtol=1e-8, atol=0)


def test_llr_grows_with_the_weight() -> None:
    llr = module_a.structured(M, COMPONENTS).llr
    assert bool((llr.diff() > 0).all())
    assert llr[0] < 0 < llr[-1]


def mean_field_elbo(m: Tensor, q1: Tensor, log_odds: Tensor) -> Tensor:
    """ELBO of one element under q(rho) q(s), from the definition, with the optimal q(rho) of
    `q1`.
    """
    (a1, b1), (a0, b0) = COMPONENTS
    q_rho = torch.distributions.Gamma(
        q1 * a1 + (1 - q1) * a0 + 0.5, q1 * b1 + (1 - q1) * b0 + m / 2
    )
    log_rho = torch.digamma(q_rho.concentration) - q_rho.rate.log()

    def expected(a: float, b: float) -> Tensor:
        return a * math.log(b) - math.lgamma(a) + (a - 1) * log_rho - b * q_rho.mean

    likelihood = 0.5 * (log_rho - math.log(2 * math.pi) - m * q_rho.mean)
    prior = q1 * (expected(a1, b1) + torch.nn.functional.logsigmoid(log_odds)) + (1 - q1) * (
        expected(a0, b0) + torch.nn.functional.logsigmoid(-log_odds)
    )
    entropy = -torch.xlogy(q1, q1) - torch.xlogy(1 - q1, 1 - q1)
    return likelihood + prior + q_rho.entropy() + entropy


def test_mean_field_update_is_the_elbo_s_own_optimum() -> None:
    """Given q(rho), the new q(s) from L is where the ELBO's terms in q(s) are stationary."""
    m, log_odds = torch.tensor([0.01, 0.3]).double(), torch.tensor([-1.0, 0.5]).double()
    old = torch.tensor([0.3, 0.7]).double()
    result = module_a.mean_field(m, old, COMPONENTS)
    held = torch.sigmoid(log_odds + result.llr)
    elbo = mean_field_elbo(m, old, log_odds).sum()
    # base + sum(q L) + E ln p(s) + H(q(s)) is the same ELBO, at the old q(s)
    entropy = -(torch.xlogy(old, old) + torch.xlogy(1 - old, 1 - old))
    log_prior = old * torch.nn.functional.logsigmoid(log_odds) + (
        1 - old
    ) * torch.nn.functional.logsigmoid(-log_odds)
    rebuilt = result.base + (old * result.llr + log_prior + entropy).sum()
    torch.testing.assert_close(rebuilt, elbo, rtol=1e-10, atol=1e-10)
    slope = result.llr + log_odds - torch.logit(held)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


def fixed_point(start: float, factorisation: str, m: Tensor) -> Tensor:
    """q(s = 1) after many updates of one element from a start, prior log-odds 0."""
    probs = torch.full_like(m, start)
    for _ in range(300):
        if factorisation == "structured":
            llr = module_a.structured(m, COMPONENTS_NARROW).llr
        else:
            llr = module_a.mean_field(m, probs, COMPONENTS_NARROW).llr
        probs = torch.sigmoid(llr)
    return probs


COMPONENTS_NARROW = Components(GammaParameters(1.0, 1.0), GammaParameters(1.0, 1e-6))
WEIGHTS = torch.tensor([0.0, 0.003, 0.03, 0.1, 0.3], dtype=torch.float64)


def test_structured_form_does_not_depend_on_the_start() -> None:
    low, high = (fixed_point(start, "structured", WEIGHTS**2) for start in (0.0, 1.0))
    torch.testing.assert_close(low, high, rtol=0, atol=0)
    assert low[0] < 0.01 < 0.99 < low[-1]


def test_mean_field_stays_where_it_starts() -> None:
    """The documented failure of the published factorisation: both starts are fixed points."""
    low, high = (fixed_point(start, "mean_field", WEIGHTS**2) for start in (0.0, 1.0))
    assert bool((low < 1e-3).all())
    assert bool((high > 1 - 1e-3).all())


@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_rescaling_a_weight_and_its_prior_changes_nothing(scale: float) -> None:
    scaled = Components(*(GammaParameters(a, b * scale**2) for a, b in COMPONENTS))
    llr = module_a.structured(M * scale**2, scaled).llr
    torch.testing.assert_close(llr, module_a.structured(M, COMPONENTS).llr, rtol=1e-9, atol=1e-9)
