"""Closed-form KL terms against draws, quadrature and torch's own."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from benchmarks.frontier_cases.posteriors import (
    JeffreysWeight,
    Normal,
    Weight,
    gamma_kl,
    inverse_gamma_kl,
    log_uniform_kl,
    make_weight,
    standard_kl,
)
from pyro_turbovbi.priors import GroupHorseshoe, GroupNormalJeffreys, LogUniform

DRAWS = 100_000


def normal(loc: Tensor, scale: Tensor) -> Normal:
    q = Normal(loc.double())
    q.log_scale.data = scale.double().log()
    return q


def drawn_kl(q: Normal, log_density: dist.TorchDistribution) -> Tensor:
    """KL of a log-normal law, from draws of the logarithm."""
    law = dist.LogNormal(q.loc.detach(), q.log_scale.detach().exp())
    draws = law.sample((DRAWS,))
    return (law.log_prob(draws) - log_density.log_prob(draws)).mean(0).sum()


def test_normal_values() -> None:
    q = normal(torch.tensor([0.3, -2.0]), torch.tensor([0.5, 1.5]))
    law = torch.distributions.Normal(q.loc, q.log_scale.exp())
    exact = torch.distributions.kl_divergence(law, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(standard_kl(q), exact)


def test_log_normal_scales() -> None:
    q = normal(torch.tensor([-1.0, 0.2]), torch.tensor([0.1, 0.4]))
    half = torch.tensor(0.5).double()
    for kl, law in (
        (gamma_kl(q, 3.0), dist.Gamma(half, 3.0)),
        (inverse_gamma_kl(q), dist.InverseGamma(half, torch.ones_like(half))),
    ):
        torch.testing.assert_close(kl.detach(), drawn_kl(q, law), atol=0.02, rtol=0.01)


def test_the_log_uniform_law_up_to_a_constant() -> None:
    """Differences of the approximation against quadrature of E_q[ln |w|] - entropy."""
    z = torch.linspace(-9.0, 9.0, 200_001).double()
    mass = torch.softmax(-0.5 * z.square(), 0)

    def exact(loc: float, scale: float) -> float:
        return float((mass * (loc + scale * z).abs().log()).sum()) - torch.tensor(scale).log()

    def approximate(loc: float, scale: float) -> float:
        return float(log_uniform_kl(normal(torch.tensor([loc]), torch.tensor([scale]))).detach())

    pairs = [(1.0, 1e-3), (1.0, 0.1), (1.0, 1.0), (0.5, 2.0)]
    gaps = [approximate(*pair) - exact(*pair) for pair in pairs]
    assert max(gaps) - min(gaps) == pytest.approx(0.0, abs=0.02)


def test_the_horseshoe_agrees_with_the_prior_program() -> None:
    """For a posterior that is all but a point, -ln p of the prior's own sites minus the entropy."""
    prior, start = GroupHorseshoe(global_scale=0.5), torch.randn(3, 4)
    weight = make_weight(prior, start)
    values, entropy = {}, torch.zeros(())
    for name in weight.values:
        q = weight.value(name)
        q.log_scale.data.fill_(-8.0)
        loc = q.loc.detach()
        logarithmic = name != "w_raw"  # the law of the logarithm: entropy takes its Jacobian
        values[name] = loc.exp() if logarithmic else loc
        entropy = entropy + q.entropy().detach() + (loc.sum() if logarithmic else 0.0)
    program = poutine.condition(lambda: prior.emit("w", start.shape, torch.zeros(())), data=values)
    log_p = poutine.trace(program).get_trace().log_prob_sum()
    torch.testing.assert_close(weight.kl().detach(), -log_p - entropy, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("prior", [LogUniform(), GroupNormalJeffreys(), GroupHorseshoe()])
def test_it_starts_at_the_weight_and_keeps_all_of_it(prior: LogUniform) -> None:
    start = torch.randn(5, 4) + 0.1
    weight = make_weight(prior, start)
    torch.testing.assert_close(weight.moments().mean, start)
    assert weight.survivors().all()
    assert torch.isfinite(weight.kl())


def test_moments_are_those_of_the_product() -> None:
    weight = make_weight(GroupNormalJeffreys(), torch.randn(2, 3))
    assert isinstance(weight, JeffreysWeight)
    for name in weight.values:
        weight.value(name).log_scale.data.fill_(-0.7)
    check_moments(weight)
    weight = make_weight(GroupHorseshoe(), torch.randn(2, 3))
    check_moments(weight, means=False)  # log-normal scales stand at their medians


def check_moments(weight: Weight, means: bool = True) -> None:
    scale = weight.scale()
    assert scale is not None
    raw = weight.raw.moments()
    with torch.no_grad():
        z = scale.draw(DRAWS)[:, None, :]
    w = z * (raw.mean + raw.scale * torch.randn(DRAWS, *raw.mean.shape))
    mean, deviation = weight.moments()
    if means:
        torch.testing.assert_close(mean, w.mean(0), atol=0.02, rtol=0.02)
    torch.testing.assert_close(deviation, w.std(0), atol=0.02, rtol=0.05)
