"""LeNet-300-100 for MNIST: the fully connected benchmark of compression (266,200 weights)."""

from __future__ import annotations

from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports


def build() -> ptv.BayesianNet:
    """Row chains over each weight matrix; inputs [batch, 784], labels 0 .. 9."""
    net = nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    prior = priors.ThreeLayer(support=supports.Chain(density=0.05, mean_run=10.0))
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
