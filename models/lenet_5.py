"""LeNet-5-Caffe for MNIST: the convolutional benchmark of compression (430,500 weights)."""

from __future__ import annotations

from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports


def build() -> ptv.BayesianNet:
    """Row chains over kernels seen as matrices (out, in * kh * kw); inputs [batch, 1, 28, 28]."""
    net = nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )
    prior = priors.ThreeLayer(support=supports.Chain(density=0.05, mean_run=5.0))
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
