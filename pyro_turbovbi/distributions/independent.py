"""Independent support: every element active with the same probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_turbovbi.distributions.support import (
    Request,
    Solution,
    SupportDistribution,
    SupportPosterior,
    probability,
)
from pyro_turbovbi.kernels import RowPosterior, bernoulli_log_evidence
from pyro_turbovbi.kernels.baum_welch import bounded


class IndependentSupport(SupportDistribution):
    """`s_n ~ Bernoulli(density)`, independently.

    Args:
        event_shape: Shape of the support tensor.
        density: Probability of an active element, a number or a scalar tensor in (0, 1].
        validate_args: Whether `log_prob` checks its argument; None is torch's default.

    Raises:
        InvalidArgumentError: If `density` is no probability above 0.
        ShapeError: If the support would have no elements.
    """

    arg_constraints = {"density": constraints.unit_interval}  # noqa: RUF012

    def __init__(
        self, event_shape: Sequence[int], density: Any, validate_args: bool | None = None
    ) -> None:
        self._density = probability(density, "density")
        super().__init__(event_shape, validate_args=validate_args)

    @property
    def density(self) -> Tensor:
        """Probability of an active element, a scalar in double precision."""
        return self._density

    def row_posterior(self, llr: Tensor) -> RowPosterior:
        """See `SupportDistribution.row_posterior`."""
        prior = self.prior_log_odds.item()
        each = bernoulli_log_evidence(llr, prior)
        rows = each.reshape(llr.shape[0], -1).sum(1)
        return RowPosterior(torch.full_like(llr, prior), rows)

    def maximise(self, posterior: SupportPosterior) -> IndependentSupport:
        """The density that fits a posterior best: its mean probability, within [1e-6, 1 - 1e-6].

        Args:
            posterior: A posterior under this distribution.

        Returns:
            A new distribution.
        """
        return self.with_parameters({"density": bounded(float(posterior.probs.double().mean()))})

    def with_parameters(self, values: Mapping[str, Any]) -> IndependentSupport:
        """See `SupportDistribution.with_parameters`."""
        new = IndependentSupport(self.event_shape, values["density"], self._validate_args)
        return new.expand(self.batch_shape)

    def _solve(self, llr: Tensor, wanted: Request) -> Solution:
        prior = self.prior_log_odds.item()
        wanted.extrinsic.fill_(prior)
        if not wanted.log_evidence:
            return Solution()
        batch = llr.shape[: llr.dim() - len(self.event_shape)]
        each = bernoulli_log_evidence(llr.double(), prior)
        return Solution(log_evidence=each.reshape(*batch, -1).sum(-1).to(llr.dtype))

    def _log_evidence(self, llr: Tensor) -> Tensor:
        each = bernoulli_log_evidence(llr.double(), self.prior_log_odds.to(llr.device))
        return each.flatten(llr.dim() - len(self.event_shape)).sum(-1).to(llr.dtype)

    def _draw(self, count: int) -> Tensor:
        return torch.bernoulli(self._density.expand(count, *self.event_shape))

    def _total_log_prob(self, value: Tensor) -> Tensor:
        ones = value.double().flatten(1).sum(1)
        zeros = self.event_shape.numel() - ones
        return ones * self._density.log() + zeros * torch.log1p(-self._density)
