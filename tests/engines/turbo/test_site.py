"""State of one weight site: annealing, numbers that are not finite, learned hyper-parameters."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_turbovbi import priors, supports
from pyro_turbovbi.engines import SpikeAnnealing, TurboSettings
from pyro_turbovbi.engines.turbo.site import FixedPrecision, SpikeSlab, make_site
from pyro_turbovbi.errors import NumericalError
from pyro_turbovbi.families import ThreeLayerFactor, make_factor
from pyro_turbovbi.priors.base import WeightSite

SETTINGS = TurboSettings(damping=0.0, annealing=SpikeAnnealing(start=10.0, until=0.8))


def spike_slab(settings: TurboSettings = SETTINGS) -> tuple[SpikeSlab, ThreeLayerFactor]:
    prior = priors.ThreeLayer(
        supports.Chain(0.3, 3.0), dist.Gamma(2.0, 2.0), dist.Gamma(4.0, 4 * 0.003**2)
    )
    init = torch.zeros(2, 40, dtype=torch.float64)
    init[:, :10] = 3.0
    site = WeightSite("w", init.shape, prior, init)
    factor = make_factor(site, init_scale=0.01)
    assert isinstance(factor, ThreeLayerFactor)
    state = make_site(site, factor, settings)
    assert isinstance(state, SpikeSlab)
    return state, factor


def test_annealing_moves_the_guide_s_components_too() -> None:
    state, factor = spike_slab()
    assert state.components.inactive.scale == pytest.approx(0.03)
    state.anneal(0.9)
    assert state.components.inactive.scale == pytest.approx(0.003)
    assert factor.components is state.components


def test_large_weights_are_active_and_zeros_are_not() -> None:
    state, factor = spike_slab()
    assert bool((state.probs[:, :9] > 0.99).all())
    assert bool((state.probs[:, 12:] < 0.5).all())
    torch.testing.assert_close(factor.support_log_odds.detach().sigmoid(), state.probs)


def test_values_that_are_not_finite_stop_an_exchange_before_it_does_harm() -> None:
    state, factor = spike_slab()
    before = state.probs.clone()
    moments = factor.second_moment().detach()
    moments[0, 3] = float("nan")
    with pytest.raises(NumericalError, match="ratios of site 'w' are not all finite"):
        state.exchange(moments)
    assert torch.equal(before, state.probs)


def test_the_slab_s_rate_is_learned_from_active_weights() -> None:
    """The fixed point of the M-step, sum q1 a1 = b1 sum q1 E[rho | s = 1], on weights of size 3."""
    learning = TurboSettings(damping=0.0, learn_hyper=True, annealing=SpikeAnnealing(1.0, 4.0))
    state, factor = spike_slab(learning)
    moments = factor.second_moment().detach()
    for _ in range(200):
        state.exchange(moments)
    (a, b), q = state.components.active, state.probs
    precision = (a + 0.5) / (b + moments / 2)
    assert float((q * precision).sum() * b) == pytest.approx(float(q.sum() * a), rel=1e-3)
    assert b > 4.0


def test_gaussian_site_has_the_closed_form() -> None:
    site = WeightSite("w", torch.Size([3]), priors.Normal(0.5), torch.zeros(3).double())
    factor = make_factor(site, init_scale=0.3)
    state = make_site(site, factor, SETTINGS)
    assert isinstance(state, FixedPrecision)
    q = torch.distributions.Normal(factor.loc, factor.scale)
    prior = torch.distributions.Normal(torch.zeros(3).double(), 0.5 * torch.ones(3).double())
    kl = torch.distributions.kl_divergence(q, prior).sum()
    bound = state.prior_bound(factor.second_moment()) + factor.entropy()
    torch.testing.assert_close(-bound, kl)
