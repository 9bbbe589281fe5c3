"""From latent sites to weights, their moments, and what priors allow."""

from __future__ import annotations

from math import log

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_turbovbi.engines._latents import (
    moments_of,
    point_moments,
    require_inference,
    start_values,
    weights_from,
)
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.priors import GroupHorseshoe, GroupLasso, Horseshoe, Normal, Prior, ThreeLayer
from pyro_turbovbi.priors.base import WeightSite

SHAPE = torch.Size((2, 3))


def sites(**prior: Prior) -> dict[str, WeightSite]:
    return {n: WeightSite(n, SHAPE, p, 0.1 * torch.ones(SHAPE)) for n, p in prior.items()}


def test_moments_over_draws_are_those_of_unconstrained_values() -> None:
    """A log-normal local scale has the moments of its logarithm."""
    found = sites(w=Horseshoe())

    def draw() -> dict[str, Tensor]:
        local = dist.LogNormal(torch.full(SHAPE, -2.0), 0.5).sample()
        return {"w_local": local, "w_raw": 3.0 + 0.1 * torch.randn(SHAPE), "other": local}

    before = torch.get_rng_state()
    moments = moments_of(found, draw, 2000)
    assert torch.equal(torch.get_rng_state(), before), "the random state is left alone"
    assert set(moments) == {"w_local", "w_raw"}
    error = 5 / 2000**0.5
    assert float((moments["w_local"].mean + 2.0).abs().max()) < error * 0.5
    assert float((moments["w_local"].scale / 0.5 - 1.0).abs().max()) < error
    assert float((moments["w_raw"].mean - 3.0).abs().max()) < error * 0.1
    again = moments_of(found, draw, 2000)
    assert torch.equal(again["w_raw"].scale, moments["w_raw"].scale)


def test_a_point_has_moments_without_scale() -> None:
    values = {"w_local": torch.full(SHAPE, 2.0), "w_raw": torch.ones(SHAPE)}
    moments = point_moments(sites(w=Horseshoe()), values)
    torch.testing.assert_close(moments["w_local"].mean, torch.full(SHAPE, log(2.0)))
    assert (moments["w_raw"].scale == 0).all()
    assert not point_moments(sites(w=ThreeLayer()), {"w": torch.ones(SHAPE)}), "nothing continuous"


def test_weights_and_starts_over_several_priors() -> None:
    found = sites(a=Normal(), b=Horseshoe(), c=GroupHorseshoe())
    start = start_values(found)
    for weight in weights_from(found, start).values():
        torch.testing.assert_close(weight, torch.full(SHAPE, 0.1))
    del start["a"], start["c_raw"]
    with pytest.raises(UnsupportedError) as error:
        weights_from(found, start)
    assert str(error.value) == (
        "the guide does not sample every weight site; given: missing a, c_raw; "
        "accepted: a guide with one sample site per latent site of the model"
    )


def test_what_is_refused_and_what_is_offered() -> None:
    require_inference(sites(a=Normal(), b=GroupLasso()), "map", "map")
    with pytest.raises(UnsupportedError, match=r"accepted: engines\.MAP\(\), another prior"):
        require_inference(sites(a=Normal(), b=GroupLasso()), "mcmc", "nuts")
    with pytest.raises(UnsupportedError, match=r"accepted: engines\.SVI\(\), engines\.NUTS\(\)"):
        require_inference(sites(b=GroupHorseshoe()), "map", "map")
    both = sites(a=GroupLasso(), b=GroupHorseshoe())
    with pytest.raises(UnsupportedError, match=r"of weight 'a'; accepted: engines\.MAP"):
        require_inference(both, "vi", "svi")
