"""Sum-product on chains by parallel scans in plain torch: no loop over the length, on any device.

In the basis in which the transition matrix is symmetric,

    T = [[p00, c], [c, p11]],   c = sqrt(p01 p10),

an element with evidence `e = exp(llr)` passes a forward message `v`, one entry per state, on as
`F v` with `F = T diag(1, e)`; and because `T` is symmetric, a backward message as `F^T q`. A run of
elements acts by the product of its matrices, or by its transpose, so that one tree of products
serves both directions: upwards it multiplies neighbours, downwards it tells every node what reaches
it from the left and from the right. All entries are positive, hence nothing cancels. Matrices and
messages matter up to a factor, so they are divided by their largest entry and nothing overflows.

Chains start and end with `a = (1, sqrt(p01 / p10))`. It is an eigenvector of `T`: elements without
evidence leave it alone, so chains are padded with them. In this basis the odds of both messages at
an element multiply to those of the usual basis times the stationary odds `p01 / p10`.

A chain is cut into blocks. The products of all blocks come first; a scan over them tells what
enters every block; then every block is solved. Both visits go through the tensors in pieces, so
that little memory is needed beside them: about two hundred bytes per element of a piece and per
block. The work is proportional to the length, the number of torch operations per piece to its
logarithm.

References: G. Blelloch, "Prefix sums and their applications", CMU-CS-90-190, 1990 (the tree);
S. Särkkä, A. García-Fernández, "Temporal parallelization of Bayesian smoothers", IEEE Trans.
Automatic Control 66(1), 2021 (its use on chains).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.kernels.law import SATURATION, ChainLaw, ChainSummary

_BLOCK = 64  # elements; a power of two, since the tree pairs neighbours
_PIECE = 2**20  # elements in work at a time


@torch.no_grad()
def update_messages(
    llr: Float[Tensor, "*shape"],
    other: Float[Tensor, "*shape"] | None,
    message: Float[Tensor, "*shape"],
    law: ChainLaw,
    dim: int,
    *,
    offset: float = 0.0,
    damping: float = 0.0,
    residual: bool = False,
    pairwise: bool = False,
    log_evidence: bool = False,
) -> ChainSummary:
    """Solve all chains along a dim and write what they say about each element, in place.

    Args:
        llr: Log-likelihood ratios in nats, finite, contiguous.
        other: More evidence, to be added to `llr`, in the same layout, or None.
        message: Overwritten by the log-odds of all evidence outside an element, without the
            stationary prior; same layout.
        law: Transition probabilities, shared by all chains.
        dim: The dim along which the chains run.
        offset: Added to the new messages: the stationary log-odds make them extrinsic log-odds.
        damping: Weight of the previous content of `message`.
        residual: Whether to measure the largest change of `message`.
        pairwise: Whether to compute expected transition counts.
        log_evidence: Whether to compute the log-evidence of each chain.

    Returns:
        What was asked for, in double precision.
    """
    chains = _Chains.along(llr, other, law, dim)
    left = right = chains.end.view(2, 1, 1, 1).expand(2, *chains.grid)
    total = counts = None
    if chains.grid[1] > 1 or log_evidence:
        left, right, total = _enter_blocks(chains)
    if pairwise:
        counts = left.new_zeros(*chains.grid[::2], 2, 2)
    target = message.view(chains.parts[0].shape)
    changes = []
    for piece in chains.pieces():
        solved = _solve(chains, piece, left[:, *piece], right[:, *piece])
        new = solved.log_odds.add_(offset - law.log_odds)
        changes.append(_put(target[chains.elements(piece)], new, damping, residual))
        if counts is not None:
            counts[piece.outer, piece.inner] += _transition_counts(chains, piece, solved)
    others = llr.movedim(dim, 0).shape[1:]
    return ChainSummary(
        log_evidence=total.view(others) if total is not None and log_evidence else None,
        transitions=None if counts is None else counts.view(*others, 2, 2),
        residual=float(torch.stack(changes).max()) if residual else math.nan,
    )


class _Piece(NamedTuple):
    """Some blocks of some chains `[outer, length, inner]`, as slices."""

    outer: slice
    blocks: slice
    inner: slice


class _Chains(NamedTuple):
    """The chains to be solved, cut into blocks.

    Attributes:
        parts: Tensors `[outer, length, inner]` whose sum is the evidence in nats.
        block: Number of elements of a block, a power of two.
        transfer: `T [2, 2]` of the module's docstring.
        end: `a [2]` of the module's docstring.
    """

    parts: list[Tensor]
    block: int
    transfer: Tensor
    end: Tensor

    @classmethod
    def along(cls, llr: Tensor, other: Tensor | None, law: ChainLaw, dim: int) -> _Chains:
        """The chains along a dim of contiguous tensors."""
        dim %= llr.dim()
        shape = (llr.shape[:dim].numel(), llr.shape[dim], llr.shape[dim + 1 :].numel())
        switch = math.sqrt(law.p01 * law.p10)
        return cls(
            parts=[part.view(shape) for part in (llr, other) if part is not None],
            block=min(_BLOCK, _next_power_of_two(shape[1])),
            transfer=llr.new_tensor([[law.p00, switch], [switch, law.p11]], dtype=torch.float64),
            end=llr.new_tensor([1.0, math.sqrt(law.p01 / law.p10)], dtype=torch.float64),
        )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Numbers of outer chains, of blocks of a chain, and of inner chains."""
        outer, length, inner = self.parts[0].shape
        return outer, -(-length // self.block), inner

    def pieces(self) -> Iterator[_Piece]:
        """Pieces of at most `_PIECE` elements, or of one block, that together are everything."""
        room, slices = max(1, _PIECE // self.block), []
        for size in reversed(self.grid):
            step = min(size, room)
            room = max(1, room // step)
            slices.append([slice(i, min(i + step, size)) for i in range(0, size, step)])
        inner, blocks, outer = slices
        return (_Piece(o, b, i) for o in outer for b in blocks for i in inner)

    def elements(self, piece: _Piece) -> tuple[slice, slice, slice]:
        """Where in `[outer, length, inner]` a piece is, possibly beyond the end of the chain."""
        first, last = piece.blocks.start * self.block, piece.blocks.stop * self.block
        return piece.outer, slice(first, last), piece.inner

    def evidence(self, piece: _Piece) -> Tensor:
        """Evidence in nats `[block, outer, blocks, inner]`, zero beyond the end of the chain."""
        where = self.elements(piece)
        llr = self.parts[0][where].double()
        for part in self.parts[1:]:
            llr = llr + part[where]
        missing = -llr.shape[1] % self.block
        if missing:
            llr = torch.nn.functional.pad(llr, (0, 0, 0, missing))
        outer, _, inner = llr.shape
        return llr.view(outer, -1, self.block, inner).movedim(2, 0)


class _Solved(NamedTuple):
    """A piece of chains after sum-product; dims are `[..., block, outer, blocks, inner]`.

    Attributes:
        log_odds: Product of both messages to each element, in nats, with the stationary prior.
        before: Message of an element to the next, times its own evidence, one entry per state.
        after: Message of the next element to this one, times the next one's evidence, likewise.
    """

    log_odds: Tensor
    before: Tensor
    after: Tensor


class _Tree(NamedTuple):
    """Products of the matrices of a chain, level by level from the leaves to the root.

    Attributes:
        levels: `[2, 2, nodes, ...]`, the product of all leaves below each node up to a factor.
        factors: `[nodes, ...]` of every level but the leaves, what its products were divided by.
    """

    levels: list[Tensor]
    factors: list[Tensor]

    def log_factor(self, logs: Tensor) -> Tensor:
        """Log of what the root lacks `[...]`, given those of the leaves `[nodes, ...]`."""
        for factor in self.factors:
            logs = logs[0::2] + logs[1::2] + factor.log()
        return logs[0]


def _enter_blocks(chains: _Chains) -> tuple[Tensor, Tensor, Tensor]:
    """What enters all blocks from the left and from the right, and the log-evidence of the chains.

    The former are `[2, outer, blocks, inner]`, the latter is `[outer, inner]` in nats.
    """
    products = chains.end.new_empty(2, 2, *chains.grid)
    logs = chains.end.new_empty(chains.grid)
    for piece in chains.pieces():
        llr = chains.evidence(piece)
        tree = _grow(_matrices(chains.transfer, _weights(llr)))
        products[:, :, *piece] = tree.levels[-1][:, :, 0]
        logs[*piece] = tree.log_factor(llr.relu())
    products, logs = _fill_up(products.movedim(3, 2), logs.movedim(1, 0))
    tree = _grow(products)
    end = chains.end.view(2, 1, 1, 1).expand(2, 1, *chains.grid[::2])
    left, right = (x[:, : chains.grid[1]].movedim(1, 2) for x in _descend(tree, end, end))
    root = tree.levels[-1][:, :, 0]
    mass: Tensor = torch.einsum("i,ij...,j->...", chains.end, root, chains.end)
    total = (mass / chains.end.square().sum()).log() + tree.log_factor(logs)
    return left, right, total


def _fill_up(matrices: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and unit matrices behind them, so that their number is a power of two."""
    missing = _next_power_of_two(len(logs)) - len(logs)
    padding = (0, 0, 0, 0, 0, missing)
    matrices = torch.nn.functional.pad(matrices, padding)
    matrices[:, :, len(logs) :].diagonal().fill_(1.0)
    return matrices, torch.nn.functional.pad(logs, padding)


def _solve(chains: _Chains, piece: _Piece, left: Tensor, right: Tensor) -> _Solved:
    """Solve a piece, given what enters its blocks `[2, outer, blocks, inner]` from both sides."""
    weights = _weights(chains.evidence(piece))
    tree = _grow(_matrices(chains.transfer, weights))
    left, right = _descend(tree, left.unsqueeze(1), right.unsqueeze(1))
    back = _apply(chains.transfer.view(2, 2, 1, 1, 1, 1), right)
    log_odds = (left[1] * back[1]).div_(left[0] * back[0]).log_()
    return _Solved(log_odds, before=weights.mul_(left), after=right)


def _put(target: Tensor, new: Tensor, damping: float, residual: bool) -> Tensor:
    """Overwrite messages `[outer, n, inner]`; their largest change if asked for, else NaN."""
    new = new.movedim(0, 2).flatten(1, 2)[:, : target.shape[1]]
    if damping > 0:
        new = torch.lerp(new, target.double(), damping)
    change = (new - target).abs_().max() if residual else new.new_tensor(math.nan)
    target.copy_(new)
    return change


def _transition_counts(chains: _Chains, piece: _Piece, solved: _Solved) -> Tensor:
    """Expected counts `[outer, inner, 2, 2]` of the transitions out of the elements of a piece."""
    transfer = chains.transfer.view(2, 2, 1, 1, 1, 1)
    joint = solved.before.unsqueeze(1) * transfer * solved.after
    joint /= joint.sum((0, 1))
    joint = joint.permute(3, 5, 0, 1, 4, 2).flatten(-2)
    first = chains.elements(piece)[1].start
    return joint[..., : chains.parts[0].shape[1] - 1 - first].sum(-1)


def _weights(llr: Tensor) -> Tensor:
    """Evidence for both states `[2, ...]` up to a factor; the larger one is one."""
    llr = llr.clamp(-SATURATION, SATURATION)
    return torch.stack([-llr, llr]).clamp_(max=0.0).exp_()


def _matrices(transfer: Tensor, weights: Tensor) -> Tensor:
    """The matrices `T diag(weights)` of elements, `[2, 2, ...]`."""
    return transfer.view(2, 2, *[1] * (weights.dim() - 1)) * weights


def _grow(matrices: Tensor) -> _Tree:
    """The tree over matrices `[2, 2, nodes, ...]` in the order of a chain."""
    tree = _Tree([matrices], [])
    while matrices.shape[2] > 1:
        first, second = matrices[:, :, 0::2], matrices[:, :, 1::2]
        matrices = (second[:, :1] * first[:1]).addcmul_(second[:, 1:], first[1:])
        tree.factors.append(matrices.amax((0, 1)))
        matrices /= tree.factors[-1]
        tree.levels.append(matrices)
    return tree


def _descend(tree: _Tree, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """What enters all leaves from the left and from the right, given what enters the root.

    Messages are `[2, nodes, ...]`.
    """
    for matrices in reversed(tree.levels[:-1]):
        first, second = matrices[:, :, 0::2], matrices[:, :, 1::2]
        left = _interleave(left, _apply(first, left))
        right = _interleave(_apply(second.transpose(0, 1), right), right)
    return left, right


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Products of matrices `[2, 2, ...]` and vectors `[2, ...]`, their larger entry made one."""
    result = (matrices[:, 0] * vectors[0]).addcmul_(matrices[:, 1], vectors[1])
    return result / result.amax(0)


def _interleave(first: Tensor, second: Tensor) -> Tensor:
    """Messages `[2, nodes, ...]` to the first and the second child of all nodes, in order."""
    return torch.stack([first, second], 2).flatten(1, 2)


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
