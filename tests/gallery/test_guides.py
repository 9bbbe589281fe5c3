"""Guides of the gallery that hold maths of their own: densities and dependencies."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors
from tests.gallery.loading import load


def lifted(prior: priors.Prior) -> ptv.BayesianNet:
    net = nn.Linear(3, 2, bias=False).double()
    return ptv.lift(net, likelihood=likelihoods.Gaussian().double(), prior=prior)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(5, 3).double(), torch.randn(5, 2).double()


def made(name: str, bnn: ptv.BayesianNet) -> Any:
    """The guide after a first run, which creates its parameters."""
    with pyro.settings.context(module_local_params=True):
        guide = load("guides", name).build(bnn)
        guide(*batch())
    return guide


def test_density_of_the_flow_is_that_of_a_change_of_variables() -> None:
    """Against the determinant of the Jacobian that automatic differentiation gives."""
    guide = made("normalizing_flow", lifted(priors.Normal()))
    with torch.no_grad():
        for parameter in guide.network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    base, transforms = guide.get_base_dist(), guide.get_transform()

    def flow(noise: Tensor) -> Tensor:
        for transform in transforms:
            noise = transform(noise)
        return noise

    posterior = guide.get_posterior()
    pyro.set_rng_seed(1)
    drawn = posterior.rsample()
    density = posterior.log_prob(drawn)
    pyro.set_rng_seed(1)
    noise = base.rsample()
    jacobian = torch.autograd.functional.jacobian(flow, noise)
    expected = base.log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(drawn, flow(noise))
    torch.testing.assert_close(density, expected, rtol=1e-9, atol=1e-9)
    assert (jacobian - jacobian.diagonal().diag()).abs().max() > 0.01, "weights depend"


def test_the_flow_starts_at_the_weights_of_the_net() -> None:
    bnn = lifted(priors.Normal())
    guide, start = made("normalizing_flow", bnn), bnn.sites["weight"].init
    assert start is not None
    with pyro.settings.context(module_local_params=True), torch.no_grad():
        draws = torch.stack([guide(*batch())["weight"] for _ in range(200)])
    torch.testing.assert_close(draws.mean(0), start, rtol=0, atol=0.02)
    assert 0.01 < float(draws.std(0).mean()) < 0.04


def test_scales_and_weights_of_the_horseshoe_lean_on_each_other() -> None:
    """With the same noise, a slope moves a value by so much of what it depends on."""
    guide = made("structured_horseshoe", lifted(priors.Horseshoe()))

    def draw() -> dict[str, Tensor]:
        pyro.set_rng_seed(3)
        with pyro.settings.context(module_local_params=True):
            trace = poutine.trace(guide).get_trace(*batch())
        return {name: trace.nodes[name]["value"].detach() for name in trace.stochastic_nodes}

    slopes = dict(guide.deps.named_parameters())
    (to_local,) = (p for n, p in slopes.items() if n.startswith("weight_local"))
    (to_raw,) = (p for n, p in slopes.items() if n.startswith("weight_raw"))
    assert not to_local.any(), "at first a mean-field guide"
    before, loc = draw(), guide.locs.weight_global.detach()
    with torch.no_grad():
        to_local.fill_(0.5)
    after = draw()
    shift = after["weight_local"].log() - before["weight_local"].log()
    expected = 0.5 * (before["weight_global"].log() - loc)
    torch.testing.assert_close(shift, expected.expand(2, 3))
    with torch.no_grad():
        to_raw.fill_(-2.0)
    last = draw()
    deviation = after["weight_local"].log() - guide.locs.weight_local.detach().reshape(2, 3)
    torch.testing.assert_close(last["weight_raw"] - after["weight_raw"], -2.0 * deviation)
