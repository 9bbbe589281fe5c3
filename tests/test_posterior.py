"""Posteriors and predictions against closed forms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.posterior import (
    DiagonalPosterior,
    Posterior,
    Prediction,
    SampledPosterior,
    predict,
)
from pyro_turbovbi.priors import Moments

LOC = {"0.weight": torch.tensor([[1.0, -2.0]]), "b": torch.zeros(1)}
SCALES = {"0.weight": torch.tensor([[0.5, 0.0]]), "b": torch.tensor([2.0])}


def test_diagonal_draws_have_the_declared_moments() -> None:
    posterior = DiagonalPosterior(LOC, SCALES)
    draws = torch.stack([posterior.draw()["0.weight"] for _ in range(4000)])
    assert (draws[..., 1] == -2.0).all(), "scale zero is a point"
    first = draws[:, 0, 0]
    assert abs(float(first.mean()) - 1.0) < 5 * 0.5 / 4000**0.5
    assert abs(float(first.std()) / 0.5 - 1.0) < 5 / (2 * 4000) ** 0.5
    assert posterior.mean() == LOC
    assert posterior.scale() == SCALES
    assert posterior.support_probs() is None
    probs = {"0.weight": torch.tensor([[0.9, 0.1]])}
    assert DiagonalPosterior(LOC, SCALES, probs).support_probs() == probs


def test_posteriors_hand_out_copies_of_their_dictionaries() -> None:
    posterior = DiagonalPosterior(LOC, SCALES, {"b": torch.ones(1)})
    posterior.mean().clear()
    posterior.scale().clear()
    support = posterior.support_probs()
    assert support is not None
    support.clear()
    assert posterior.mean()
    assert posterior.scale()
    assert posterior.support_probs()


def test_sampled_posterior_passes_on_what_it_is_given() -> None:
    counter = iter(range(10))
    plain = SampledPosterior(lambda: {"w": torch.tensor(next(counter))}, lambda: LOC)
    assert [int(plain.draw()["w"]) for _ in range(3)] == [0, 1, 2]
    assert plain.mean() is LOC
    assert plain.scale() is None
    assert plain.support_probs() is None
    full = SampledPosterior(plain.draw, plain.mean, SCALES, {"b": torch.ones(1)})
    assert full.scale() == SCALES
    assert full.support_probs() == {"b": torch.ones(1)}


def test_moments_are_those_of_the_sample_sites() -> None:
    moments = DiagonalPosterior(LOC, SCALES).moments()
    assert list(moments) == list(LOC)
    for name, (mean, scale) in moments.items():
        assert torch.equal(mean, LOC[name])
        assert torch.equal(scale, SCALES[name])
    known = {"w_scale": Moments(torch.ones(1), torch.zeros(1))}
    assert SampledPosterior(lambda: LOC, lambda: LOC).moments() == {}
    assert SampledPosterior(lambda: LOC, lambda: LOC, latents=lambda: known).moments() == known


@pytest.mark.parametrize("likelihood", [likelihoods.Categorical(), likelihoods.Gaussian(0.7)])
def test_predictive_density_is_the_mean_over_draws(likelihood: likelihoods.Likelihood) -> None:
    outputs = torch.randn(4, 5, 3, dtype=torch.float64)
    classes = isinstance(likelihood, likelihoods.Categorical)
    y = torch.randint(3, (5,)) if classes else torch.randn(5, 3, dtype=torch.float64)
    prediction = Prediction(outputs, likelihood)
    by_draw = torch.stack([likelihood.distribution(o).log_prob(y) for o in outputs])
    torch.testing.assert_close(prediction.log_likelihood(y), by_draw)
    torch.testing.assert_close(
        prediction.log_prob(y), by_draw.exp().mean(0).log(), rtol=1e-6, atol=1e-6
    )
    means = outputs.softmax(-1) if classes else outputs
    torch.testing.assert_close(prediction.mean, means.mean(0))
    torch.testing.assert_close(prediction.probs, prediction.mean)


def test_predictive_density_survives_tiny_likelihoods() -> None:
    prediction = Prediction(torch.full((3, 1, 1), 1e3), likelihoods.Gaussian(1.0, learn=False))
    expected = -0.5 * 1e6 - 0.5 * math.log(2 * math.pi)
    assert float(prediction.log_prob(torch.zeros(1))) == pytest.approx(expected, rel=1e-6)


def test_heteroscedastic_predictions() -> None:
    outputs = torch.randn(4, 5, 2, dtype=torch.float64)
    prediction = Prediction(outputs, likelihoods.Gaussian(heteroscedastic=True))
    torch.testing.assert_close(prediction.mean, outputs[..., :1].mean(0))
    y = torch.randn(5, dtype=torch.float64)
    density = torch.distributions.Normal(outputs[..., 0], outputs[..., 1].exp()).log_prob(y)
    torch.testing.assert_close(prediction.log_prob(y), density.exp().mean(0).log())


def test_the_predictive_spread_is_that_of_the_mixture() -> None:
    """The variance of the mixture of the draws' laws, by quadrature over its density."""
    outputs = torch.randn(4, 3, 1, dtype=torch.float64)
    prediction = Prediction(outputs, likelihoods.Gaussian(0.5).double())
    y = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    density = torch.distributions.Normal(outputs.unsqueeze(-1), 0.5).log_prob(y).exp().mean(0)
    mean = torch.trapezoid(density * y, y)
    variance = torch.trapezoid(density * y**2, y) - mean**2
    torch.testing.assert_close(prediction.std, variance.sqrt(), rtol=1e-6, atol=0.0)
    assert not prediction.std.requires_grad


def test_the_predictive_spread_of_counts_and_of_noise_that_the_net_predicts() -> None:
    outputs = torch.randn(5, 3, 2, dtype=torch.float64)
    counts = Prediction(outputs, likelihoods.Poisson())
    rates = outputs.exp()
    torch.testing.assert_close(counts.std, (rates.mean(0) + rates.var(0, unbiased=False)).sqrt())
    noisy = Prediction(outputs, likelihoods.Gaussian(heteroscedastic=True))
    spread = outputs[..., 1:].exp().square().mean(0) + outputs[..., :1].var(0, unbiased=False)
    torch.testing.assert_close(noisy.std, spread.sqrt())


def test_classes_have_no_spread() -> None:
    for likelihood in (likelihoods.Categorical(), likelihoods.Bernoulli()):
        with pytest.raises(UnsupportedError) as error:
            _ = Prediction(torch.randn(2, 3, 4), likelihood).std
        assert str(error.value) == (
            f"classes have no standard deviation; given: {type(likelihood).__name__}; "
            "accepted: .probs, the probability of every class"
        )


def model() -> ptv.BayesianNet:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1))
    return ptv.lift(net, likelihood=likelihoods.Gaussian(), prior=priors.Normal())


def posterior_of(weight: Tensor, scale: float) -> Posterior:
    return DiagonalPosterior({"2.weight": weight}, {"2.weight": torch.full_like(weight, scale)})


@pytest.mark.parametrize("training", [True, False])
def test_predict_runs_in_eval_mode_and_changes_nothing(training: bool) -> None:
    bnn, x = model().train(training), torch.randn(9, 2)
    before = copy.deepcopy(bnn.state_dict())
    weight = torch.tensor([[1.0, 2.0]])
    prediction = predict(bnn, posterior_of(weight, 0.0), x, num_samples=3)
    assert prediction.outputs.shape == (3, 9, 1)
    assert not prediction.outputs.requires_grad
    torch.testing.assert_close(prediction.outputs[0], prediction.outputs[2])
    carrying = bnn.net_with({"2.weight": weight})
    torch.testing.assert_close(prediction.outputs[1], carrying(x).detach())
    assert bnn.training is training
    assert all(torch.equal(value, before[name]) for name, value in bnn.state_dict().items())


def test_predict_restores_the_mode_after_an_error() -> None:
    bnn = model().train()
    with pytest.raises(RuntimeError):
        predict(bnn, posterior_of(torch.ones(1, 2), 0.0), torch.randn(9, 3), num_samples=1)
    assert bnn.training


def test_predict_in_chunks_is_predict_at_once_and_keeps_a_draw_over_the_chunks() -> None:
    bnn, x = model(), torch.randn(9, 2)
    results = []
    for size in (2, 100):
        torch.manual_seed(1)
        posterior = posterior_of(torch.ones(1, 2), 1.0)
        results.append(predict(bnn, posterior, x, num_samples=3, batch_size=size).outputs)
    torch.testing.assert_close(results[0], results[1])
    assert not torch.allclose(results[0][0], results[0][1])


def test_no_samples_means_the_posterior_mean() -> None:
    bnn, x, weight = model(), torch.randn(4, 2), torch.tensor([[1.0, 2.0]])
    prediction = predict(bnn, posterior_of(weight, 5.0), x, num_samples=0)
    assert prediction.outputs.shape == (1, 4, 1)
    carrying = bnn.net_with({"2.weight": weight})
    torch.testing.assert_close(prediction.outputs[0], carrying(x).detach())


def test_named_inputs_are_cut_together() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.linear(a) * b

    bnn = ptv.lift(Sum(), likelihood=likelihoods.Gaussian(), prior=priors.Normal())
    x = {"a": torch.randn(5, 2), "b": torch.randn(5, 1)}
    weights = {"linear.weight": torch.tensor([[1.0, 2.0]])}
    posterior = DiagonalPosterior(weights, {"linear.weight": torch.zeros(1, 2)})
    outputs = predict(bnn, posterior, x, num_samples=1, batch_size=2).outputs
    bias = bnn.points["net.linear.bias"].detach()
    torch.testing.assert_close(outputs[0], (x["a"] @ torch.tensor([[1.0], [2.0]]) + bias) * x["b"])
