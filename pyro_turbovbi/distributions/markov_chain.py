"""Chain support: active elements come in runs along one dim."""

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
    matrix_shape,
    missing_transitions,
    probability,
)
from pyro_turbovbi.errors import ShapeError
from pyro_turbovbi.kernels import ChainLaw, RowPosterior, chain_log_evidence, chain_posterior
from pyro_turbovbi.kernels.baum_welch import maximise_chain_law
from pyro_turbovbi.kernels.prior import chain_log_prob, sample_chains


class MarkovChainSupport(SupportDistribution):
    """A stationary binary Markov chain along one dim, independent over the others; solved exactly.

    Args:
        event_shape: Shape of the support tensor, at least one dim.
        p01: `P(s_{n+1} = 1 | s_n = 0)`, a number or a scalar tensor in (0, 1].
        p10: `P(s_{n+1} = 0 | s_n = 1)`, likewise; a run of ones has mean length `1 / p10`.
        dim: The dim of the tensor along which the chains run. None is the last dim of the matrix
            view (out, everything else): the last dim of a vector or matrix, all but the first of a
            conv weight.
        validate_args: Whether `log_prob` checks its argument; None is torch's default.

    Raises:
        InvalidArgumentError: If `p01` or `p10` is no probability above 0.
        ShapeError: If the support has no such dim or no elements.
    """

    arg_constraints = {  # noqa: RUF012
        "p01": constraints.unit_interval,
        "p10": constraints.unit_interval,
    }

    def __init__(
        self,
        event_shape: Sequence[int],
        p01: Any,
        p10: Any,
        dim: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.p01, self.p10 = probability(p01, "p01"), probability(p10, "p10")
        self.dim = dim
        shape = torch.Size(event_shape)
        view = shape if dim is not None else matrix_shape(shape)
        axis = -1 if dim is None else dim
        if not -len(view) <= axis < len(view):
            raise ShapeError(
                "no chain can run there",
                given=f"dim {dim} of a support of shape {tuple(shape)}",
                accepted="None or a dim of a support with at least one dim",
            )
        self._view, self._axis = view, axis if axis < 0 else axis - len(view)
        super().__init__(shape, validate_args=validate_args)

    @property
    def law(self) -> ChainLaw:
        """Transition probabilities as plain floats."""
        return ChainLaw(self.p01.item(), self.p10.item())

    @property
    def density(self) -> Tensor:
        """Stationary probability of an active element, a scalar in double precision."""
        return self.p01 / (self.p01 + self.p10)

    @property
    def prior_log_odds(self) -> Tensor:
        """Stationary log-odds of an active element, a scalar in double precision."""
        return self.p01.log() - self.p10.log()

    def row_posterior(self, llr: Tensor) -> RowPosterior:
        """See `SupportDistribution.row_posterior`.

        Raises:
            UnsupportedError: If the chains run along the first dim, across the rows.
        """
        if self._axis == -len(self._view):
            return super().row_posterior(llr)
        solved = chain_posterior(
            llr.reshape(self._view), self.law, dim=self._axis, log_evidence=True
        )
        assert solved.log_evidence is not None
        rows = solved.log_evidence.reshape(llr.shape[0], -1).sum(1)
        return RowPosterior(solved.extrinsic.view(llr.shape), rows)

    def maximise(self, posterior: SupportPosterior) -> MarkovChainSupport:
        """Baum-Welch M-step on both transition probabilities; never lowers the evidence.

        Args:
            posterior: A posterior under this distribution, with `pairwise`.

        Returns:
            A new distribution; both probabilities are kept within [1e-6, 1 - 1e-6].

        Raises:
            InvalidArgumentError: If the posterior lacks the expected transition counts.
        """
        if not isinstance(posterior.pairwise, Tensor):
            raise missing_transitions(posterior.pairwise)
        counts = posterior.pairwise.double().reshape(-1, 2, 2).sum(0).tolist()
        first = posterior.probs.reshape(-1, *self._view).select(self._axis, 0).double()
        ones = float(first.sum())
        p01, p10 = maximise_chain_law(self.law, counts, ones, first.numel() - ones)
        return self.with_parameters({"p01": p01, "p10": p10})

    def with_parameters(self, values: Mapping[str, Any]) -> MarkovChainSupport:
        """See `SupportDistribution.with_parameters`."""
        p01, p10 = values["p01"], values["p10"]
        new = MarkovChainSupport(self.event_shape, p01, p10, self.dim, self._validate_args)
        return new.expand(self.batch_shape)

    def _solve(self, llr: Tensor, wanted: Request) -> Solution:
        batch = llr.shape[: llr.dim() - len(self.event_shape)]
        local = llr.reshape(*batch, *self._view)
        solved = chain_posterior(
            local,
            self.law,
            dim=self._axis,
            pairwise=wanted.pairwise,
            log_evidence=wanted.log_evidence,
            out=wanted.extrinsic.view(local.shape),
        )
        counts, evidence = solved.transitions, solved.log_evidence
        return Solution(
            pairwise=None if counts is None else counts.reshape(*batch, -1, 2, 2).sum(-3),
            log_evidence=None if evidence is None else evidence.reshape(*batch, -1).sum(-1),
        )

    def _log_evidence(self, llr: Tensor) -> Tensor:
        batch = llr.shape[: llr.dim() - len(self.event_shape)]
        local = llr.reshape(*batch, *self._view)
        chains = chain_log_evidence(local, self.p01, self.p10, dim=self._axis)
        return chains.reshape(*batch, -1).sum(-1)

    def _draw(self, count: int) -> Tensor:
        full = (count, *self._view)
        length = full[self._axis]
        chains = torch.Size(full).numel() // length
        states = sample_chains(length, chains, self.law, device=self.p01.device)
        others = (*full[: self._axis], *full[len(full) + self._axis + 1 :])
        return states.view(length, *others).movedim(0, self._axis)

    def _total_log_prob(self, value: Tensor) -> Tensor:
        states = value.reshape(-1, *self._view)
        chains = chain_log_prob(states, self.p01, self.p10, dim=self._axis)
        return chains.reshape(len(value), -1).sum(1)
