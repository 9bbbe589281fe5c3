"""One variable for a whole block of elements: evidence is pooled, the posterior spread again.

All elements of a block share their support, so a block's log-likelihood ratio is the sum of its
elements', and any kernel solves the smaller problem of the blocks. Every element of a block has the
block's posterior; its extrinsic log-odds are the block's and the evidence of its fellow elements.
At the far edges, where the size does not divide the shape, blocks are smaller. Both directions only
move and add, at the speed of memory, so one implementation in torch serves all devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.kernels.backends import buffers

_SLAB = 2**17  # elements


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
    slabs = [part.sum((1, 3), dtype=torch.float64) for part in _slabs(_tiled(llr.detach(), size))]
    return torch.cat(slabs).view(*llr.shape[:-2], *_count(llr, size))


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
    tiles = _tiled(llr, size)
    whole = tiles.numel() == llr.numel()
    target = result.view(tiles.shape) if whole else torch.empty_like(tiles)
    every = posterior.view(len(tiles), 1, -1, 1).expand(tiles.shape)
    for part, of_blocks, own in zip(*map(_slabs, (target, every, tiles)), strict=True):
        part.copy_(of_blocks - own)
    if not whole:
        padded = target.view(*llr.shape[:-2], posterior.shape[-2] * size[0], -1)
        result.copy_(padded[..., : llr.shape[-2], : llr.shape[-1]])
    return result


def _tiled(llr: Tensor, size: tuple[int, int]) -> Tensor:
    """`[rows of blocks, rows, columns of blocks, columns]`, with zeros where blocks stick out."""
    (height, width), (rows, columns) = size, _count(llr, size)
    below, right = rows * height - llr.shape[-2], columns * width - llr.shape[-1]
    whole = pad(llr, (0, right, 0, below)) if below or right else llr
    return whole.reshape(-1, height, columns, width)


def _slabs(tiles: Tensor) -> Sequence[Tensor]:
    """A cache full of elements at a time: this keeps the copies in double precision small."""
    slabs: Sequence[Tensor] = tiles.split(max(1, _SLAB // tiles[0].numel()))
    return slabs


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
