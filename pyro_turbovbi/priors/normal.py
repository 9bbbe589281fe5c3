"""The Gaussian prior: the baseline of Bayesian neural networks (MacKay, 1992)."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.priors._checks import is_real
from pyro_turbovbi.priors.base import Prior


@dataclass(frozen=True)
class Normal(Prior):
    """Independent weights, w_n ~ Normal(0, scale^2).

    Args:
        scale: Standard deviation, positive.

    Raises:
        InvalidArgumentError: if `scale` is not a positive finite number.

    Source: D. J. C. MacKay, "A practical Bayesian framework for backpropagation networks", 1992.
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        if not is_real(self.scale) or not 0.0 < self.scale < float("inf"):
            raise InvalidArgumentError(
                "scale of a Normal prior is out of range",
                given=self.scale,
                accepted="a positive finite standard deviation",
            )

    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        """Emit the single site ``{name}``. See `Prior.emit`."""
        weight = dist.Normal(like.new_zeros(shape), self.scale).to_event(len(shape))
        return pyro.sample(name, weight)
