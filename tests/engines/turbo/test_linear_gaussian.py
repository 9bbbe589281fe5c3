"""Exact weights: closed forms against dense linear algebra, monotone ELBO, recovery of a
clustered support.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.engines.turbo.linear_gaussian import GaussianPosterior, LinearGaussianState
from pyro_turbovbi.errors import UnsupportedError

ANNEALING_OFF = engines.SpikeAnnealing(start=1.0, concentration=1.0)


def problem(seed: int = 0, rows: int = 12, columns: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64) / rows**0.5
    w = torch.zeros(columns, dtype=torch.float64)
    w[2:6] = torch.tensor([1.0, -0.8, 0.9, 1.2], dtype=torch.float64)
    return x, x @ w + 0.05 * torch.randn(rows, generator=generator, dtype=torch.float64)


def state(support: supports.Support, columns: int = 30, **settings: object) -> LinearGaussianState:
    net = nn.Linear(columns, 1, bias=False).double()
    prior = priors.ThreeLayer(support, dist.Gamma(1.0, 1.0), dist.Gamma(1.0, 1e-3))
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(0.05, learn=False), prior=prior)
    return LinearGaussianState(bnn, engines.Turbo(weights="exact", **settings), 50)  # type: ignore[arg-type]


def dense(x: Tensor, y: Tensor, precision: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    covariance = torch.linalg.inv(precision.diag() + x.T @ x / noise**2)
    return covariance @ x.T @ y / noise**2, covariance


def test_posterior_equals_dense_inverse() -> None:
    (x, y), noise = problem(), 0.05
    precision = torch.rand(2, 30, dtype=torch.float64) * 50 + 0.5
    fitted = GaussianPosterior.fit(x, torch.stack([y, -y], 1), precision, noise)
    for k, target in enumerate((y, -y)):
        mean, covariance = dense(x, target, precision[k], noise)
        torch.testing.assert_close(fitted.mean[k], mean, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(fitted.variance[k], covariance.diagonal(), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(
            fitted.output_variance[k], (x @ covariance @ x.T).diagonal(), rtol=1e-7, atol=1e-10
        )
    log_dets = [torch.logdet(dense(x, y, p, noise)[1]) for p in precision]
    torch.testing.assert_close(fitted.log_det, torch.stack(log_dets).sum(), rtol=1e-9, atol=1e-9)


def test_draws_have_the_posterior_s_moments() -> None:
    (x, y), noise = problem(columns=6), 0.05
    precision = torch.linspace(1.0, 20.0, 6, dtype=torch.float64)[None]
    fitted = GaussianPosterior.fit(x, y[:, None], precision, noise)
    mean, covariance = dense(x, y, precision[0], noise)
    draws = torch.stack([fitted.draw()[0] for _ in range(4000)])
    error = (covariance.diagonal() / len(draws)).sqrt()
    assert bool(((draws.mean(0) - mean).abs() < 5 * error).all())
    ratio = draws.T.cov().diagonal() / covariance.diagonal()
    assert bool(((ratio - 1).abs() < 5 * math.sqrt(2 / len(draws))).all())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("support", [supports.Chain(0.15, 3.0), supports.Independent(0.15)])
def test_exact_steps_never_lower_the_elbo(seed: int, support: supports.Support) -> None:
    x, y = problem(seed)
    engine = state(support, damping=0.0, annealing=ANNEALING_OFF)
    losses = [engine.step(x, y) for _ in range(60)]
    gains = -torch.tensor(losses).diff()
    assert bool((gains > -1e-8 * abs(losses[0])).all())
    assert losses[-1] < losses[0] - 1.0
    assert float(gains[-1]) < 1e-3


def test_elbo_never_falls_with_learned_noise_and_bias() -> None:
    x, y = problem()
    net = nn.Linear(30, 1).double()
    prior = priors.ThreeLayer(
        supports.Chain(0.15, 3.0), dist.Gamma(1.0, 1.0), dist.Gamma(1.0, 1e-3)
    )
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(0.3), prior=prior)
    settings = engines.Turbo(weights="exact", damping=0.0, annealing=ANNEALING_OFF)
    engine = LinearGaussianState(bnn, settings, 50)
    losses = torch.tensor([engine.step(x, y + 0.7) for _ in range(40)])
    assert bool((losses.diff() < 1e-7).all())
    assert float(bnn.net.bias.detach()) == pytest.approx(0.7, abs=0.2)


def test_a_frozen_bias_stays() -> None:
    x, y = problem()
    net = nn.Linear(30, 1).double()
    net.bias.requires_grad_(False).fill_(0.4)
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(0.3), prior=priors.ThreeLayer())
    engine = LinearGaussianState(bnn, engines.Turbo(weights="exact"), 50)
    for _ in range(3):
        engine.step(x, y + 0.7)
    assert float(bnn.net.bias) == 0.4  # type: ignore[arg-type]


def test_elbo_never_falls_when_hyper_parameters_are_learned() -> None:
    """EM steps of the slab's rate and the chain's transitions, on top of exact coordinate steps."""
    x, y = problem()
    plain = state(supports.Chain(0.15, 3.0), damping=0.0, annealing=ANNEALING_OFF)
    learned = state(
        supports.Chain(0.15, 3.0), damping=0.0, annealing=ANNEALING_OFF, learn_hyper=True
    )
    losses = torch.tensor([learned.step(x, y) for _ in range(60)])
    assert bool((losses.diff() < 1e-7).all())
    assert float(losses[-1]) < min(plain.step(x, y) for _ in range(60)) - 0.1


def test_elbo_is_below_the_exact_log_evidence() -> None:
    """For a fixed precision (Gaussian prior) the bound is tight: it is the marginal likelihood
    of the regression.
    """
    x, y = problem(columns=6)
    net = nn.Linear(6, 1, bias=False).double()
    bnn = ptv.lift(
        net, likelihood=likelihoods.Gaussian(0.05, learn=False), prior=priors.Normal(0.7)
    )
    engine = LinearGaussianState(bnn, engines.Turbo(weights="exact"), 5)
    covariance = 0.05**2 * torch.eye(len(x)).double() + 0.49 * x @ x.T
    evidence = torch.distributions.MultivariateNormal(
        torch.zeros(len(x)).double(), covariance
    ).log_prob(y)
    assert engine.step(x, y) == pytest.approx(-float(evidence), rel=1e-6)


@pytest.mark.parametrize(
    ("net", "likelihood"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)), likelihoods.Gaussian()),
        (nn.Linear(3, 2), likelihoods.Categorical()),
        (nn.Linear(3, 2), likelihoods.Gaussian(heteroscedastic=True)),
    ],
)
def test_other_models_are_refused(net: nn.Module, likelihood: likelihoods.Likelihood) -> None:
    bnn = ptv.lift(net, likelihood=likelihood, prior=priors.ThreeLayer())
    with pytest.raises(UnsupportedError, match="exact weights need a linear-Gaussian model"):
        LinearGaussianState(bnn, engines.Turbo(weights="exact"), 5)
