"""The three-layer prior with discrete supports summed out: continuous distributions.

Given the support, elements are independent; what is left of it is one sum over all its states,

    ln p(x) = ln sum_s p(s) prod_n p(x_n | s_n) = sum_n ln p(x_n | 0) + ln Z(L)
    L_n     = ln p(x_n | 1) - ln p(x_n | 0)

with the log-evidence ln Z of the support prior, which trees give exactly and with a gradient. Here
x is one of

    precisions  p(rho_n | s_n = i) = Gamma(rho_n; a_i, rate b_i)
    weights     p(w_n | s_n = i)   = Student-t: the Gamma law of the precision integrated out of
                                     Normal(w; 0, 1/rho), ln Z_i(w^2) of `kernels.evidence`

A chain of precisions is a hidden Markov model with two states and Gamma emissions, such as
`pyro.distributions.DiscreteHMM`.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_turbovbi.distributions.support import SupportDistribution, SupportPosterior
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.kernels.evidence import expected_precision, log_evidence, log_prior_evidence

MixtureT = TypeVar("MixtureT", bound="SupportMixture")

GammaPair = tuple[float, float]


class SupportMixture(TorchDistribution):
    """A tensor whose elements have one of two laws each, as a support says that is summed out.

    A genuine Pyro distribution over the whole tensor (one event): continuous, with an exact and
    differentiable `log_prob`, so that every autoguide and NUTS can handle it. Subclasses say what
    an element is, given its Gamma law.

    Args:
        support: Prior of the support; its event shape is the tensor's. It needs an exact
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

    def llr(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Log-likelihood ratios `ln p(x_n | s_n = 1) - ln p(x_n | s_n = 0)` in nats.

        Args:
            value: Elements, any shape.
        """
        active, inactive = self._log_densities(value)
        return active - inactive

    def support_posterior(self, value: Float[Tensor, "*shape"]) -> SupportPosterior:
        """Posterior of the support given the elements, exact.

        Args:
            value: `[*batch, *event]`.

        Raises:
            NumericalError: If an element is not finite.
            ShapeError: If `value` does not end in the event shape.
        """
        llr = self.llr(value.detach())
        return self.support_prior.posterior(llr, pairwise=False, log_evidence=False)

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*lead"]:
        """Log-density of whole tensors; its gradient is the average of those of the two laws.

        Args:
            value: Elements of shape `[*sample, *batch, *event]`.

        Returns:
            `[*sample, *batch]` in nats, in the dtype of `value`.

        Raises:
            UnsupportedError: If the support prior has no exact log-evidence.
        """
        if self._validate_args:
            self._validate_sample(value)
        lead = value.shape[: value.dim() - len(self.event_shape)]
        active, inactive = self._log_densities(value)
        evidence = self.support_prior.log_evidence(active - inactive)
        total = inactive.reshape(*lead, -1).sum(-1) + evidence
        return total.expand(torch.broadcast_shapes(lead, self.batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*draws"]:
        """Draw a support, then precisions, then what an element is.

        Args:
            sample_shape: Shape of independent draws in front of the batch shape.

        Returns:
            Elements of shape `[*sample, *batch, *event]`.
        """
        with torch.no_grad():
            support = self.support_prior.sample(sample_shape).to(self._like) > 0.5
            concentration, rate = (
                torch.where(support, self._like.new_tensor(one), self._like.new_tensor(zero))
                for one, zero in zip(self.active, self.inactive, strict=True)
            )
            return self._of_precision(torch.distributions.Gamma(concentration, rate).sample())

    def expand(self: MixtureT, batch_shape: Sequence[int], _instance: object = None) -> MixtureT:
        """The same distribution over a batch of independent tensors.

        Args:
            batch_shape: The new batch shape.

        Returns:
            A new distribution that shares the parameters.
        """
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        new.support_prior = self.support_prior.expand(batch_shape)
        return new

    @abstractmethod
    def _log_densities(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities of elements under the active and the inactive law, element by element."""

    @abstractmethod
    def _of_precision(self, precision: Tensor) -> Tensor:
        """Elements drawn given precisions of their shape."""


class CollapsedThreeLayer(SupportMixture):
    """A structured mixture of Student-t laws: the marginal of a weight under three layers.

    The gradient of its `log_prob` is `-E[rho_n | w] w_n`. Arguments and errors: see
    `SupportMixture`.
    """

    @property
    def support(self) -> constraints.Constraint:
        """All real tensors."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def _log_densities(self, value: Tensor) -> tuple[Tensor, Tensor]:
        square = value.square()
        return log_evidence(square, *self.active), log_evidence(square, *self.inactive)

    def expected_precision(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """E[rho_n | w], precisions averaged over the support's posterior and their own.

        Args:
            weight: `[*batch, *event]`.

        Raises:
            NumericalError: If a weight is not finite.
            ShapeError: If `weight` does not end in the event shape.
        """
        probs, square = self.support_posterior(weight).probs, weight.detach().square()
        active = expected_precision(square, *self.active)
        return torch.lerp(expected_precision(square, *self.inactive), active, probs)

    def _of_precision(self, precision: Tensor) -> Tensor:
        return torch.randn_like(precision) * precision.rsqrt()


class CollapsedPrecision(SupportMixture):
    """A structured mixture of Gamma laws: the marginal of the precisions, their support summed out.

    On a chain the law of Pyro's `DiscreteHMM` with Gamma emissions, in a fraction of its time; and
    the same on every other tree. Arguments and errors: see `SupportMixture`.
    """

    @property
    def support(self) -> constraints.Constraint:
        """All positive tensors."""
        return constraints.independent(constraints.positive, len(self.event_shape))

    def _log_densities(self, value: Tensor) -> tuple[Tensor, Tensor]:
        log_value = value.log()
        return (
            log_prior_evidence(log_value, value, *self.active),
            log_prior_evidence(log_value, value, *self.inactive),
        )

    def _of_precision(self, precision: Tensor) -> Tensor:
        return precision
