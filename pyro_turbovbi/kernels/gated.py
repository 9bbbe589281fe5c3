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

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.kernels.backends import BackendName, backend_for, buffers
from pyro_turbovbi.kernels.chain import ChainPosterior, chain_posterior, check_finite
from pyro_turbovbi.kernels.law import ChainLaw, ChainSummary


class GatedTransitions(NamedTuple):
    """Expected transition counts of gated chains.

    Attributes:
        gate: `[..., 2, 2]`, counts of adjacent gates `z = i` then `z = j`.
        within: `[..., 2, 2]`, counts of adjacent elements `s = i` then `s = j` of lines with an
            open gate, summed over the lines.
    """

    gate: Float[Tensor, "*batch 2 2"]
    within: Float[Tensor, "*batch 2 2"]


class GatedPosterior(NamedTuple):
    """Posterior of gated chains given log-likelihood ratios of shape `[..., rows, columns]`.

    Attributes:
        llr: `[..., rows, columns]`, the log-likelihood ratios as given, not a copy.
        extrinsic: `[..., rows, columns]`, posterior log-odds minus `llr`, computed without that
            subtraction.
        gate_log_odds: `[..., gates]`, posterior log-odds of an open gate, in double precision.
        log_evidence: `[...]` in nats, or None when not asked for.
        transitions: Expected transition counts, or None when not asked for.
    """

    llr: Float[Tensor, "*batch rows columns"]
    extrinsic: Float[Tensor, "*batch rows columns"]
    gate_log_odds: Float[Tensor, "*batch gates"]
    log_evidence: Float[Tensor, "*batch"] | None
    transitions: GatedTransitions | None

    @property
    def log_odds(self) -> Float[Tensor, "*batch rows columns"]:
        """`[..., rows, columns]`, posterior log-odds of `s_n = 1`; computed when read."""
        return self.llr + self.extrinsic


@torch.no_grad()
def gated_posterior(
    llr: Float[Tensor, "*batch rows columns"],
    gate: ChainLaw,
    within: ChainLaw,
    *,
    dim: int = -1,
    pairwise: bool = False,
    log_evidence: bool = False,
    out: GatedPosterior | None = None,
    backend: BackendName = "auto",
) -> GatedPosterior:
    """Exact posterior of a chain of gates, each in front of a chain of elements.

    Args:
        llr: Log-likelihood ratios in nats, one per element.
        gate: Law of the chain of gates.
        within: Law of the chain of elements behind an open gate.
        dim: The dim along which the chains of elements run: -1 for a gate per row, -2 for a gate
            per column.
        pairwise: Whether to compute expected transition counts.
        log_evidence: Whether to compute the log-evidence.
        out: An earlier posterior of this shape and dtype; its `extrinsic` is overwritten and handed
            back, so that nothing large is allocated.
        backend: What computes it, see `backends`.

    Returns:
        The posterior, in the dtype of `llr`; computed in double precision.

    Raises:
        InvalidArgumentError: If `dim` is none of the last two dims.
        NumericalError: If an element of `llr` is not finite.
        ShapeError: If `llr` is no non-empty (batch of) matrix or `out` does not fit.
    """
    dim = _line_dim(llr, dim)
    (extrinsic,) = buffers(llr, (out.extrinsic if out else None,))
    check_finite(llr)
    solver = backend_for(llr, backend)
    local, message = llr.detach().contiguous(), solver.workspace(extrinsic)
    lines = solver.update_messages(
        local, None, message, within, dim,
        offset=within.log_odds, pairwise=pairwise, log_evidence=True,
    )  # fmt: skip
    assert lines.log_evidence is not None
    gates = chain_posterior(
        lines.log_evidence, gate, pairwise=pairwise, log_evidence=log_evidence, backend=backend
    )
    gate_log_odds = gates.log_odds
    solver.gate_messages(local, message, gate_log_odds, dim)
    evidence = gates.log_evidence
    return GatedPosterior(
        llr=llr.detach(),
        extrinsic=extrinsic if message is extrinsic else extrinsic.copy_(message),
        gate_log_odds=gate_log_odds,
        log_evidence=None if evidence is None else evidence.to(llr.dtype),
        transitions=_transitions(gates, lines, llr.dtype) if pairwise else None,
    )


def _transitions(
    gates: ChainPosterior, lines: ChainSummary, dtype: torch.dtype
) -> GatedTransitions:
    """Counts of the gates, and of the lines weighted by how likely their gates are open."""
    assert gates.transitions is not None
    assert lines.transitions is not None
    open_gate = gates.log_odds.sigmoid()[..., None, None]
    within = (open_gate * lines.transitions).sum(-3)
    return GatedTransitions(gates.transitions.to(dtype), within.to(dtype))


def _line_dim(llr: Tensor, dim: int) -> int:
    """The dim of the lines, counted from the end."""
    if llr.dim() < 2 or llr.numel() == 0:
        raise ShapeError(
            "gated chains need rows and columns",
            given=f"log-likelihood ratios of shape {tuple(llr.shape)}",
            accepted="shape [..., rows, columns] with at least one element",
        )
    from_end = dim - llr.dim() if dim >= 0 else dim
    if from_end not in (-1, -2):
        raise InvalidArgumentError(
            "the chains behind the gates run along no such dim", given=dim, accepted=(-1, -2)
        )
    return from_end
