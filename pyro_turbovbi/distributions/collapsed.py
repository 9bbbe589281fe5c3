"""The three-layer prior with supports and precisions summed out: one continuous distribution.

Given its support, a weight is Student-t: integrating the Gamma law of the precision out of
Normal(w; 0, 1/rho) gives ln t(w | s = i) = ln Z_i(w^2) of `kernels.evidence`. What is left of the
support is one sum over all its states,

    ln p(w) = ln sum_s p(s) prod_n t(w_n | s_n) = sum_n ln t(w_n | 0) + ln Z(L)
    L_n     = ln t(w_n | 1) - ln t(w_n | 0)

with the log-evidence ln Z of the support prior, which trees give exactly and with a gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_turbovbi.distributions.support import SupportDistribution, SupportPosterior
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.kernels.evidence import log_evidence

GammaPair = tuple[float, float]


class CollapsedThreeLayer(TorchDistribution):
    """A structured mixture of Student-t laws: the marginal of a weight under three layers.

    A genuine Pyro distribution over the whole weight tensor (one event): continuous, with an exact
    and differentiable `log_prob`, so that every autoguide and NUTS can handle it.

    Args:
        support: Prior of the support; its event shape is the weight's. It needs an exact
            log-evidence, so no grid.
        active: Concentration and rate of the Gamma law on the precision of active weights (units of
            the rate: weight^2).
        inactive: The same of inactive weights.
        like: Scalar tensor whose device and dtype samples have; None is torch's default.
        validate_args: Whether `log_prob` checks its argument; None is torch's default.

    Raises:
        InvalidArgumentError: If a concentration or rate is not positive.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        support: SupportDistribution,
        active: GammaPair,
        inactive: GammaPair,
        *,
        like: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not all(value > 0.0 for value in (*active, *inactive)):
            raise InvalidArgumentError(
                "a Gamma law of the precisions is out of range",
                given=f"active {tuple(active)}, inactive {tuple(inactive)}",
                accepted="pairs (concentration, rate) of positive numbers",
            )
        self.support_prior = support
        self.active, self.inactive = tuple(active), tuple(inactive)
        self._like = torch.empty(()) if like is None else like
        super().__init__(support.batch_shape, support.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """All real tensors."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def llr(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Log-likelihood ratios `ln t(w_n | s_n = 1) - ln t(w_n | s_n = 0)` in nats.

        Args:
            weight: Weights, any shape.
        """
        square = weight.square()
        return log_evidence(square, *self.active) - log_evidence(square, *self.inactive)

    def support_posterior(self, weight: Float[Tensor, "*shape"]) -> SupportPosterior:
        """Posterior of the support given weights, exact.

        Args:
            weight: `[*batch, *event]`.

        Raises:
            NumericalError: If a weight is not finite.
            ShapeError: If `weight` does not end in the event shape.
        """
        llr = self.llr(weight.detach())
        return self.support_prior.posterior(llr, pairwise=False, log_evidence=False)

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*lead"]:
        """Log-density of whole weight tensors; its gradient is `-E[rho_n | w] w_n`.

        Args:
            value: Weights of shape `[*sample, *batch, *event]`.

        Returns:
            `[*sample, *batch]` in nats, in the dtype of `value`.

        Raises:
            UnsupportedError: If the support prior has no exact log-evidence.
        """
        if self._validate_args:
            self._validate_sample(value)
        lead = value.shape[: value.dim() - len(self.event_shape)]
        square = value.square()
        inactive = log_evidence(square, *self.inactive)
        llr = log_evidence(square, *self.active) - inactive
        total = inactive.reshape(*lead, -1).sum(-1) + self.support_prior.log_evidence(llr)
        return total.expand(torch.broadcast_shapes(lead, self.batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*draws"]:
        """Draw a support, then precisions, then weights.

        Args:
            sample_shape: Shape of independent draws in front of the batch shape.

        Returns:
            Weights of shape `[*sample, *batch, *event]`.
        """
        with torch.no_grad():
            support = self.support_prior.sample(sample_shape).to(self._like) > 0.5
            concentration, rate = (
                torch.where(support, self._like.new_tensor(one), self._like.new_tensor(zero))
                for one, zero in zip(self.active, self.inactive, strict=True)
            )
            precision = torch.distributions.Gamma(concentration, rate).sample()
            return torch.randn_like(precision) * precision.rsqrt()

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> CollapsedThreeLayer:
        """The same distribution over a batch of independent weights.

        Args:
            batch_shape: The new batch shape.

        Returns:
            A new distribution that shares the parameters.
        """
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        new.support_prior = self.support_prior.expand(batch_shape)
        return new
