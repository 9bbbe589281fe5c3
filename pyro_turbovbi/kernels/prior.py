"""Prior log-probabilities and samples of stationary chains and of grids."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.kernels.law import ChainLaw


def chain_log_prob(
    values: Float[Tensor, "*shape"],
    p01: Float[Tensor, ""],
    p10: Float[Tensor, ""],
    *,
    dim: int = -1,
) -> Float[Tensor, "*chains"]:
    """Log-probability of stationary chains, differentiable in the transition probabilities.

    Args:
        values: Zeros and ones.
        p01: `P(1|0)`, a scalar in double precision.
        p10: `P(0|1)`, likewise.
        dim: The dim along which the chains run.

    Returns:
        One log-probability in nats per chain, in double precision: the shape of `values` without
        `dim`.
    """
    states = values.movedim(dim, 0).double()
    first, n11 = states[0], (states[:-1] * states[1:]).sum(0)
    n10, n01 = states[:-1].sum(0) - n11, states[1:].sum(0) - n11
    n00 = len(states) - 1 - n11 - n10 - n01
    start = first * p01.log() + (1 - first) * p10.log() - (p01 + p10).log()
    leave = n01 * p01.log() + n10 * p10.log()
    return start + leave + n00 * torch.log1p(-p01) + n11 * torch.log1p(-p10)


@torch.no_grad()
def sample_chains(
    length: int, chains: int, law: ChainLaw, *, device: torch.device | None = None
) -> Float[Tensor, "length chains"]:
    """Exact samples of independent stationary chains, one per column.

    Args:
        length: Number of elements of a chain.
        chains: Number of chains.
        law: Transition probabilities.
        device: Where to draw; None is torch's default device.

    Returns:
        Zeros and ones in double precision (uniforms of single precision cannot resolve a
        probability of 1e-8).
    """
    uniform = torch.rand(length, chains, dtype=torch.float64, device=device)
    after_zero = (uniform < law.p01).double()
    gain = (uniform < law.p11).double() - after_zero
    states = torch.empty_like(uniform)
    steps = states.unbind()
    torch.lt(uniform[0], law.density, out=steps[0])
    for step, base, change in zip(range(1, length), after_zero[1:], gain[1:], strict=True):
        torch.addcmul(base, change, steps[step - 1], out=steps[step])
    return states


@torch.no_grad()
def sample_grids(
    grids: int,
    rows: int,
    columns: int,
    row: ChainLaw,
    column: ChainLaw,
    *,
    sweeps: int,
    device: torch.device | None = None,
) -> Float[Tensor, "grids rows columns"]:
    """Samples of the grid prior by checkerboard Gibbs from independent row chains.

    Args:
        grids: Number of independent grids.
        rows: Number of rows of a grid.
        columns: Number of columns of a grid.
        row: Law of the chain along every row.
        column: Law of the chain along every column, with the stationary density of `row`.
        sweeps: Number of updates of every element; the sample is exact in the limit, and exact at
            once if neither direction has coupling.
        device: Where to draw; None is torch's default device.

    Returns:
        Zeros and ones in double precision.
    """
    start = sample_chains(columns, grids * rows, row, device=device)
    states = start.new_zeros(
        grids, rows + 2, columns + 2
    )  # a border of zeros stands in for missing neighbours
    states[:, 1:-1, 1:-1] = start.view(columns, grids, rows).permute(1, 2, 0)
    field = _field_of_zeros(states[0], row, column)
    for _ in range(sweeps):
        # (0, 0) and (1, 1) are the black squares, the others the white ones
        for i, j in ((0, 0), (1, 1), (0, 1), (1, 0)):
            here, up, down = slice(1 + i, rows + 1, 2), slice(i, rows, 2), slice(2 + i, rows + 2, 2)
            mid, left, right = (
                slice(1 + j, columns + 1, 2),
                slice(j, columns, 2),
                slice(2 + j, columns + 2, 2),
            )
            sideways = states[:, here, left] + states[:, here, right]
            upright = states[:, up, mid] + states[:, down, mid]
            log_odds = field[i::2, j::2] + _coupling(row) * sideways + _coupling(column) * upright
            states[:, here, mid] = torch.bernoulli(log_odds.sigmoid_())
    return states[:, 1:-1, 1:-1].contiguous()


def _coupling(law: ChainLaw) -> float:
    """Log-odds gained when a neighbour turns from zero to one."""
    return math.log(law.p11 * law.p00 / (law.p01 * law.p10))


def _field_of_zeros(bordered: Tensor, row: ChainLaw, column: ChainLaw) -> Tensor:
    """Log-odds `[rows, columns]` of every element when all its neighbours are zero."""
    inside = torch.zeros_like(bordered)
    inside[1:-1, 1:-1] = 1.0
    sideways = inside[1:-1, :-2] + inside[1:-1, 2:]
    upright = inside[:-2, 1:-1] + inside[2:, 1:-1]
    pull_row, pull_column = (math.log(law.p10 / law.p00) for law in (row, column))
    return row.log_odds + pull_row * sideways + pull_column * upright
