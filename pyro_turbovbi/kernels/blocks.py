"""One variable for a whole block of elements: evidence is pooled, the posterior spread again.

All elements of a block share their support, so a block's log-likelihood ratio is the sum of its
elements', and any kernel solves the smaller problem of the blocks. Every element of a block has the
block's posterior; its extrinsic log-odds are the block's and the evidence of its fellow elements.
At the far edges, where the size does not divide the shape, blocks are smaller.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.kernels.backends import buffers


@torch.no_grad()
def pool_blocks(
    llr: Float[Tensor, "*batch rows columns"], size: tuple[int, int]
) -> Float[Tensor, "*batch block_rows block_columns"]:
    """Log-likelihood ratios of blocks: the sums of their elements'.

    Args:
        llr: Log-likelihood ratios in nats, one per element.
        size: Rows and columns of a block.

    Returns:
        One per block, in double precision.

    Raises:
        InvalidArgumentError: If a block would have no elements.
        ShapeError: If `llr` is no non-empty (batch of) matrix.
    """
    _check(llr, size)
    return _tiled(llr.detach(), size).sum((-3, -1), dtype=torch.float64)


@torch.no_grad()
def spread_blocks(
    extrinsic: Float[Tensor, "*batch block_rows block_columns"],
    pooled: Float[Tensor, "*batch block_rows block_columns"],
    llr: Float[Tensor, "*batch rows columns"],
    size: tuple[int, int],
    *,
    out: Float[Tensor, "*batch rows columns"] | None = None,
) -> Float[Tensor, "*batch rows columns"]:
    """Extrinsic log-odds of elements from those of their blocks.

    Args:
        extrinsic: Of the blocks, posterior log-odds minus `pooled`, in double precision.
        pooled: What `pool_blocks` made of `llr`, in double precision.
        llr: Log-likelihood ratios in nats, one per element.
        size: Rows and columns of a block.
        out: A contiguous tensor of the shape and dtype of `llr` to be overwritten.

    Returns:
        Per element, posterior log-odds minus `llr`: the block's extrinsic log-odds and the
        evidence of the block's other elements.

    Raises:
        InvalidArgumentError: If a block would have no elements.
        ShapeError: If the shapes do not belong together or `out` does not fit.
    """
    _check(llr, size)
    (result,) = buffers(llr, (out,))
    posterior = extrinsic + pooled
    if posterior.shape[-2:] != _count(llr, size):
        raise ShapeError(
            "the blocks do not cover the elements",
            given=f"{tuple(posterior.shape[-2:])} blocks of {size} for {tuple(llr.shape[-2:])}",
            accepted=f"{_count(llr, size)} blocks",
        )
    rows, columns = llr.shape[-2:]
    every = posterior[..., :, None, :, None]
    if rows % size[0] == 0 and columns % size[1] == 0:
        torch.sub(every, _tiled(llr, size), out=_tiled(result, size))
        return result
    others = (every - _tiled(llr, size)).flatten(-4, -3).flatten(-2)
    return result.copy_(others[..., :rows, :columns])


def _tiled(llr: Tensor, size: tuple[int, int]) -> Tensor:
    """`[..., block rows, rows, block columns, columns]`, padded with zeros where necessary."""
    (height, width), (rows, columns) = size, _count(llr, size)
    below, right = rows * height - llr.shape[-2], columns * width - llr.shape[-1]
    whole = pad(llr, (0, right, 0, below)) if below or right else llr
    split: Tensor = whole.unflatten(-1, (columns, width))
    tiles: Tensor = split.unflatten(-3, (rows, height))
    return tiles


def _count(llr: Tensor, size: tuple[int, int]) -> torch.Size:
    """Rows and columns of blocks."""
    return torch.Size(-(-n // m) for n, m in zip(llr.shape[-2:], size, strict=True))


def _check(llr: Tensor, size: tuple[int, int]) -> None:
    if min(size) < 1:
        raise InvalidArgumentError(
            "a block needs elements", given=size, accepted="two integers >= 1"
        )
    if llr.dim() < 2 or llr.numel() == 0:
        raise ShapeError(
            "blocks need rows and columns",
            given=f"log-likelihood ratios of shape {tuple(llr.shape)}",
            accepted="shape [..., rows, columns] with at least one element",
        )
