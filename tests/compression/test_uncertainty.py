"""Draws of a loaded posterior: moments against closed forms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from pyro_turbovbi.compression import LoadedPosterior, compress, load_posterior
from pyro_turbovbi.errors import ArtifactError, InvalidArgumentError, UnsupportedError
from pyro_turbovbi.likelihoods import Categorical, Gaussian, Likelihood


class Own(Gaussian):
    """A likelihood of a user's."""


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


def noisy_line(tmp_path: Path, coding: str, likelihood: Likelihood | None) -> LoadedPosterior:
    """A compressed net y = x0 + x1 / 2 + noise, whose weights are nearly known, taken home."""
    net = nn.Sequential(nn.Linear(3, 1))
    net[0].weight.data = torch.tensor([[1.0, 0.5, 0.0]])
    net[0].bias.data.zero_()
    masks = {"0.weight": torch.tensor([[True, True, False]])}
    scales = {"0.weight": torch.tensor([[0.05, 0.05, 0.0]])}
    small = compress(
        net, masks, torch.randn(8, 3), scales=scales, likelihood=likelihood, measure_latency=False
    )
    small.save(tmp_path / "net.ptv", coding=coding, uncertainty=True)
    return load_posterior(tmp_path / "net.ptv")


@pytest.mark.parametrize("coding", ["plain", "compact"])
def test_intervals_taken_home_cover_what_they_say(coding: str, tmp_path: Path) -> None:
    """Against the closed form of a linear net, and against targets drawn from it."""
    posterior = noisy_line(tmp_path, coding, Gaussian(0.3))
    assert isinstance(posterior.likelihood, Gaussian)
    assert posterior.likelihood.scale == Gaussian(0.3).scale
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 3, generator=rng)
    prediction = posterior.predictive(x, 1000, generator=rng)
    (scale,) = posterior.scales.values()
    exact = (scale[0, 0] ** 2 * x[:, :2].square().sum(1) + 0.3**2).sqrt()
    assert torch.allclose(prediction.std[:, 0], exact, rtol=0.03)
    y = x[:, 0] + x[:, 1] / 2 + 0.3 * torch.randn(2000, generator=rng)
    inside = ((y - prediction.mean[:, 0]).abs() < 1.645 * prediction.std[:, 0]).double().mean()
    assert abs(float(inside) - 0.9) < 0.03  # more than four standard errors
    outputs = posterior.predict(x, 200, generator=rng)[..., 0]
    bare = ((y - outputs.mean(0)).abs() < 1.645 * outputs.std(0)).double().mean()
    assert float(bare) < 0.5, "the control: draws of the net alone are no predictive"


@pytest.mark.parametrize("coding", ["plain", "compact"])
@pytest.mark.parametrize("likelihood", [None, Own()], ids=["none", "own"])
def test_a_file_that_does_not_know_the_noise_says_so(
    coding: str, likelihood: Likelihood | None, tmp_path: Path
) -> None:
    posterior = noisy_line(tmp_path, coding, likelihood)
    assert posterior.likelihood is None
    with pytest.raises(UnsupportedError) as error:
        posterior.predictive(torch.ones(2, 3))
    assert str(error.value) == (
        "the file does not say what the outputs mean; given: likelihood=None; accepted: a file "
        "that Fit.compress(...).save(path, uncertainty=True) wrote, or "
        "dataclasses.replace(posterior, likelihood=...)"
    )
    told = dataclasses.replace(posterior, likelihood=Gaussian(0.3))
    assert told.predictive(torch.ones(2, 3), 4).std.shape == (2, 1)


def test_class_probabilities_are_those_of_the_draws(tmp_path: Path) -> None:
    posterior = dataclasses.replace(linear_posterior()[0], likelihood=Categorical())
    x, rngs = torch.randn(4, 3), [torch.Generator().manual_seed(3) for _ in range(2)]
    probs = posterior.predictive(x, 7, generator=rngs[0]).probs
    wanted = posterior.predict(x, 7, generator=rngs[1]).softmax(-1).mean(0)
    assert torch.allclose(probs, wanted)


@pytest.mark.parametrize("coding", ["plain", "compact"])
def test_only_files_with_uncertainty_hold_the_likelihood(coding: str, tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(3, 1)), torch.randn(8, 3)
    masks = {"0.weight": torch.ones(1, 3)}
    scales = {"0.weight": torch.full((1, 3), 0.1)}
    sizes = {}
    for likelihood in (None, Gaussian(0.3)):
        small = compress(net, masks, x, scales=scales, likelihood=likelihood, measure_latency=False)
        for uncertainty in (False, True):
            path = tmp_path / f"{likelihood is None}{uncertainty}"
            small.save(path, coding=coding, uncertainty=uncertainty)
            sizes[path.name] = path.read_bytes()
    assert sizes["TrueFalse"] == sizes["FalseFalse"]
    assert 0 < len(sizes["FalseTrue"]) - len(sizes["TrueTrue"]) < 200


def test_the_likelihood_is_under_the_checksum(tmp_path: Path) -> None:
    noisy_line(tmp_path, "plain", Gaussian(0.3))
    content = (tmp_path / "net.ptv").read_bytes()
    forged = content.replace(b"Gaussian", b"Gauss_an")
    assert forged != content
    (tmp_path / "net.ptv").write_bytes(forged)
    with pytest.raises(ArtifactError, match="does not have the recorded digest"):
        load_posterior(tmp_path / "net.ptv")


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


@pytest.mark.parametrize("target", ["meta", torch.float64])
def test_draws_follow_the_module_to_another_device_or_type(target: str | torch.dtype) -> None:
    posterior, scale = linear_posterior()
    posterior.module.to(target)
    draw, weight = posterior.draw()["0.weight"], posterior.module.get_parameter("0.weight")
    assert (draw.device, draw.dtype, draw.shape) == (weight.device, weight.dtype, scale.shape)
