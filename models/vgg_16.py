"""VGG-16 for CIFAR-10 with batch normalisation, a benchmark of heavy compression (15 M weights)."""

from __future__ import annotations

from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports

#: Widths of the convolutions between two poolings.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def network(width: float = 1.0) -> nn.Sequential:
    """The plain network.

    Args:
        width: Factor on the number of units of every layer.
    """
    layers: list[nn.Module] = []
    channels = 3
    for stage in STAGES:
        for full in stage:
            units = max(1, round(width * full))
            convolution = nn.Conv2d(channels, units, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(units), nn.ReLU()]
            channels = units
        layers.append(nn.MaxPool2d(2))
    head = (nn.Flatten(), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 10))
    return nn.Sequential(*layers, *head)


def build(width: float = 1.0) -> ptv.BayesianNet:
    """Row chains over kernels seen as matrices (out, in * kh * kw); inputs [batch, 3, 32, 32].

    Args:
        width: Factor on the number of units of every layer.
    """
    prior = priors.ThreeLayer(support=supports.Chain(density=0.05, mean_run=5.0))
    return ptv.lift(network(width), likelihood=likelihoods.Categorical(), prior=prior)
