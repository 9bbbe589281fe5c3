"""One hidden layer of 50 units for the UCI regression sets, with learned noise."""

from __future__ import annotations

from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports


def build(features: int = 13) -> ptv.BayesianNet:
    """Independent support; standardised inputs [batch, features] and targets [batch].

    Args:
        features: Number of input features (13: Boston housing).
    """
    net = nn.Sequential(nn.Linear(features, 50), nn.ReLU(), nn.Linear(50, 1))
    prior = priors.ThreeLayer(support=supports.Independent(density=0.2))
    return ptv.lift(net, likelihood=likelihoods.Gaussian(scale=0.5), prior=prior)
