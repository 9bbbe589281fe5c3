"""A 64-300-100-10 perceptron for handwritten digits: the fastest way to see the method work."""

from __future__ import annotations

from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports


def build() -> ptv.BayesianNet:
    """Row chains over each weight matrix; inputs [batch, 64], labels 0 .. 9."""
    net = nn.Sequential(
        nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    prior = priors.ThreeLayer(support=supports.Chain(density=0.05, mean_run=10.0))
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
