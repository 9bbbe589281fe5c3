"""Two small fits: a classifier under a support prior, and a regression by SVI."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def classes() -> tuple[Tensor, Tensor]:
    return X, (X[:, 0] > 0).long()


@pytest.fixture(scope="session")
def numbers() -> tuple[Tensor, Tensor]:
    return X, X[:, 1]


@pytest.fixture(scope="session")
def classifier(classes: tuple[Tensor, Tensor]) -> ptv.Fit:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    prior = priors.ThreeLayer(supports.Chain(density=0.5, mean_run=2.0))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    return ptv.fit(bnn, classes, epochs=3, batch_size=20, progress=False)


@pytest.fixture(scope="session")
def regression(numbers: tuple[Tensor, Tensor]) -> ptv.Fit:
    bnn = ptv.lift(nn.Linear(3, 1), likelihood=likelihoods.Gaussian(), prior=priors.Normal(1.0))
    return ptv.fit(bnn, numbers, engine=engines.SVI(), epochs=2, progress=False)
