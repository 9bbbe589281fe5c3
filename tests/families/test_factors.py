"""Variational factors: moments, entropy, and the optimal q(precision | support)."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_turbovbi import priors, supports
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families import NormalFactor, ThreeLayerFactor, make_factor
from pyro_turbovbi.priors.base import WeightSite


def site(prior: priors.Prior, shape: tuple[int, ...] = (3, 4)) -> WeightSite:
    init = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).view(shape)
    return WeightSite("w", torch.Size(shape), prior, init)


def test_start_is_the_site_s_own_and_the_scale_follows_the_fan_in() -> None:
    factor = NormalFactor(site(priors.Normal(1.0)), init_scale=0.3)
    torch.testing.assert_close(factor.loc.detach().flatten(), torch.linspace(-1, 1, 12).double())
    assert torch.allclose(factor.scale, torch.tensor(0.3 / 4**0.5).double())


def test_entropy_and_second_moment_equal_torch_s() -> None:
    factor = NormalFactor(site(priors.Normal(1.0)), init_scale=0.3)
    with torch.no_grad():
        factor.log_scale.normal_()
    q = torch.distributions.Normal(factor.loc, factor.scale)
    torch.testing.assert_close(factor.entropy(), q.entropy().sum())
    torch.testing.assert_close(factor.second_moment(), q.mean**2 + q.variance)


def test_three_layer_factor_samples_the_optimal_precision() -> None:
    """E[rho | s] of the guide's Gamma is -2 d ln Z_s / d m of the prior's component."""
    prior = priors.ThreeLayer(
        supports.Independent(0.3), dist.Gamma(1.0, 1.0), dist.Gamma(4.0, 1e-3)
    )
    factor = make_factor(site(prior), init_scale=0.3)
    assert isinstance(factor, ThreeLayerFactor)
    trace = pyro.poutine.trace(factor).get_trace()
    support = trace.nodes["w_support"]["value"]
    precision = trace.nodes["w_precision"]["fn"].base_dist
    m = factor.second_moment().detach()
    for active, (a, b) in ((1.0, (1.0, 1.0)), (0.0, (4.0, 1e-3))):
        where = support == active
        expected = (a + 0.5) / (b + m / 2)
        torch.testing.assert_close(precision.mean.detach()[where], expected[where])


def test_support_starts_at_the_prior_s_density() -> None:
    prior = priors.ThreeLayer(supports.Chain(0.2, 3.0))
    factor = make_factor(site(prior), init_scale=0.3)
    assert isinstance(factor, ThreeLayerFactor)
    expected = torch.full((3, 4), 0.2, dtype=torch.float64)
    torch.testing.assert_close(factor.support_log_odds.detach().sigmoid(), expected)


def test_other_priors_are_refused_with_alternatives() -> None:
    class Flat(priors.Prior):
        def emit(self, name: str, shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
            return torch.zeros(shape)

    with pytest.raises(UnsupportedError, match=r"priors.ThreeLayer or priors.Normal, or another"):
        make_factor(site(Flat()), init_scale=0.3)


def test_collapsed_priors_are_refused_by_name() -> None:
    prior = priors.ThreeLayer(supports.Chain(0.2, 3.0), collapse=True)
    with pytest.raises(UnsupportedError) as error:
        make_factor(site(prior), init_scale=0.3)
    message = str(error.value)
    assert "which its prior has summed out" in message
    assert "the same prior with collapse=False" in message
