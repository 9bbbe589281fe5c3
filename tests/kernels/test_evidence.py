"""Evidences against numerical integration."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats

from pyro_turbovbi.kernels import evidence

COMPONENTS = [(1.0, 1.0), (4.0, 3.6e-5), (1.0, 9e-4), (2.5, 0.3)]


def integrated(m: float, a: float, b: float) -> float:
    """ln of the integral over rho of exp(E ln Normal(w; 0, 1 / rho)) Gamma(rho; a, b), by
    quadrature over ln rho.
    """

    def integrand(log_rho: float) -> float:
        rho = math.exp(log_rho)
        log_normal = 0.5 * (log_rho - math.log(2 * math.pi) - m * rho)
        return math.exp(log_normal + stats.gamma.logpdf(rho, a, scale=1 / b) + log_rho)

    center = math.log((a + 0.5) / (b + 0.5 * m))
    peak = integrand(center)
    value, _ = integrate.quad(
        lambda v: integrand(v) / peak, center - 40, center + 6, limit=400, points=[center]
    )
    return math.log(value) + math.log(peak)


@pytest.mark.parametrize(("a", "b"), COMPONENTS)
@pytest.mark.parametrize("m", [0.0, 1e-6, 1e-2, 1.0])
def test_log_evidence_equals_quadrature(a: float, b: float, m: float) -> None:
    computed = evidence.log_evidence(torch.tensor([m], dtype=torch.float64), a, b)
    assert float(computed) == pytest.approx(integrated(m, a, b), abs=1e-7)


@pytest.mark.parametrize(("a", "b"), COMPONENTS)
def test_log_evidence_is_student_t_at_a_point(a: float, b: float) -> None:
    """At a known weight, m = w^2, the evidence is the Student-t density of section 'collapsed
    prior'.
    """
    w = torch.linspace(-2, 2, 9, dtype=torch.float64)
    student = torch.from_numpy(stats.t.logpdf(w.numpy(), 2 * a, scale=math.sqrt(b / a)))
    torch.testing.assert_close(evidence.log_evidence(w**2, a, b), student, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("a", "b"), COMPONENTS)
def test_expected_precision_is_minus_twice_the_slope(a: float, b: float) -> None:
    m = torch.logspace(-6, 1, 12, dtype=torch.float64, requires_grad=True)
    constant = evidence.log_evidence_constant(a, b)
    total = (constant - (a + 0.5) * (b + m / 2).log()).sum()
    (slope,) = torch.autograd.grad(total, m)
    expected = evidence.expected_precision(m.detach(), a, b)
    torch.testing.assert_close(expected, -2 * slope, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("a", "b"), COMPONENTS)
def test_float32_is_close_to_float64(a: float, b: float) -> None:
    m = torch.logspace(-8, 1, 200, dtype=torch.float64)
    double = evidence.log_evidence(m, a, b)
    single = evidence.log_evidence(m.float(), a, b).double()
    torch.testing.assert_close(single, double, rtol=1e-5, atol=1e-4)


def test_mean_field_evidence_equals_monte_carlo() -> None:
    """E_q[ln Gamma(rho; a, b)] with its two moments against draws from q, within 5 standard
    errors.
    """
    q = torch.distributions.Gamma(torch.tensor(3.0).double(), torch.tensor(0.7).double())
    draws = q.sample((200_000,))
    log_precision = torch.digamma(q.concentration) - q.rate.log()
    computed = evidence.log_prior_evidence(log_precision, q.mean, 4.0, 0.2)
    terms = torch.distributions.Gamma(torch.tensor(4.0).double(), 0.2).log_prob(draws)
    error = terms.std() / len(terms) ** 0.5
    assert abs(float(terms.mean() - computed)) < 5 * float(error)
