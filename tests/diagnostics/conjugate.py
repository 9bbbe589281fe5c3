"""Bayesian linear regression with known noise: every posterior quantity in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors
from pyro_turbovbi.posterior import DiagonalPosterior, SampledPosterior

POINTS, COLUMNS, NOISE, SCALE = 40, 3, 0.5, 2.0


@dataclass
class PosteriorFit:
    """A net with a posterior that was not fitted but written down."""

    bnn: Any
    posterior: Any
    engine_name: str = "closed form"


def regression(
    points: int = POINTS, columns: int = COLUMNS, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Inputs whose orthogonal columns make the posterior diagonal, and targets."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linalg.qr(torch.randn(points, columns, generator=generator, dtype=torch.float64)).Q
    x = x * points**0.5
    weights = torch.randn(columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(points, generator=generator, dtype=torch.float64)
    return x, x @ weights + NOISE * noise


def linear(columns: int = COLUMNS, prior: priors.Prior | None = None) -> ptv.BayesianNet:
    net = nn.Linear(columns, 1, bias=False, dtype=torch.float64)
    likelihood = likelihoods.Gaussian(NOISE, learn=False).double()
    return ptv.lift(net, likelihood=likelihood, prior=prior or priors.Normal(SCALE))


def exact(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the posterior."""
    covariance = torch.linalg.inv(x.T @ x / NOISE**2 + torch.eye(x.shape[1]) / SCALE**2)
    return covariance @ x.T @ y / NOISE**2, covariance


def exact_fit(x: Tensor, y: Tensor) -> PosteriorFit:
    """A fit whose draws are those of the exact posterior, whatever the inputs."""
    mean, covariance = exact(x, y)
    law = torch.distributions.MultivariateNormal(mean, covariance)
    posterior = SampledPosterior(
        sampler=lambda: {"weight": law.sample()[None]}, center=lambda: {"weight": mean[None]}
    )
    return PosteriorFit(linear(x.shape[1]), posterior)


def diagonal_fit(x: Tensor, y: Tensor, widths: Tensor) -> PosteriorFit:
    """A fit whose scales are those of the exact posterior (of orthogonal inputs) times `widths`."""
    mean, covariance = exact(x, y)
    scales: Mapping[str, Tensor] = {"weight": (covariance.diagonal().sqrt() * widths)[None]}
    return PosteriorFit(linear(x.shape[1]), DiagonalPosterior({"weight": mean[None]}, scales))


def log_evidence(x: Tensor, y: Tensor) -> float:
    """Ln p(y), from the marginal Normal(0, SCALE^2 X X' + NOISE^2 I)."""
    covariance = SCALE**2 * x @ x.T + NOISE**2 * torch.eye(len(x))
    law = torch.distributions.MultivariateNormal(torch.zeros(len(x), dtype=x.dtype), covariance)
    return float(law.log_prob(y))


def leave_one_out(x: Tensor, y: Tensor) -> Tensor:
    """Ln p(y_i | y_-i) by fitting without each point in turn, `[points]`."""
    terms = []
    for i in range(len(x)):
        rest = torch.arange(len(x)) != i
        mean, covariance = exact(x[rest], y[rest])
        variance = NOISE**2 + x[i] @ covariance @ x[i]
        terms.append(torch.distributions.Normal(x[i] @ mean, variance.sqrt()).log_prob(y[i]))
    return torch.stack(terms)
