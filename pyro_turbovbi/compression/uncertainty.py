"""A loaded network that still knows how uncertain its weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_turbovbi.errors import InvalidArgumentError


@dataclass(frozen=True, eq=False)
class LoadedPosterior:
    """Independent normal weights around a compressed network.

    Attributes:
        module: The network with the posterior means, in evaluation mode.
        scales: Posterior standard deviations by parameter name, to the accuracy of the file (9 %);
            parameters without them are points.
    """

    module: nn.Module
    scales: Mapping[str, Tensor]

    def draw(self, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """One draw of the uncertain parameters.

        Args:
            generator: Source of randomness; None takes torch's.

        Returns:
            Parameter name to tensor of the parameter's shape. Weights that were cut stay zero.
        """
        means = dict(self.module.named_parameters())
        return {
            name: torch.normal(means[name].detach(), scale, generator=generator)
            for name, scale in self.scales.items()
        }

    @torch.no_grad()
    def predict(
        self, x: Tensor, num_samples: int = 32, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Outputs under draws of the weights: what is a spread here is uncertainty.

        Args:
            x: Inputs, shape [batch, ...].
            num_samples: Draws.
            generator: Source of randomness; None takes torch's.

        Returns:
            Raw outputs of the network (logits, for a classifier), shape [num_samples, batch, ...].
                Probabilities are averaged over draws: `outputs.softmax(-1).mean(0)`.

        Raises:
            InvalidArgumentError: If `num_samples` is not positive.
        """
        if num_samples < 1:
            raise InvalidArgumentError(
                "num_samples is out of range", given=num_samples, accepted="1, 2, ..."
            )
        draws = (self.draw(generator=generator) for _ in range(num_samples))
        return torch.stack([functional_call(self.module, draw, (x,)) for draw in draws])
