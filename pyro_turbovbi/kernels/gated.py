"""Exact sum-product for gated chains: a chain of gates, and behind every gate a chain of elements.

A line of the matrix (a row, say, a neuron's incoming weights) has a gate `z_k`; the gates form a
stationary chain. A closed gate (`z_k = 0`) makes its whole line zero; behind an open gate the line
is a stationary chain of its own. This is a tree, so two passes are exact:

    E_k      = ln P(evidence of line k | z_k = 1) - ln P(... | z_k = 0)     log-evidence of a chain
    g        = posterior log-odds of the gates, a chain with evidence E
    logit P(s_n = 1 | all) = logit( sigmoid(g_k) sigmoid(x_n + L_n) )

with `x_n` the extrinsic log-odds of the element within its open line. The extrinsic log-odds with
the gate take the gate's cavity, `g_k` less what the element itself has contributed to `E_k`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.kernels.backends import BackendName, backend_for, buffers
from pyro_turbovbi.kernels.chain import ChainPosterior, chain_posterior, check_dims, check_finite
from pyro_turbovbi.kernels.law import ChainLaw, ChainSummary


class GatedTransitions(NamedTuple):
    """Expected transition counts of gated chains.

    Attributes:
        gate: `[*batch, 2, 2]`, counts of adjacent gates `z = i` then `z = j`.
        gate_start: `[*batch, 2]`, probabilities that the first gate is closed and that it is open.
        within: `[*batch, 2, 2]`, counts of adjacent elements `s = i` then `s = j` of lines with an
            open gate, summed over the lines.
        within_start: `[*batch, 2]`, expected numbers of lines with an open gate that start with a
            zero and with a one.
    """

    gate: Float[Tensor, "*batch 2 2"]
    gate_start: Float[Tensor, "*batch 2"]
    within: Float[Tensor, "*batch 2 2"]
    within_start: Float[Tensor, "*batch 2"]


class GatedPosterior(NamedTuple):
    """Posterior of gated chains given log-likelihood ratios of shape `[*batch, *event]`.

    Attributes:
        llr: `[*batch, *event]`, the log-likelihood ratios as given, not a copy.
        extrinsic: `[*batch, *event]`, posterior log-odds minus `llr`, computed without that
            subtraction.
        gate_log_odds: `[*batch, gates]`, posterior log-odds of an open gate, in double precision.
        log_evidence: `[*batch]` in nats, or None when not asked for.
        transitions: Expected transition counts, or None when not asked for.
    """

    llr: Float[Tensor, "*shape"]
    extrinsic: Float[Tensor, "*shape"]
    gate_log_odds: Float[Tensor, "*batch gates"]
    log_evidence: Float[Tensor, "*batch"] | None
    transitions: GatedTransitions | None

    @property
    def log_odds(self) -> Float[Tensor, "*shape"]:
        """`[*batch, *event]`, posterior log-odds of `s_n = 1`; computed when read."""
        return self.llr + self.extrinsic


@torch.no_grad()
def gated_posterior(
    llr: Float[Tensor, "*shape"],
    gate: ChainLaw,
    within: ChainLaw,
    *,
    gate_dim: int = -2,
    dim: int = -1,
    event_dims: int = 2,
    pairwise: bool = False,
    log_evidence: bool = False,
    out: Float[Tensor, "*shape"] | None = None,
    backend: BackendName = "auto",
) -> GatedPosterior:
    """Exact posterior of a chain of gates, each in front of chains of elements.

    Args:
        llr: `[*batch, *event]`, log-likelihood ratios in nats, one per element.
        gate: Law of the chain of gates.
        within: Law of the chains of elements behind an open gate.
        gate_dim: The dim along which the gates run, counted from the end.
        dim: The dim along which the chains of elements run, counted from the end. Chains that
            differ in further event dims are independent and share a gate.
        event_dims: How many dims at the end belong to one chain of gates; those in front are
            independent problems.
        pairwise: Whether to compute expected transition counts.
        log_evidence: Whether to compute the log-evidence.
        out: A contiguous tensor of the shape and dtype of `llr` that becomes `extrinsic`, so that
            nothing large is allocated.
        backend: What computes it, see `backends`.

    Returns:
        The posterior, in the dtype of `llr`; computed in double precision.

    Raises:
        InvalidArgumentError: If `gate_dim` and `dim` are no two of the event dims.
        NumericalError: If an element of `llr` is not finite.
        ShapeError: If `llr` has too few dims or no elements, or `out` does not fit.
    """
    check_dims(
        llr,
        (gate_dim, dim),
        event_dims,
        shape_problem="gated chains need a dim for the gates and one for the elements",
        dims_problem="gates and elements run along no such dims",
    )
    (extrinsic,) = buffers(llr, (out,))
    check_finite(llr)
    solver = backend_for(llr, backend)
    local, message = llr.detach().contiguous(), solver.workspace(extrinsic)
    lines = solver.update_messages(
        local, None, message, within, dim,
        offset=within.log_odds, pairwise=pairwise, log_evidence=True,
    )  # fmt: skip
    assert lines.log_evidence is not None
    # the gates' dim among those of the lines, where `dim` is missing, and right behind the batch
    here, there = gate_dim if gate_dim > dim else gate_dim + 1, llr.dim() - event_dims
    by_gate = lines.log_evidence.movedim(here, there)
    gates = chain_posterior(
        by_gate.flatten(there + 1).sum(-1) if event_dims > 2 else by_gate.contiguous(),
        gate,
        pairwise=pairwise,
        log_evidence=log_evidence,
        backend=backend,
    )
    log_odds = gates.log_odds
    spread = log_odds.view(*log_odds.shape, *(1,) * (event_dims - 2)).expand(by_gate.shape)
    of_lines = spread.movedim(there, here).contiguous()
    solver.gate_messages(local, message, of_lines, dim)
    first = local.select(dim, 0).double() + message.select(dim, 0)
    evidence, counts = gates.log_evidence, None
    if pairwise:
        counts = _transitions(gates, lines, of_lines.sigmoid(), first.sigmoid(), there)
    return GatedPosterior(
        llr=llr.detach(),
        extrinsic=extrinsic if message is extrinsic else extrinsic.copy_(message),
        gate_log_odds=log_odds,
        log_evidence=None if evidence is None else evidence.to(llr.dtype),
        transitions=counts and GatedTransitions(*(part.to(llr.dtype) for part in counts)),
    )


def _transitions(
    gates: ChainPosterior, lines: ChainSummary, opened: Tensor, first: Tensor, batch: int
) -> GatedTransitions:
    """Counts of the gates, and of the lines weighted by how likely their gates are open.

    `opened` and `first` are the probabilities of an open gate and of an active first element, per
    line; `batch` is the number of batch dims.
    """
    assert gates.transitions is not None
    assert lines.transitions is not None
    gate = gates.log_odds.select(-1, 0).sigmoid()
    within = opened[..., None, None] * lines.transitions
    ones = torch.stack([opened - first, first], -1)
    return GatedTransitions(
        gate=gates.transitions,
        gate_start=torch.stack([1.0 - gate, gate], -1),
        within=within.flatten(batch, -3).sum(batch),
        within_start=ones.flatten(batch, -2).sum(batch),
    )
