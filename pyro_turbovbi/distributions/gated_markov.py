"""Gated support: a chain of gates, and chains of elements behind every open gate."""

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
from pyro_turbovbi.kernels import (
    ChainLaw,
    GatedTransitions,
    chain_log_evidence,
    gated_posterior,
)
from pyro_turbovbi.kernels.baum_welch import maximise_chain_law
from pyro_turbovbi.kernels.prior import chain_log_prob, sample_chains

_CERTAIN = 1e3  # nats; a gate that must be open is given this much evidence, which is taken off


class GatedMarkovSupport(SupportDistribution):
    """A stationary chain of gates along one dim; behind each, elements that are off with it.

    Elements behind a closed gate are inactive. Behind an open gate they form stationary chains. The
    law is a tree: normalised, sampled and solved exactly.

    Args:
        event_shape: Shape of the support tensor, at least two dims.
        gate: Transition probabilities `(p01, p10)` of the gates, numbers or scalar tensors in
            (0, 1].
        within: Transition probabilities `(p01, p10)` of the elements behind an open gate, likewise.
        gate_dim: The dim of the tensor along which the gates run.
        dim: The dim along which the elements' chains run; elements that differ in further dims
            belong to different chains behind the same gate. None is the last of the other dims,
            and for `gate_dim=0` all of them as one (the matrix view of a conv weight).
        validate_args: Whether `log_prob` checks its argument; None is torch's default.

    Raises:
        InvalidArgumentError: If a transition probability is no probability above 0.
        ShapeError: If the support has no such dims or no elements.
    """

    arg_constraints = {  # noqa: RUF012
        "gate_p01": constraints.unit_interval,
        "gate_p10": constraints.unit_interval,
        "p01": constraints.unit_interval,
        "p10": constraints.unit_interval,
    }

    def __init__(
        self,
        event_shape: Sequence[int],
        gate: tuple[Any, Any],
        within: tuple[Any, Any],
        gate_dim: int = 0,
        dim: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        (gate01, gate10), (p01, p10) = gate, within
        self.gate_p01, self.gate_p10 = (
            probability(gate01, "p01 of the gates"), probability(gate10, "p10 of the gates"),
        )  # fmt: skip
        self.p01, self.p10 = probability(p01, "p01"), probability(p10, "p10")
        self.gate_dim, self.dim = gate_dim, dim
        shape = torch.Size(event_shape)
        self._view, self._gate_axis, self._axis = _axes(shape, gate_dim, dim)
        super().__init__(shape, validate_args=validate_args)

    @property
    def laws(self) -> tuple[ChainLaw, ChainLaw]:
        """Laws of the gates and of the elements behind an open gate, as plain floats."""
        gate = ChainLaw(self.gate_p01.item(), self.gate_p10.item())
        return gate, ChainLaw(self.p01.item(), self.p10.item())

    @property
    def gate_density(self) -> Tensor:
        """Stationary probability of an open gate, a scalar in double precision."""
        return self.gate_p01 / (self.gate_p01 + self.gate_p10)

    @property
    def density(self) -> Tensor:
        """Stationary probability of an active element, a scalar in double precision."""
        return self.gate_density * self.p01 / (self.p01 + self.p10)

    def maximise(self, posterior: SupportPosterior) -> GatedMarkovSupport:
        """Baum-Welch M-step on both laws; never lowers the evidence.

        Args:
            posterior: A posterior under this distribution, with `pairwise`.

        Returns:
            A new distribution; every probability is kept within [1e-6, 1 - 1e-6].

        Raises:
            InvalidArgumentError: If the posterior lacks the expected transition counts.
        """
        counts = posterior.pairwise
        if not isinstance(counts, GatedTransitions):
            raise missing_transitions(counts)
        gate, within = self.laws
        gate_p01, gate_p10 = _maximised(gate, counts.gate, counts.gate_start)
        p01, p10 = _maximised(within, counts.within, counts.within_start)
        return self.with_parameters(
            {"gate_p01": gate_p01, "gate_p10": gate_p10, "p01": p01, "p10": p10}
        )

    def with_parameters(self, values: Mapping[str, Any]) -> GatedMarkovSupport:
        """See `SupportDistribution.with_parameters`."""
        new = GatedMarkovSupport(
            self.event_shape,
            (values["gate_p01"], values["gate_p10"]),
            (values["p01"], values["p10"]),
            self.gate_dim,
            self.dim,
            self._validate_args,
        )
        return new.expand(self.batch_shape)

    def _solve(self, llr: Tensor, wanted: Request) -> Solution:
        batch = llr.shape[: llr.dim() - len(self.event_shape)]
        local = llr.reshape(*batch, *self._view)
        gate, within = self.laws
        solved = gated_posterior(
            local,
            gate,
            within,
            gate_dim=self._gate_axis,
            dim=self._axis,
            event_dims=len(self._view),
            pairwise=wanted.pairwise,
            log_evidence=wanted.log_evidence,
            out=wanted.extrinsic.view(local.shape),
        )
        return Solution(
            pairwise=solved.transitions,
            log_evidence=solved.log_evidence,
            gate_log_odds=solved.gate_log_odds.to(llr.dtype),
        )

    def _log_evidence(self, llr: Tensor) -> Tensor:
        batch = llr.shape[: llr.dim() - len(self.event_shape)]
        local = llr.reshape(*batch, *self._view).double()
        lines = local.movedim((self._gate_axis, self._axis), (len(batch), -1))
        of_lines = chain_log_evidence(lines, self.p01, self.p10)
        by_gate = of_lines.reshape(*batch, self._view[self._gate_axis], -1).sum(-1)
        return chain_log_evidence(by_gate, self.gate_p01, self.gate_p10).to(llr.dtype)

    def _draw(self, count: int) -> Tensor:
        gate, within = self.laws
        device = self.p01.device
        view = (count, *self._view)
        length, gates = view[self._axis], view[self._gate_axis]
        lines = sample_chains(length, torch.Size(view).numel() // length, within, device=device)
        others = (*view[: self._axis], *view[len(view) + self._axis + 1 :])
        states = lines.view(length, *others).movedim(0, self._axis)
        opened = sample_chains(gates, count, gate, device=device).T
        inner = [1] * len(self._view)
        inner[self._gate_axis] = gates
        return states * opened.reshape(count, *inner)

    def _total_log_prob(self, value: Tensor) -> Tensor:
        states = value.reshape(-1, *self._view)
        lines = states.movedim((self._gate_axis, self._axis), (1, -1))
        by_gate = lines.reshape(len(lines), lines.shape[1], -1, lines.shape[-1])
        inside = chain_log_prob(by_gate, self.p01, self.p10).sum(-1)
        must_be_open = by_gate.flatten(2).any(-1)
        evidence = torch.where(must_be_open, _CERTAIN, inside)
        total = chain_log_evidence(evidence, self.gate_p01, self.gate_p10)
        return total + torch.where(must_be_open, inside - _CERTAIN, 0.0).sum(-1)


def _maximised(law: ChainLaw, transitions: Tensor, starts: Tensor) -> ChainLaw:
    """The law that fits expected transition counts and starts, summed over the batch, best."""
    zeros, ones = starts.double().reshape(-1, 2).sum(0).tolist()
    return maximise_chain_law(
        law, transitions.double().reshape(-1, 2, 2).sum(0).tolist(), ones, zeros
    )


def _axes(shape: torch.Size, gate_dim: int, dim: int | None) -> tuple[torch.Size, int, int]:
    """The view of a support, and the axes of gates and chains counted from its end."""
    rank = len(shape)
    known = -rank <= gate_dim < rank and (dim is None or -rank <= dim < rank)
    if rank < 2 or not known or (dim is not None and dim % rank == gate_dim % rank):
        raise ShapeError(
            "gates and elements run along no such dims",
            given=f"gate_dim={gate_dim}, dim={dim} of a support of shape {tuple(shape)}",
            accepted="two different dims of a support with at least two dims",
        )
    gate_axis = gate_dim % rank - rank
    if dim is not None:
        return shape, gate_axis, dim % rank - rank
    if gate_axis == -rank:
        return matrix_shape(shape), -2, -1
    return shape, gate_axis, -2 if gate_axis == -1 else -1
