"""The three-layer prior against its definition."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods
from pyro_turbovbi.distributions import CollapsedThreeLayer
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from pyro_turbovbi.priors import GammaParameters, Normal, ThreeLayer, from_spec, to_spec
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.three_layer import collapsed_support_probs, is_collapsed
from pyro_turbovbi.supports import Blocks, Chain, Gated, Grid, Independent, Support

SUPPORTS = [Independent(0.3), Chain(0.3, 4.0), Grid(0.3, 2.0)]
ACTIVE, INACTIVE = dist.Gamma(2.0, 3.0), dist.Gamma(4.0, 0.01)
every_support = pytest.mark.parametrize("support", SUPPORTS, ids=lambda s: type(s).__name__)


def prior(support: Support) -> ThreeLayer:
    return ThreeLayer(support=support, active=ACTIVE, inactive=INACTIVE)


def gamma_log_prob(a: float, b: float, rho: Tensor) -> Tensor:
    return a * math.log(b) - math.lgamma(a) + (a - 1) * rho.log() - b * rho


@every_support
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 2)])
def test_joint_density_is_the_product_of_the_layers(
    support: Support, shape: tuple[int, ...]
) -> None:
    like = torch.zeros(shape).double()
    trace = poutine.trace(lambda: prior(support).sample("w", shape, init=like)).get_trace()
    s, rho, w = (trace.nodes[n]["value"] for n in ("w_support", "w_precision", "w"))
    assert trace.stochastic_nodes == ["w_support", "w_precision", "w"]
    assert s.shape == rho.shape == w.shape == shape
    assert set(s.unique().tolist()) <= {0.0, 1.0}
    of_precision = torch.where(
        s > 0.5, gamma_log_prob(2.0, 3.0, rho), gamma_log_prob(4.0, 0.01, rho)
    ).sum()
    of_weight = (0.5 * (rho / (2 * math.pi)).log() - 0.5 * rho * w**2).sum()
    of_support = support.distribution(shape).log_prob(s)
    torch.testing.assert_close(
        trace.log_prob_sum(), of_support + of_precision + of_weight, rtol=1e-6, atol=1e-6
    )


@every_support
def test_prior_predictive_has_density_precision_and_weight_scales(support: Support) -> None:
    draws = Predictive(lambda: prior(support).sample("w", (12, 12)), num_samples=20)()
    s, rho, w = draws["w_support"] > 0.5, draws["w_precision"], draws["w"]
    per_draw = s.float().flatten(1).mean(1)
    if not isinstance(support, Grid):  # a grid's density is that of its chains, not its marginal
        assert abs(float(per_draw.mean()) - 0.3) < 5 * float(per_draw.std()) / 20**0.5
    for active, (a, b) in ((True, (2.0, 3.0)), (False, (4.0, 0.01))):
        chosen = rho[s == active]
        error = 5 * (a / b**2 / len(chosen)) ** 0.5
        assert abs(float(chosen.mean()) - a / b) < error
        standardised = w[s == active] * chosen.sqrt()
        assert abs(float(standardised.std()) - 1) < 5 / (2 * len(chosen)) ** 0.5


def test_default_components_scale_with_the_fan_in() -> None:
    narrow, wide = (ThreeLayer().components(torch.Size((10, n))) for n in (4, 400))
    assert narrow.active.scale == pytest.approx(10 * wide.active.scale)
    assert narrow.inactive.scale == pytest.approx(10 * wide.inactive.scale)
    assert narrow.active.concentration == wide.active.concentration == 1.0
    assert narrow.active.scale > 10 * narrow.inactive.scale
    conv, matrix = (ThreeLayer().components(torch.Size(s)) for s in ((8, 2, 5, 5), (8, 50)))
    assert conv == matrix


def test_given_components_replace_the_defaults_one_by_one() -> None:
    shape = torch.Size((10, 4))
    both = prior(Grid()).components(shape)
    assert both.active == pytest.approx(GammaParameters(2.0, 3.0))
    assert both.inactive == pytest.approx(GammaParameters(4.0, 0.01))
    one = ThreeLayer(active=ACTIVE).components(shape)
    assert one.active == both.active
    assert one.inactive == ThreeLayer().components(shape).inactive
    assert both.active.scale == pytest.approx(math.sqrt(3.0 / 2.0))


def test_priors_are_values_and_hold_no_tensor() -> None:
    assert ThreeLayer() == ThreeLayer()
    assert ThreeLayer(support=Chain()) != ThreeLayer(support=Grid())
    assert prior(Grid()) == prior(Grid())
    assert prior(Grid()) != ThreeLayer(support=Grid())
    assert ThreeLayer().discrete
    assert "Chain(density=0.05" in repr(ThreeLayer(support=Chain()))


def test_a_support_of_the_users_own_will_do() -> None:
    class Everything:
        def distribution(self, shape: Any) -> Any:
            return dist.Delta(torch.ones(shape)).to_event(len(shape))

    trace = poutine.trace(lambda: ThreeLayer(support=Everything()).sample("w", (2, 2))).get_trace()
    assert (trace.nodes["w_support"]["value"] == 1).all()


@pytest.mark.parametrize(
    ("made", "given"),
    [
        (dist.Bernoulli(0.1), "Bernoulli of event shape ()"),
        (Chain().distribution(torch.Size([3, 2])), "MarkovChainSupport of event shape (3, 2)"),
        (None, "NoneType"),
    ],
)
def test_inference_needs_a_support_distribution(made: Any, given: str) -> None:
    class Own:
        def distribution(self, _shape: Any) -> Any:
            return made

        def __repr__(self) -> str:
            return "Own()"

    with pytest.raises(UnsupportedError) as error:
        ThreeLayer(support=Own()).support_distribution(torch.Size([2, 2]))
    assert str(error.value) == (
        f"Own() makes no support distribution for a weight; given: {given}; accepted: a "
        "distributions.CustomSupport, or another SupportDistribution, of event shape (2, 2)"
    )


def test_a_grid_needs_a_matrix() -> None:
    with pytest.raises(ShapeError, match="two dims"):
        ThreeLayer(support=Grid()).sample("w", (5,))


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"support": 0.05},
            "support is not a support prior; given: 0.05; accepted: supports.Independent(), "
            "supports.Chain(), supports.Grid(), or an object with .distribution(shape)",
        ),
        (
            {"active": INACTIVE, "inactive": ACTIVE},
            "the active component must allow larger weights than the inactive one; "
            "given: typical weight scales active 0.05, inactive 1.22; "
            "accepted: sqrt(rate / concentration) of active greater than that of inactive",
        ),
        (
            {"active": 1.0},
            "the active component must be one Gamma law on the precision; given: 1.0; "
            "accepted: pyro.distributions.Gamma(concentration, rate) with scalar parameters",
        ),
    ],
)
def test_components_and_support_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        ThreeLayer(**arguments)
    assert str(error.value) == message


def test_components_are_scalar_and_finite() -> None:
    with pytest.raises(InvalidArgumentError, match="inactive component must be one Gamma law"):
        ThreeLayer(inactive=dist.Gamma(torch.ones(3), torch.ones(3)))
    endless = dist.Gamma(torch.tensor(math.inf), 1.0, validate_args=False)
    with pytest.raises(
        InvalidArgumentError, match=r"parameters out of range; given: \(inf, 1\.0\)"
    ):
        ThreeLayer(active=endless)


def test_defaults_and_a_given_component_keep_their_order() -> None:
    """A spike given wider than the default slab of a weight is refused, not silently swapped."""
    wide_spike = ThreeLayer(inactive=dist.Gamma(1.0, 1e9))
    with pytest.raises(InvalidArgumentError, match="must allow larger weights"):
        wide_spike.components(torch.Size((10, 4)))


TREES = [
    Independent(0.3),
    Chain(0.3, 4.0),
    Gated((0.6, 2.0), (0.5, 2.5)),
    Blocks((2, 2), Chain(0.3, 4.0)),
]
every_tree = pytest.mark.parametrize("support", TREES, ids=lambda s: type(s).__name__)


def collapsed(support: Support) -> ThreeLayer:
    return ThreeLayer(support, ACTIVE, INACTIVE, collapse=True)


@every_tree
def test_collapsed_prior_is_one_continuous_site(support: Support) -> None:
    like = torch.zeros(3, 4).double()
    subject = collapsed(support)
    trace = poutine.trace(lambda: subject.sample("w", (3, 4), init=like)).get_trace()
    assert trace.stochastic_nodes == ["w"]
    node = trace.nodes["w"]
    assert isinstance(node["fn"], CollapsedThreeLayer)
    assert node["value"].shape == (3, 4)
    assert node["value"].dtype == torch.float64
    torch.testing.assert_close(
        trace.log_prob_sum(), subject.marginal(torch.Size((3, 4))).log_prob(node["value"])
    )


@every_tree
def test_collapsed_prior_is_the_marginal_of_the_three_layers(support: Support) -> None:
    """Averaged over supports and precisions drawn from the prior, p(w | rho) is p(w)."""
    weight = torch.tensor([[0.02, -0.4], [1.0, 0.1]], dtype=torch.float64)
    count = 100_000
    states = support.distribution((2, 2)).sample((count,)).double()
    (a1, b1), (a0, b0) = collapsed(support).components(torch.Size((2, 2)))
    rho = dist.Gamma(a0 + (a1 - a0) * states, b0 + (b1 - b0) * states).sample()
    density = dist.Normal(0.0, rho.rsqrt()).log_prob(weight).sum((1, 2)).exp()
    error = float(density.std()) / count**0.5
    exact = float(collapsed(support).marginal(torch.Size((2, 2))).log_prob(weight).exp())
    assert abs(float(density.mean()) - exact) < 5 * error
    assert error < 0.1 * exact


def test_discrete_is_a_matter_of_the_instance() -> None:
    plain, summed_out = ThreeLayer(), ThreeLayer(collapse=True)
    assert plain.discrete
    assert not is_collapsed(plain)
    assert not summed_out.discrete
    assert is_collapsed(summed_out)
    assert not is_collapsed(Normal())
    assert plain != summed_out
    assert repr(summed_out).endswith(", collapse=True)")
    assert not copy.deepcopy(summed_out).discrete
    assert dataclasses.replace(summed_out, collapse=False).discrete


@pytest.mark.parametrize("support", [Grid(), Blocks((2, 2), Grid())], ids=["grid", "blocks"])
def test_a_grid_cannot_be_collapsed(support: Support) -> None:
    with pytest.raises(UnsupportedError) as error:
        ThreeLayer(support, collapse=True)
    assert str(error.value) == (
        "a three-layer prior over a grid cannot be collapsed: its normaliser is intractable; "
        f"given: {support!r}; accepted: a support prior that is a tree: supports.Independent(), "
        "supports.Chain(), supports.Gated(), or supports.Blocks() of them; or collapse=False with "
        "engines.Turbo()"
    )


def test_support_probabilities_are_averaged_over_all_draws() -> None:
    subject, shape = collapsed(Chain(0.3, 4.0)), torch.Size((3, 4))
    sites = {
        "w": WeightSite("w", shape, subject, None),
        "v": WeightSite("v", shape, Normal(), None),
    }
    draws = [{"w": torch.randn(2, 5, 3, 4)}, {"w": torch.randn(3, 4)}]
    probs = collapsed_support_probs(sites, draws)
    assert probs is not None
    assert set(probs) == {"w"}
    each = torch.cat([draws[0]["w"].flatten(0, 1), draws[1]["w"][None]])
    law = subject.marginal(shape)
    expected = torch.stack([law.support_posterior(w).probs for w in each]).mean(0)
    torch.testing.assert_close(probs["w"], expected)
    assert collapsed_support_probs({"v": sites["v"]}, draws) is None


def test_rms_scales_follow_the_weight() -> None:
    prior = ThreeLayer(scale="rms")
    init = torch.randn(4, 9, dtype=torch.float64)
    rms = float(init.square().mean().sqrt())
    for factor in (1.0, 30.0):
        active, inactive = prior.bound_to(factor * init).components(init.shape)
        assert active.scale == pytest.approx(50.0 * factor * rms)
        assert inactive.scale == pytest.approx(0.06 * factor * rms)


def test_a_lifted_net_takes_its_layers_rms() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.fill_(2.0)
        net[1].weight.zero_()
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=ThreeLayer(scale="rms"))
    sites = bnn.sites
    first, last = (sites[name].prior for name in ("0.weight", "1.weight"))
    assert isinstance(first, ThreeLayer)
    assert first.scale == pytest.approx(2.0)
    assert last == ThreeLayer(), "a weight of zeros has no rms: the fan-in counts"


def test_rms_scales_need_a_weight() -> None:
    prior = ThreeLayer(scale="rms")
    with pytest.raises(InvalidArgumentError, match="needs the start value"):
        prior.sample("w", (3, 2))
    with pytest.raises(InvalidArgumentError, match="bound_to"):
        prior.components(torch.Size([3, 2]))
    with pytest.raises(InvalidArgumentError, match="no unit of weights"):
        ThreeLayer(scale=-1.0)
    assert from_spec(to_spec(prior)) == prior
