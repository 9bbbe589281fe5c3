"""The optimizer over all parameters: whose rule it follows, and what is refused."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors
from pyro_turbovbi.engines import TurboSettings, TurboVBI
from pyro_turbovbi.engines.turbo.settings import LR
from pyro_turbovbi.errors import InvalidArgumentError

X, Y = torch.ones(4, 3), torch.tensor([0, 1, 1, 0])


def started(optim: Any = None, **settings: Any) -> TurboVBI:
    bnn = ptv.lift(nn.Linear(3, 2), likelihood=likelihoods.Categorical(), prior=priors.Normal())
    run = TurboVBI(bnn, optim, settings=TurboSettings(**settings))
    run.setup(X, Y)
    return run


def test_scales_are_a_group_of_their_own() -> None:
    """With the settings' multiple of the rate; points such as biases are with the means."""
    run = started(lr=0.02, scale_lr=5.0)
    (factor,) = run.guide
    means, scales = run.optimizer.param_groups
    sizes: list[list[torch.Size]] = [[p.shape for p in g["params"]] for g in (means, scales)]
    assert sizes == [[factor.loc.shape, torch.Size([2])], [factor.log_scale.shape]]
    assert scales["params"][0] is factor.log_scale
    assert (means["lr"], scales["lr"]) == pytest.approx((0.02, 0.1))
    assert started().optimizer.param_groups[0]["lr"] == LR


def test_a_user_s_rule_and_arguments_are_used() -> None:
    run = started(pyro.optim.SGD({"lr": 0.5, "momentum": 0.25}), scale_lr=2.0)
    assert isinstance(run.optimizer, torch.optim.SGD)
    means, scales = run.optimizer.param_groups
    assert (means["lr"], means["momentum"]) == (0.5, 0.25)
    assert (scales["lr"], scales["momentum"]) == (1.0, 0.25)
    before: Tensor = next(iter(run.guide)).loc.detach().clone()
    run.step(X, Y)
    assert not torch.equal(next(iter(run.guide)).loc, before)


def test_unusable_optimisers_are_refused(no_type_checks: None) -> None:
    with pytest.raises(InvalidArgumentError, match=r"an optimiser of pyro.optim, or None"):
        TurboVBI(lambda: None, torch.optim.SGD)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="per-parameter optimiser arguments"):
        started(pyro.optim.Adam(lambda name: {"lr": 1e-3}))


def test_options_of_an_optimiser_that_would_be_dropped_are_refused() -> None:
    clipped = pyro.optim.SGD({"lr": 1e-3}, {"clip_norm": 1.0})
    scheduled = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.SGD, "optim_args": {"lr": 1e-3}, "gamma": 0.9}
    )
    for optim in (clipped, scheduled):
        with pytest.raises(InvalidArgumentError, match="schedulers and gradient clipping"):
            TurboVBI(lambda: None, optim)
