"""A loaded network that still knows how uncertain its weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.likelihoods import Likelihood

if TYPE_CHECKING:
    from pyro_turbovbi.posterior import Prediction


@dataclass(frozen=True, eq=False)
class LoadedPosterior:
    """Independent normal weights around a compressed network.

    Attributes:
        module: The network with the posterior means, in evaluation mode.
        scales: Posterior standard deviations by parameter name, to the accuracy of the file (9 %);
            parameters without them are points.
        likelihood: What the outputs mean, with the noise that belongs to them; None if the file
            does not say: it is an older one, or the likelihood was none of this package.
    """

    module: nn.Module
    scales: Mapping[str, Tensor]
    likelihood: Likelihood | None = None

    def draw(self, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """One draw of the uncertain parameters.

        Args:
            generator: Source of randomness; None takes torch's.

        Returns:
            Parameter name to tensor of the parameter's shape, on its device. Weights that were cut
                stay zero.
        """
        means = {name: mean.detach() for name, mean in self.module.named_parameters()}
        return {
            # The module may have been moved since.
            name: torch.normal(means[name], scale.to(means[name]), generator=generator)
            for name, scale in self.scales.items()
        }

    @torch.no_grad()
    def predict(
        self, x: Tensor, num_samples: int = 32, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Outputs under draws of the weights: their spread is the uncertainty of the weights alone.

        What a target may be, noise included, says `predictive`.

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

    def predictive(
        self, x: Tensor, num_samples: int = 32, *, generator: torch.Generator | None = None
    ) -> Prediction:
        """Posterior predictive of the targets, as `Fit.predict` gives it: weights and noise.

        Args:
            x: Inputs, shape [batch, ...].
            num_samples: Draws.
            generator: Source of randomness; None takes torch's.

        Returns:
            The prediction: its `mean` and `std`, or class probabilities `probs`, and `log_prob`.

        Raises:
            InvalidArgumentError: If `num_samples` is not positive.
            UnsupportedError: If there is no likelihood.
        """
        from pyro_turbovbi.posterior import Prediction

        if self.likelihood is None:
            raise UnsupportedError(
                "the file does not say what the outputs mean",
                given="likelihood=None",
                accepted="a file that Fit.compress(...).save(path, uncertainty=True) wrote, or "
                "dataclasses.replace(posterior, likelihood=...)",
            )
        outputs = self.predict(x, num_samples, generator=generator)
        return Prediction(outputs, self.likelihood)
