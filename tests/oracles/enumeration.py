"""Posteriors over small binary supports by summing over every state, in double precision."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor


class Exact(NamedTuple):
    """`log_odds` and `probs` like the llr, `log_evidence` per batch, `weights` over states."""

    log_odds: Tensor
    probs: Tensor
    log_evidence: Tensor
    weights: Tensor


def all_states(size: int) -> Tensor:
    """All `2^size` binary vectors, `[2^size, size]`."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=size)), dtype=torch.float64)


def chain_log_prior(states: Tensor, p01: float, p10: float) -> Tensor:
    """`ln p(s)` of stationary chains along the last dim, one transition after the other."""
    start = torch.tensor([p10, p01], dtype=torch.float64).log() - math.log(p01 + p10)
    table = torch.tensor([[1 - p01, p01], [p10, 1 - p10]], dtype=torch.float64).log()
    index = states.long()
    total = start[index[..., 0]]
    for n in range(index.shape[-1] - 1):
        total = total + table[index[..., n], index[..., n + 1]]
    return total


def grid_log_prior(states: Tensor, row: tuple[float, float], column: tuple[float, float]) -> Tensor:
    """Unnormalised `ln p(S)` of grids `[..., rows, columns]` with laws `(p01, p10)`."""
    density = row[0] / (row[0] + row[1])
    elements = states * math.log(density) + (1 - states) * math.log1p(-density)
    rows = chain_log_prior(states, *row).sum(-1)
    columns = chain_log_prior(states.transpose(-1, -2), *column).sum(-1)
    return rows + columns - elements.sum((-1, -2))


def gated_log_joint(
    states: Tensor, gates: Tensor, gate: tuple[float, float], within: tuple[float, float]
) -> Tensor:
    """`ln p(z, S) [S, Z]` of matrices `[S, rows, columns]` and gates of rows `[Z, rows]`."""
    open_rows = chain_log_prior(states, *within)[:, None, :]
    empty = states.sum(-1)[:, None, :] == 0
    closed_rows = torch.where(empty, 0.0, -torch.inf).double()
    rows = torch.where(gates[None].bool(), open_rows, closed_rows).sum(-1)
    return rows + chain_log_prior(gates, *gate)


def enumerate_posterior(states: Tensor, log_prior: Tensor, llr: Tensor) -> Exact:
    """Posterior of flat supports: `states [S, N]`, `log_prior [S]`, `llr [..., N]`."""
    scores = log_prior + llr.double() @ states.T
    log_evidence = scores.logsumexp(-1)
    ones = states.T.bool()
    never = torch.tensor(-torch.inf, dtype=torch.float64)
    active = torch.where(ones, scores.unsqueeze(-2), never).logsumexp(-1)
    inactive = torch.where(ones, never, scores.unsqueeze(-2)).logsumexp(-1)
    weights = (scores - log_evidence.unsqueeze(-1)).exp()
    return Exact(
        active - inactive, (active - log_evidence.unsqueeze(-1)).exp(), log_evidence, weights
    )


def transition_counts(states: Tensor, weights: Tensor) -> Tensor:
    """Expected counts `[..., 2, 2]` of transitions along the last dim of `states [S, N]`."""
    before, after = states[:, :-1], states[:, 1:]
    counts = [((before == i) & (after == j)).double().sum(1) for i in (0, 1) for j in (0, 1)]
    return (weights @ torch.stack(counts, -1)).unflatten(-1, (2, 2))
