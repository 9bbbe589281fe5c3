"""Loopy sum-product for unit gates that a unit's incoming and outgoing weights share.

Every unit `j` of a group has a gate `z_j`. A weight from unit m to unit k, seen as `[rows, columns,
each]` (`each` elements per pair of units: kernel positions, or pixels behind a flattening), is
active where both gates are open and its own support is: `z_k z_m s_n`. Per element, against the
state "both open, inactive", the data say

    L_n   for active            D_n   for a closed pair (either gate)

With `through(x, g) = ln(1 - sigmoid(x) + sigmoid(x) e^g)`, evidence `g` as seen through a gate with
log-odds `x`, all messages of one weight follow from the extrinsic log-odds `x_n` of its own
support:

    own_n = through(x_n, L_n) - D_n         evidence of an element, open against closed
    P_km  = sum_n own_n                     of a pair
    c_km  = Z_m - B_km                      cavity of the column's gate
    r_km  = Z_k - through(c_km, P_km)       cavity of the row's gate
    E_k   = ln p(row k | z_k = 1) - ln p(row k | z_k = 0)      to the row's gate
    B_km  = through(r_km, P_km)                                to the column's gate

Closing a row may cost less than closing a column: `relief_n` is added to `D_n` where the row's gate
is the closed one. That lowers `E_k` by the sum over the row, and with `Z_k` all that follows.

`Z_j` is a gate's prior log-odds plus all that reaches it from the weights on both sides. Rows
are solved exactly given the column's cavities. The cavities matter: with `Z` in their place a
gate would hear its own opinion back from its hundreds of weights.

The graph has cycles. Without gated columns and for a single weight it is a tree and the result
exact; the log-evidence is the Bethe one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from pyro_turbovbi.kernels.chain import check_finite
from pyro_turbovbi.kernels.independent import bernoulli_log_evidence

#: Log-odds beyond this say nothing more; it also keeps float32 sums of messages exact enough.
CERTAIN = 50.0


class RowPosterior(NamedTuple):
    """What a support prior says of a weight whose rows are independent.

    Attributes:
        extrinsic: Posterior log-odds of each element minus its log-likelihood ratio.
        log_evidence: `[rows]`, in nats.
    """

    extrinsic: Float[Tensor, "*shape"]
    log_evidence: Float[Tensor, " rows"]


class GatedWeight(NamedTuple):
    """A weight between two groups of units.

    Attributes:
        llr: `[rows, columns, each]`, log-likelihood ratios of active against inactive.
        closed: Same shape, of "behind a closed gate" against inactive.
        rows: Which group gates the rows; None if they are always open.
        columns: Which group gates the columns; None if they are always open.
        solve: Posterior of the weight's own support given log-likelihood ratios like `llr`.
        relief: Same shape, what is added to `closed` where the row's gate is closed; None: nothing.
    """

    llr: Float[Tensor, "rows columns each"]
    closed: Float[Tensor, "rows columns each"]
    rows: int | None
    columns: int | None
    solve: Callable[[Tensor], RowPosterior]
    relief: Float[Tensor, "rows columns each"] | None = None


class Messages(NamedTuple):
    """Messages that one weight sends, for a warm start.

    Attributes:
        to_rows: `[rows]`, log-odds to the gates of the rows.
        to_columns: `[rows, columns]`, log-odds to the gates of the columns.
        extrinsic: `[rows, columns, each]`, log-odds of each element by its own support alone.
    """

    to_rows: Tensor
    to_columns: Tensor
    extrinsic: Tensor


class ElementMessages(NamedTuple):
    """What all others say of the elements of one weight.

    Attributes:
        open_log_odds: `[rows, columns, each]`, log-odds that both gates are open, by all evidence
            but the element's own.
        extrinsic: `[rows, columns, each]`, log-odds of the element's own support likewise.
    """

    open_log_odds: Tensor
    extrinsic: Tensor


class UnitGatesPosterior(NamedTuple):
    """Posterior of gates and weights.

    Attributes:
        gate_log_odds: Per group `[size]`, posterior log-odds of an open gate.
        elements: Per weight, the messages to its elements.
        log_evidence: Bethe log-evidence against "all open, all inactive", a double scalar in nats.
        messages: Per weight, for a warm start.
    """

    gate_log_odds: list[Tensor]
    elements: list[ElementMessages]
    log_evidence: Tensor
    messages: list[Messages]


@torch.no_grad()
def unit_gates_posterior(
    weights: Sequence[GatedWeight],
    prior_log_odds: Sequence[Float[Tensor, " _"]],
    *,
    start: Sequence[Messages] | None = None,
    sweeps: int = 2,
    damping: float = 0.5,
) -> UnitGatesPosterior:
    """Sum-product over all weights and gates of a net.

    Args:
        weights: The weights, in the order in which a sweep visits them.
        prior_log_odds: Per group of units `[size]`, the prior log-odds of their gates.
        start: Messages of an earlier posterior.
        sweeps: Number of visits to every weight.
        damping: Share of the old messages to the gates that is kept, in [0, 1).

    Returns:
        The posterior.

    Raises:
        NumericalError: if a log-likelihood ratio is not finite.
    """
    for weight in weights:
        check_finite(weight.llr)
        check_finite(weight.closed)
        if weight.relief is not None:
            check_finite(weight.relief)
    messages = list(start) if start is not None else [_silence(weight) for weight in weights]
    beliefs = [prior.clone() for prior in prior_log_odds]
    for weight, sent in zip(weights, messages, strict=True):
        _hear(beliefs, weight, sent.to_rows, sent.to_columns)
    for _ in range(sweeps):
        for i, weight in enumerate(weights):
            old, new = messages[i], _visit(weight, messages[i], beliefs, damping)
            _hear(beliefs, weight, new.to_rows - old.to_rows, new.to_columns - old.to_columns)
            messages[i] = new
    log_evidence = sum(
        _sum(_through(prior, belief - prior))
        for prior, belief in zip(prior_log_odds, beliefs, strict=True)
    ) + sum(
        _log_evidence(weight, sent, beliefs) for weight, sent in zip(weights, messages, strict=True)
    )
    return UnitGatesPosterior(
        gate_log_odds=beliefs,
        elements=[
            _to_elements(weight, sent, beliefs)
            for weight, sent in zip(weights, messages, strict=True)
        ],
        log_evidence=torch.as_tensor(log_evidence),
        messages=messages,
    )


def _silence(weight: GatedWeight) -> Messages:
    """What a weight says before it has been asked."""
    llr = weight.llr
    rows, columns = llr.new_zeros(llr.shape[0]), llr.new_zeros(llr.shape[:2])
    return Messages(rows, columns, weight.solve(llr).extrinsic)


def _hear(beliefs: list[Tensor], weight: GatedWeight, to_rows: Tensor, to_columns: Tensor) -> None:
    """Move the beliefs of a weight's gates by messages, or by the change of messages."""
    if weight.rows is not None:
        beliefs[weight.rows] = beliefs[weight.rows] + to_rows
    if weight.columns is not None:
        beliefs[weight.columns] = beliefs[weight.columns] + to_columns.sum(0)


def _visit(weight: GatedWeight, old: Messages, beliefs: list[Tensor], damping: float) -> Messages:
    """New messages of one weight, rows solved exactly given what its columns hear elsewhere."""
    llr, closed = weight.llr, weight.closed
    column = _column_cavity(weight, old, beliefs)
    own = _through(old.extrinsic, llr) - closed
    # the column's gate as this element hears of it, from the other elements of the pair too
    column_here = None if column is None else (column + own.sum(-1)).unsqueeze(-1) - own
    evidence = llr if column_here is None else _through(column_here - closed, llr)
    extrinsic, of_rows = weight.solve(evidence)
    to_rows = of_rows + _through(column_here, -closed).sum((1, 2))
    own = _through(extrinsic, llr) - closed
    pair = own.sum(-1)
    if column is not None and llr.shape[-1] > 1:
        # the elements of a pair share one gate: its cost is paid once, not once an element
        shared = _through(column, pair)
        here = (column + pair).unsqueeze(-1) - own
        to_rows = to_rows + shared.sum(1) - _through(here, own).sum((1, 2))
    if weight.relief is not None:
        to_rows = to_rows - weight.relief.sum((1, 2))
    to_rows = torch.lerp(to_rows, old.to_rows, damping)
    row = _row_cavity(weight, beliefs, to_rows - old.to_rows, column, pair)
    return Messages(to_rows, torch.lerp(_through(row, pair), old.to_columns, damping), extrinsic)


def _to_elements(weight: GatedWeight, sent: Messages, beliefs: list[Tensor]) -> ElementMessages:
    own = _through(sent.extrinsic, weight.llr) - weight.closed
    pair = own.sum(-1)
    column = _column_cavity(weight, sent, beliefs)
    row = _row_cavity(weight, beliefs, torch.zeros_like(sent.to_rows), column, pair)
    both = _both_open(row, column, like=pair)
    open_log_odds = (both + pair).unsqueeze(-1) - own
    return ElementMessages(open_log_odds.clamp(-CERTAIN, CERTAIN), sent.extrinsic)


def _log_evidence(weight: GatedWeight, sent: Messages, beliefs: list[Tensor]) -> Tensor:
    """A weight's part of the Bethe log-evidence: its factor less its edges to gated columns."""
    total = _sum(weight.closed)
    if weight.rows is None:
        total = total + _sum(sent.to_rows)
    elif weight.relief is not None:
        total = total + _sum(weight.relief)
    column = _column_cavity(weight, sent, beliefs)
    return total if column is None else total - _sum(_through(column, sent.to_columns))


def _column_cavity(weight: GatedWeight, sent: Messages, beliefs: list[Tensor]) -> Tensor | None:
    """`[rows, columns]` log-odds of the columns' gates without this pair; None: always open."""
    if weight.columns is None:
        return None
    return (beliefs[weight.columns] - sent.to_columns).clamp(-CERTAIN, CERTAIN)


def _row_cavity(
    weight: GatedWeight,
    beliefs: list[Tensor],
    change: Tensor,
    column: Tensor | None,
    pair: Tensor,
) -> Tensor | None:
    """`[rows, columns]` log-odds of the rows' gates without this pair; None: always open."""
    if weight.rows is None:
        return None
    belief = (beliefs[weight.rows] + change).unsqueeze(-1)
    return (belief - _through(column, pair)).clamp(-CERTAIN, CERTAIN)


def _through(gate: Tensor | None, evidence: Tensor) -> Tensor:
    """Evidence as seen through a gate of the given log-odds; None: always open."""
    return evidence if gate is None else bernoulli_log_evidence(evidence, gate)


def _both_open(row: Tensor | None, column: Tensor | None, *, like: Tensor) -> Tensor:
    """Log-odds that two gates are both open: -ln((1 + e^-row)(1 + e^-column) - 1)."""
    parts = [softplus(-gate) for gate in (row, column) if gate is not None]
    if not parts:
        return torch.full_like(like, CERTAIN)
    total = torch.stack(parts).sum(0)
    return -(total + (-torch.expm1(-total)).log())


def _sum(values: Tensor) -> Tensor:
    return values.sum(dtype=torch.float64)
