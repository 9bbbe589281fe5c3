"""ResNet-20 for CIFAR-10: a small net with shortcuts, little of it superfluous (0.27 M weights)."""

from __future__ import annotations

from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports

#: Width and stride of the first block of every stage; a stage has three blocks.
STAGES = ((16, 1), (32, 2), (64, 2))
BLOCKS = 3


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, units: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, units, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(units)
        self.second = nn.Conv2d(units, units, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(units)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != units:
            projection = nn.Conv2d(inputs, units, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(units))

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, inputs, height, width] to [batch, units, height / stride, ...]."""
        hidden = self.first_norm(self.first(x)).relu()
        return (self.second_norm(self.second(hidden)) + self.shortcut(x)).relu()  # type: ignore[no-any-return]


def network(width: float = 1.0) -> nn.Sequential:
    """The plain network.

    Args:
        width: Factor on the number of units of every layer.
    """
    channels = max(1, round(16 * width))
    stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(channels), nn.ReLU()]
    for full, stride in STAGES:
        for number in range(BLOCKS):
            units = max(1, round(width * full))
            layers.append(Block(channels, units, stride if number == 0 else 1))
            channels = units
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def build(width: float = 1.0) -> ptv.BayesianNet:
    """Row chains over kernels seen as matrices (out, in * kh * kw); inputs [batch, 3, 32, 32].

    Args:
        width: Factor on the number of units of every layer.
    """
    prior = priors.ThreeLayer(support=supports.Chain(density=0.2, mean_run=5.0))
    return ptv.lift(network(width), likelihood=likelihoods.Categorical(), prior=prior)
