"""Maximum a posteriori against the closed form of ridge regression."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors
from pyro_turbovbi.engines import MAP
from pyro_turbovbi.errors import UnsupportedError


def fit_ridge(**options: Any) -> tuple[ptv.Fit, torch.Tensor]:
    """MAP of a linear unit under Normal(0, 0.3^2) weights and noise 0.5, and its closed form."""
    x = torch.randn(30, 3)
    y = x @ torch.tensor([1.0, -2.0, 0.0]) + 0.5 * torch.randn(30)
    bnn = ptv.lift(
        nn.Linear(3, 1, bias=False),
        likelihood=likelihoods.Gaussian(0.5, learn=False),
        prior=priors.Normal(0.3),
    )
    fit = ptv.fit(
        bnn, (x, y), engine=MAP(lr=0.05), epochs=250, batch_size=30, progress=False, **options
    )
    penalty = torch.eye(3) * 0.5**2 / 0.3**2
    return fit, torch.linalg.solve(x.T @ x + penalty, x.T @ y)


def test_map_of_a_linear_unit_is_ridge_regression() -> None:
    fit, expected = fit_ridge()
    torch.testing.assert_close(fit.posterior.mean()["weight"][0], expected, rtol=1e-3, atol=1e-3)


def test_a_point_has_no_spread_and_no_elbo() -> None:
    fit, _ = fit_ridge()
    x = torch.randn(4, 3)
    outputs = fit.predict(x, num_samples=3).outputs
    assert torch.equal(outputs[0], outputs[2])
    torch.testing.assert_close(outputs[0], fit.mean_net()(x).detach())
    assert fit.elbo is None
    assert fit.elbo_kind == "log joint"
    assert fit.engine_name == "map"
    assert int(fit.masks(1 / 3)["weight"].sum()) == 1


def test_the_guide_is_fixed() -> None:
    assert MAP().guide == "auto_delta"
    assert MAP(0.01).lr == 0.01
    assert "guide" not in {f.name for f in dataclasses.fields(MAP) if f.init}
    with pytest.raises(TypeError, match="guide"):
        MAP(guide="auto_normal")  # type: ignore[call-arg]


def test_discrete_supports_are_refused() -> None:
    bnn = ptv.lift(nn.Linear(3, 2), likelihood=likelihoods.Gaussian(), prior=priors.ThreeLayer())
    with pytest.raises(UnsupportedError, match=r"accepted: .*engines\.Turbo\(\)"):
        ptv.fit(bnn, (torch.randn(4, 3), torch.randn(4, 2)), engine=MAP(), progress=False)
