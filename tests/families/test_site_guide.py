"""Guides with one factor per weight site."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine

from pyro_turbovbi import priors
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families import NormalFactor, SiteGuide
from pyro_turbovbi.families.site_guide import three_layer_of
from pyro_turbovbi.priors import Prior, WeightSite

TWO = {
    name: WeightSite(name, torch.Size((2, 3)), priors.Normal(1.0), torch.ones(2, 3))
    for name in ("a", "b")
}


def site(prior: Prior) -> WeightSite:
    return WeightSite("w", torch.Size((2, 3)), prior, None)


def test_every_site_has_its_factor() -> None:
    guide = SiteGuide(TWO, NormalFactor, init_scale=0.1)
    assert [factor.name for factor in guide] == ["a", "b"]
    trace = poutine.trace(guide).get_trace("whatever", the="model takes")
    assert list(trace.stochastic_nodes) == ["a", "b"]
    assert {n: v.shape for n, v in guide().items()} == {"a": (2, 3), "b": (2, 3)}


def test_state_dict_round_trip() -> None:
    first, second = (SiteGuide(TWO, NormalFactor, init_scale=s) for s in (0.1, 0.5))
    second.load_state_dict(first.state_dict())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_sites_is_an_error() -> None:
    with pytest.raises(UnsupportedError, match="draws no weight from a prior of this package"):
        SiteGuide({}, NormalFactor)


def test_the_form_of_a_prior() -> None:
    collapsed = priors.ThreeLayer(collapse="support")
    assert three_layer_of(site(collapsed), collapse="support", guide="it") is collapsed
    assert three_layer_of(site(priors.Normal()), collapse="support", guide="it") is None
    for other in (
        priors.ThreeLayer(),
        priors.ThreeLayer(collapse=True),
        priors.ThreeLayer(gates="shared"),
        priors.Horseshoe(),
    ):
        with pytest.raises(UnsupportedError, match="it cannot handle the prior of weight 'w'"):
            three_layer_of(site(other), collapse="support", guide="it")
