"""Exact marginals and normaliser of the grid prior by a transfer matrix over whole rows.

A grid of width W is a chain of rows with `2^W` states, so widths up to 8 are exact at any height.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tests.oracles.enumeration import all_states, chain_log_prior


class ExactGrid(NamedTuple):
    """`probs [rows, columns]` and the scalar `log_evidence` of prior product times evidence."""

    probs: Tensor
    log_evidence: Tensor


def transfer_matrix(
    llr: Tensor, row: tuple[float, float], column: tuple[float, float]
) -> ExactGrid:
    """Posterior of one grid `llr [rows, columns]` under laws `(p01, p10)` of rows and columns."""
    llr = llr.double()
    states = all_states(llr.shape[1])
    start, steps = _column_factors(states, column)
    density = row[0] / (row[0] + row[1])
    elements = (states * math.log(density) + (1 - states) * math.log1p(-density)).sum(1)
    local = chain_log_prior(states, *row) - elements + llr @ states.T  # [rows, states]
    forward, backward = [start + local[0]], [torch.zeros_like(start)]
    for here in local[1:]:
        forward.append((forward[-1].unsqueeze(1) + steps).logsumexp(0) + here)
    for below in local[1:].flip(0):
        backward.append((steps + (below + backward[-1])).logsumexp(1))
    belief = torch.stack(forward) + torch.stack(backward[::-1])
    return ExactGrid(belief.softmax(1) @ states, forward[-1].logsumexp(0))


def _column_factors(states: Tensor, column: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Log-probability of a first row, and of every row after every other, `[states, states]`."""
    p01, p10 = column
    start = torch.tensor([p10, p01], dtype=torch.float64).log() - math.log(p01 + p10)
    table = torch.tensor([[1 - p01, p01], [p10, 1 - p10]], dtype=torch.float64).log()
    index = states.long()
    pairs = table[index.unsqueeze(1), index.unsqueeze(0)]
    return start[index].sum(1), pairs.sum(2)
