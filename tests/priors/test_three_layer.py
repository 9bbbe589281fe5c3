"""The three-layer prior against its definition."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.priors import GammaParameters, ThreeLayer
from pyro_turbovbi.supports import Chain, Grid, Independent, Support

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
