"""Supports that are zeros and ones in value and relaxed in their gradient.

A straight-through sample is `hard + (soft - soft.detach())`: its value is the hard one, its
derivative that of a relaxed Bernoulli sample, soft = sigmoid((log-odds + Logistic noise) / T) with
the same noise. A density of such a value is differentiable in it only if it is written so.
`StraightThroughBernoulli` and `SelectedGamma` are: in every element they are the linear function
through their two values, so that their derivative is the difference of the two.

References: C. J. Maddison, A. Mnih, Y. W. Teh, "The Concrete distribution", ICLR 2017; E. Jang,
S. Gu, B. Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError

Parameters = tuple[Tensor | float, Tensor | float]


class StraightThroughBernoulli(dist.Bernoulli):  # type: ignore[misc]
    """Bernoulli law with relaxed gradients: samples are zeros and ones, `log_prob` is exact.

    Pyro's `RelaxedBernoulliStraightThrough` has the same samples, but the log-density of the
    relaxed value, which no bound may compare with the probability of a support. Here `log_prob` is
    that of the hard value, so an ELBO estimate stays one; its gradient is biased.

    Args:
        temperature: T > 0. Towards 0 the bias of gradients vanishes and their variance grows.
        logits: Log-odds of a one, any shape.
        validate_args: Whether `log_prob` checks its argument; None is torch's default.

    Raises:
        InvalidArgumentError: If the temperature is not positive.
    """

    has_rsample = True

    def __init__(
        self, temperature: float, logits: Tensor, *, validate_args: bool | None = None
    ) -> None:
        if not temperature > 0.0:
            raise InvalidArgumentError(
                "temperature is out of range", given=temperature, accepted="a positive number"
            )
        self.temperature = temperature
        super().__init__(logits=logits, validate_args=validate_args)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*draws"]:
        """Draw zeros and ones that pass gradients on to the log-odds.

        Args:
            sample_shape: Shape of independent draws in front of the batch shape.
        """
        logits: Tensor = self.logits.expand(self._extended_shape(torch.Size(sample_shape)))
        noise = torch.logit(torch.rand_like(logits), eps=torch.finfo(logits.dtype).tiny)
        soft = ((logits + noise) / self.temperature).sigmoid()
        return (logits + noise > 0.0).to(soft) + (soft - soft.detach())

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*draws"]:
        """Draw zeros and ones without gradients; see `rsample`."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def expand(
        self, batch_shape: Sequence[int], _instance: object = None
    ) -> StraightThroughBernoulli:
        """The same law over a larger batch.

        Args:
            batch_shape: The new batch shape.
        """
        return StraightThroughBernoulli(
            self.temperature, self.logits.expand(batch_shape), validate_args=self._validate_args
        )


class SelectedGamma(dist.Gamma):
    """The Gamma law that a support selects for every element: active, or inactive.

    For zeros and ones that need no gradient it is an ordinary Gamma law. On the graph of a
    straight-through support, `log_prob` has the gradient of its linear extension

        s ln Gamma(x; active) + (1 - s) ln Gamma(x; inactive)

    and the same value; samples pass no gradient on to the support.

    Args:
        selected: Zeros and ones, any shape.
        active: Concentration and rate where `selected` is one; they broadcast against it.
        inactive: Concentration and rate elsewhere.
        validate_args: Whether `log_prob` checks its argument; None is torch's default.
    """

    def __init__(
        self,
        selected: Tensor,
        active: Parameters,
        inactive: Parameters,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.selected, self.active, self.inactive = selected, active, inactive
        ones = selected > 0.5
        concentration, rate = (
            torch.where(ones, *(torch.as_tensor(value).to(selected) for value in pair))
            for pair in zip(active, inactive, strict=True)
        )
        super().__init__(
            concentration,  # type: ignore[arg-type]
            rate,  # type: ignore[arg-type]
            validate_args=validate_args,
        )

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*lead"]:
        """Log-density of elements.

        Args:
            value: Positive numbers.

        Returns:
            In nats, element by element.
        """
        total: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        if not self.selected.requires_grad:
            return total
        with torch.no_grad():
            difference = self._log_density(value, self.active) - self._log_density(
                value, self.inactive
            )
        return total + (self.selected - self.selected.detach()) * difference

    def _log_density(self, value: Tensor, parameters: Parameters) -> Tensor:
        concentration, rate = (torch.as_tensor(p).to(self.selected) for p in parameters)
        law: Any = dist.Gamma(concentration, rate, validate_args=False)
        return law.log_prob(value)  # type: ignore[no-any-return]

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> SelectedGamma:
        """The same law over a larger batch.

        Args:
            batch_shape: The new batch shape.
        """
        new = copy.copy(self)
        shape = new._batch_shape = torch.Size(batch_shape)
        new.selected = self.selected.expand(shape)
        new.concentration, new.rate = self.concentration.expand(shape), self.rate.expand(shape)
        return new
