from __future__ import annotations

import pytest
import torch

from pyro_turbovbi.distributions import IndependentSupport


def test_every_shape_even_a_scalar() -> None:
    for shape in ((), (3,), (2, 3), (2, 3, 4, 5)):
        distribution = IndependentSupport(shape, 0.2)
        post = distribution.posterior(torch.zeros(shape, dtype=torch.float64))
        torch.testing.assert_close(post.probs, torch.full(shape, 0.2, dtype=torch.float64))
        assert float(post.log_evidence) == pytest.approx(0.0, abs=1e-12)
        assert distribution.sample().shape == shape


def test_the_extrinsic_is_the_prior() -> None:
    llr = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64)
    post = IndependentSupport((3,), 0.2).posterior(llr)
    expected = torch.full((3,), 0.25, dtype=torch.float64).log()
    torch.testing.assert_close(post.extrinsic, expected, rtol=1e-12, atol=1e-12)
    assert post.pairwise is None
    assert post.messages is None


def test_maximise_takes_the_mean_probability() -> None:
    distribution = IndependentSupport((2, 2), 0.5)
    post = distribution.posterior(torch.tensor([[1e4, -1e4], [-1e4, -1e4]]))
    assert float(distribution.maximise(post).density) == pytest.approx(0.25)


def test_log_prob_has_a_gradient_in_the_density() -> None:
    density = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    value = torch.tensor([1.0, 0.0, 0.0])
    IndependentSupport((3,), density).log_prob(value).backward()
    assert float(density.grad) == pytest.approx(1 / 0.2 - 2 / 0.8, rel=1e-6)
