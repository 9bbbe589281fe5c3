"""Draws of a loaded posterior: moments against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_turbovbi.compression import LoadedPosterior
from pyro_turbovbi.errors import InvalidArgumentError


def linear_posterior() -> tuple[LoadedPosterior, torch.Tensor]:
    net = nn.Sequential(nn.Linear(3, 2)).eval()
    net[0].weight.data = torch.tensor([[1.0, 0.0, -2.0], [0.5, 3.0, 0.0]])
    scale = torch.tensor([[0.1, 0.0, 0.3], [0.2, 0.4, 0.0]])
    return LoadedPosterior(net, {"0.weight": scale}), scale


def test_predictions_of_a_linear_net_have_the_moments_of_a_normal() -> None:
    posterior, scale = linear_posterior()
    x = torch.tensor([[1.0, 2.0, -1.0], [0.0, 1.0, 3.0]])
    draws = posterior.predict(x, 20_000, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (20_000, 2, 2)
    sd = (x.square() @ scale.square().T).sqrt()
    error = (draws.mean(0) - posterior.module(x)) / (sd / 20_000**0.5).clamp_min(1e-6)
    assert float(error.detach().abs().max()) < 5
    assert torch.allclose(draws.std(0), sd, rtol=0.03)


def test_cut_weights_stay_zero_and_the_module_stays_as_it_is() -> None:
    posterior, scale = linear_posterior()
    before = posterior.module.state_dict()["0.weight"].clone()
    draw = posterior.draw()["0.weight"]
    assert torch.equal(draw == 0, scale == 0)
    posterior.predict(torch.zeros(1, 3), 2)
    assert torch.equal(posterior.module.state_dict()["0.weight"], before)


def test_a_generator_makes_predictions_repeatable() -> None:
    posterior, _ = linear_posterior()
    x = torch.ones(4, 3)
    one, two = (
        posterior.predict(x, 3, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


def test_the_number_of_draws_is_checked() -> None:
    with pytest.raises(InvalidArgumentError, match="num_samples"):
        linear_posterior()[0].predict(torch.ones(1, 3), 0)
