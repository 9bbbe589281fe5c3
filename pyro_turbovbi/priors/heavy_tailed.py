"""Independent priors with heavier tails than the normal: Laplace and Student's t."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_turbovbi.priors._checks import positive
from pyro_turbovbi.priors.base import Prior


@dataclass(frozen=True)
class Laplace(Prior):
    """Independent weights, w_n ~ Laplace(0, scale): an L1 penalty of strength 1 / scale.

    Pruning: at the exact mode some weights are zero, and these are what the author prunes. An
    optimiser such as Adam only moves to and fro around them, and a posterior over weights has no
    zeros at all, so every weight stays by default; ``keep=`` ranks the weights.

    Args:
        scale: Mean absolute value, positive; the standard deviation is sqrt(2) times that.

    Raises:
        InvalidArgumentError: if `scale` is not a positive finite number.

    Source: P. M. Williams, "Bayesian regularization and pruning using a Laplace prior", Neural
    Computation 7(1):117-143, 1995.
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        positive(self, "scale")

    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        """Emit the single site ``{name}``. See `Prior.emit`."""
        weight = dist.Laplace(like.new_zeros(shape), self.scale)
        return pyro.sample(name, weight.to_event(len(shape)))


@dataclass(frozen=True)
class StudentT(Prior):
    """Independent weights, w_n ~ StudentT(df, 0, scale).

    Pruning: the authors have no rule, so every weight stays by default; ``keep=`` ranks the
    weights.

    Args:
        df: Degrees of freedom, positive; the standard deviation exists above 2.
        scale: Scale, positive.

    Raises:
        InvalidArgumentError: if `df` or `scale` is not a positive finite number.

    Source: V. Fortuin and others, "Bayesian neural network priors revisited", ICLR 2022, who find
    that the weights of trained fully connected nets are distributed so.
    """

    df: float = 3.0
    scale: float = 0.1

    def __post_init__(self) -> None:
        positive(self, "df", "scale")

    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        """Emit the single site ``{name}``. See `Prior.emit`."""
        weight = dist.StudentT(self.df, like.new_zeros(shape), self.scale)
        return pyro.sample(name, weight.to_event(len(shape)))
