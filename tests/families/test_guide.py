"""The guide of Turbo-VBI under stock Pyro."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families import TurboGuide, turbo_guide

PRIOR = priors.ThreeLayer(supports.Chain(0.3, 3.0))


def lifted() -> ptv.BayesianNet:
    return ptv.lift(nn.Linear(4, 2), likelihood=likelihoods.Categorical(), prior=PRIOR)


def test_parameters_exist_at_once_and_are_plain() -> None:
    guide = TurboGuide(lifted().sites)
    names = {name for name, _ in guide.named_parameters()}
    assert names == {f"factors.0.{part}" for part in ("loc", "log_scale", "support_log_odds")}
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in guide.parameters())


def test_state_dict_round_trip() -> None:
    first, second = TurboGuide(lifted().sites), TurboGuide(lifted().sites)
    second.load_state_dict(first.state_dict())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_stock_svi_trains_all_of_it() -> None:
    bnn = lifted()
    guide = TurboGuide(bnn.sites)
    before = [p.detach().clone() for p in guide.parameters()]
    svi = SVI(bnn, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
    losses = [svi.step(x, y) for _ in range(5)]
    assert all(torch.isfinite(torch.tensor(loss)) for loss in losses)
    for old, parameter in zip(before, guide.parameters(), strict=True):
        assert not torch.equal(old, parameter.detach())


def test_other_latents_get_an_autoguide_and_params_are_left_alone() -> None:
    def model(x: Tensor, y: Tensor | None = None) -> None:
        w = PRIOR.sample("w", (1, 3))
        offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
        slope = pyro.param("slope", torch.ones(()))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(slope * (x @ w[0]) + offset, 1.0), obs=y)

    x = torch.randn(5, 3)
    guide = turbo_guide(model, x, torch.randn(5))
    trace = pyro.poutine.trace(guide).get_trace(x)
    assert {"w", "w_support", "w_precision", "offset"} <= set(trace.stochastic_nodes)
    assert "slope" not in trace.nodes
    assert set(pyro.get_param_store().keys()) == {"slope"}
    pyro.clear_param_store()


@pytest.mark.parametrize(
    ("around", "name"),
    [
        (poutine.scale(scale=0.1), "poutine.scale"),
        (poutine.mask(mask=torch.tensor(False)), "poutine.mask"),
        (pyro.plate("units", 3), "pyro.plate"),
        (pyro.plate("units", 9, subsample_size=3), "poutine.scale, pyro.plate"),
    ],
)
def test_a_weight_whose_prior_something_around_it_changes_is_refused(
    around: Any, name: str
) -> None:
    def model() -> None:
        with around:
            PRIOR.sample("w", (1, 3))

    with pytest.raises(UnsupportedError) as error:
        turbo_guide(model)
    assert str(error.value) == (
        "Turbo-VBI takes the prior of weight 'w' as it is declared, not as plates, scales and "
        f"masks around it change it; given: prior.sample inside {name}; accepted: plates, scales "
        "and masks around observations and other latents alone; TurboSettings(kl_weight=...) for "
        "a prior that counts less"
    )


def test_weights_of_a_loop_and_observations_under_a_scale_are_fine() -> None:
    def model() -> None:
        weights = [PRIOR.sample(f"w_{i}", (1, 3)) for i in pyro.plate("layers", 2)]
        with pyro.plate("data", 3), poutine.scale(scale=7.0), poutine.mask(mask=torch.ones(3) > 0):
            pyro.sample("y", dist.Normal((weights[0] + weights[1])[0], 1.0), obs=torch.zeros(3))

    assert [factor.name for factor in turbo_guide(model)] == ["w_0", "w_1"]


def test_no_sites_is_an_error() -> None:
    with pytest.raises(UnsupportedError, match="draws no weight from a prior of this package"):
        TurboGuide({})
