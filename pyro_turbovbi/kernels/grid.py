"""Loopy sum-product on the grid: a chain along every row and along every column of a matrix.

With `C(a, b) = p(b | a) / Bernoulli(b; d)`, symmetric because a stationary binary chain is
reversible, the prior is

    p(S)  proportional to  prod_n Bernoulli(s_n; d)  prod_{row pairs} C_row  prod_{column pairs}
    C_column

that is: the chain laws of all rows times those of all columns, divided by Bernoulli(d) per element,
because both families carry the same stationary density. The chain kernel's messages leave that
density out, so it enters once, at the end. Rows are solved exactly given the columns' message and
the other way round; a sweep is one pass of each.

The log-evidence is the Bethe approximation with whole rows and columns as factors,

    ln Z = sum_rows ln Z_row + sum_columns ln Z_column - sum_n ln Z_n

which is stationary at a fixed point of the messages, and exact if either direction has no coupling.
It refers to the unnormalised product above, whose own Bethe normaliser is exactly 1 (zero messages
are a fixed point at llr = 0).

Reference: J. Yedidia, W. Freeman, Y. Weiss, "Constructing free-energy approximations and
generalized belief propagation algorithms", IEEE Trans. Inf. Theory 51(7), 2005.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.kernels.backends import BackendName, backend_for, buffers
from pyro_turbovbi.kernels.chain import check_dims, check_finite
from pyro_turbovbi.kernels.law import ChainLaw, ChainSummary


class GridTransitions(NamedTuple):
    """Expected transition counts of a grid, summed over its rows and over its columns.

    Attributes:
        row: `[*batch, 2, 2]`, counts of neighbours `s = i` then `s = j` along rows.
        column: `[*batch, 2, 2]`, counts of neighbours along columns.
    """

    row: Float[Tensor, "*batch 2 2"]
    column: Float[Tensor, "*batch 2 2"]


class GridPosterior(NamedTuple):
    """Loopy posterior of a grid given log-likelihood ratios of shape `[*batch, *event]`.

    Attributes:
        llr: `[*batch, *event]`, the log-likelihood ratios as given, not a copy.
        extrinsic: `[*batch, *event]`, posterior log-odds minus `llr`, computed without that
            subtraction.
        log_evidence: `[*batch]`, Bethe log-evidence in nats, or None when not asked for.
        transitions: Expected transition counts, or None when not asked for.
        messages: `[*batch, *event]`, what each element's column says about it, in log-odds
            without the stationary prior: all that a warm start needs.
        residual: Largest change of a message in the last sweep, in nats.
        sweeps: Number of sweeps that were done.
    """

    llr: Float[Tensor, "*shape"]
    extrinsic: Float[Tensor, "*shape"]
    log_evidence: Float[Tensor, "*batch"] | None
    transitions: GridTransitions | None
    messages: Float[Tensor, "*shape"]
    residual: float
    sweeps: int

    @property
    def log_odds(self) -> Float[Tensor, "*shape"]:
        """`[*batch, *event]`, posterior log-odds of `s_n = 1`; computed when read."""
        return self.llr + self.extrinsic


@torch.no_grad()
def grid_posterior(
    llr: Float[Tensor, "*shape"],
    row: ChainLaw,
    column: ChainLaw,
    *,
    dims: tuple[int, int] = (-2, -1),
    event_dims: int = 2,
    sweeps: int = 2,
    damping: float = 0.0,
    tolerance: float = 0.0,
    start: Float[Tensor, "*shape"] | None = None,
    pairwise: bool = False,
    log_evidence: bool = False,
    out: tuple[Tensor, Tensor] | None = None,
    backend: BackendName = "auto",
) -> GridPosterior:
    """Posterior of a grid by alternating row and column passes that exchange extrinsic messages.

    Args:
        llr: `[*batch, *event]`, log-likelihood ratios in nats, one per element.
        row: Law of the chain along every row.
        column: Law of the chain along every column, with the stationary density of `row`.
        dims: The dims along which columns and rows run, counted from the end. Elements that differ
            in further event dims belong to independent grids.
        event_dims: How many dims at the end belong to one posterior; those in front are independent
            problems.
        sweeps: Largest number of sweeps; each is a row pass and a column pass.
        damping: Weight of the previous column message in each update, in [0, 1).
        tolerance: Stop when no column message changes by more than this many nats in a sweep; 0
            runs all sweeps.
        start: `messages` of an earlier posterior; None starts from zero.
        pairwise: Whether to compute expected transition counts.
        log_evidence: Whether to compute the Bethe log-evidence.
        out: Two contiguous tensors of the shape and dtype of `llr` that become `extrinsic` and
            `messages`, so that nothing large is allocated. The second may be `start`.
        backend: What computes it, see `backends`.

    Returns:
        The posterior, in the dtype of `llr`; chains are solved in double precision.

    Raises:
        InvalidArgumentError: If the densities of both laws differ, `dims` are no two of the event
            dims, or `sweeps` or `damping` is out of range.
        NumericalError: If an element of `llr` is not finite.
        ShapeError: If `llr` has too few dims or no elements, or `start` or `out` does not fit.
    """
    check_dims(
        llr,
        dims,
        event_dims,
        shape_problem="a grid needs rows and columns",
        dims_problem="columns and rows run along no such dims",
    )
    _check(llr, row, column, sweeps, damping, start)
    extrinsic, messages = buffers(llr, out or (None, None))
    solver = backend_for(llr, backend)
    local, batch = llr.detach().contiguous(), llr.shape[: llr.dim() - event_dims]
    # the rows' message is needed within a sweep only: it lives where the result will be
    across, down = (solver.workspace(buffer) for buffer in (extrinsic, messages))
    down.zero_() if start is None else down.copy_(start)
    for done in range(1, sweeps + 1):
        wanted = tolerance > 0 or done == sweeps  # any sweep may be the last one then
        options = {"pairwise": pairwise and wanted, "log_evidence": log_evidence and wanted}
        rows = solver.update_messages(local, down, across, row, dims[1], **options)
        # rows and columns are solved under exactly these messages: the Bethe terms belong together
        elements = None
        if options["log_evidence"]:
            flat = [part.view(batch.numel(), -1) for part in (local, across, down)]
            elements = solver.element_evidence(flat[0], flat[1], flat[2], row.log_odds)
        columns = solver.update_messages(
            local, across, down, column, dims[0], damping=damping, residual=wanted, **options
        )
        if columns.residual <= tolerance > 0:
            break
    torch.add(across, down, out=across).add_(row.log_odds)
    for buffer, result in ((extrinsic, across), (messages, down)):
        if result.dtype != buffer.dtype:
            buffer.copy_(result)
    return GridPosterior(
        llr=llr.detach(),
        extrinsic=extrinsic,
        log_evidence=None if elements is None else _bethe(rows, columns, elements, batch, llr),
        transitions=_transitions(rows, columns, batch, llr) if pairwise else None,
        messages=messages,
        residual=columns.residual,
        sweeps=done,
    )


def _bethe(
    rows: ChainSummary, columns: ChainSummary, elements: Tensor, batch: torch.Size, llr: Tensor
) -> Tensor:
    """Bethe log-evidence of every problem of the batch, in the dtype of `llr`."""
    of_rows, of_columns = (
        solved.log_evidence.reshape(*batch, -1).sum(-1)
        for solved in (rows, columns)
        if solved.log_evidence is not None
    )
    return (of_rows + of_columns - elements.view(batch)).to(llr.dtype)


def _transitions(
    rows: ChainSummary, columns: ChainSummary, batch: torch.Size, llr: Tensor
) -> GridTransitions:
    """Counts of the rows and columns of every problem of the batch, in the dtype of `llr`."""
    row, column = (
        solved.transitions.reshape(*batch, -1, 2, 2).sum(-3).to(llr.dtype)
        for solved in (rows, columns)
        if solved.transitions is not None
    )
    return GridTransitions(row, column)


def _check(
    llr: Tensor,
    row: ChainLaw,
    column: ChainLaw,
    sweeps: int,
    damping: float,
    start: Tensor | None,
) -> None:
    if start is not None and start.shape != llr.shape:
        raise ShapeError(
            "the start messages do not fit the log-likelihood ratios",
            given=tuple(start.shape),
            accepted=f"a tensor of shape {tuple(llr.shape)}",
        )
    if not math.isclose(row.log_odds, column.log_odds, rel_tol=1e-6, abs_tol=1e-6):
        raise InvalidArgumentError(
            "rows and columns must share one stationary density",
            given=f"{row.density} and {column.density}",
            accepted="two laws made by ChainLaw.stationary with the same density",
        )
    if sweeps < 1 or not 0.0 <= damping < 1.0:
        raise InvalidArgumentError(
            "the message schedule is out of range",
            given=f"sweeps={sweeps}, damping={damping}",
            accepted="sweeps >= 1 and 0 <= damping < 1",
        )
    check_finite(llr)
