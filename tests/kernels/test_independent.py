from __future__ import annotations

import math

import pytest
import torch

from pyro_turbovbi.kernels import bernoulli_log_evidence


@pytest.mark.parametrize("density", [1e-8, 0.05, 0.5, 1 - 2**-20])
def test_equals_the_direct_formula(density: float) -> None:
    llr = torch.linspace(-30, 30, 61, dtype=torch.float64)
    direct = (1 - density + density * llr.exp()).log()
    value = bernoulli_log_evidence(llr, math.log(density / (1 - density)))
    torch.testing.assert_close(value, direct, rtol=1e-10, atol=1e-10)


def test_is_finite_and_linear_for_large_evidence() -> None:
    llr = torch.tensor([-1e4, 1e4], dtype=torch.float64)
    value = bernoulli_log_evidence(llr, 0.0)
    expected = torch.tensor([math.log(0.5), 1e4 + math.log(0.5)], dtype=torch.float64)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_its_gradient_is_the_posterior_probability() -> None:
    llr = torch.linspace(-9, 9, 7, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(bernoulli_log_evidence(llr, -2.0).sum(), llr)
    torch.testing.assert_close(gradient, (llr - 2.0).sigmoid(), rtol=1e-12, atol=1e-12)
