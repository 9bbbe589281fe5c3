"""Block support: whole blocks of a matrix are active or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import avg_pool2d
from torch.utils._pytree import tree_map_only

from pyro_turbovbi.distributions.support import (
    Request,
    Solution,
    SupportDistribution,
    SupportPosterior,
    matrix_shape,
)
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.kernels import pool_blocks, spread_blocks


class BlockSupport(SupportDistribution):
    """One variable per block of a matrix, the blocks under a support distribution of their own.

    At the far edges, where the size does not divide the shape, blocks are smaller.

    Args:
        event_shape: Shape of the support tensor, at least two dims; more are viewed as (out,
            everything else).
        size: Rows and columns of a block.
        blocks: Distribution over the matrix of blocks, with `block_shape(event_shape, size)` as its
            event shape.
        validate_args: Whether `log_prob` checks its argument; None is torch's default.

    Raises:
        InvalidArgumentError: If a block would have no elements.
        ShapeError: If the support has fewer than two dims or no elements, or `blocks` has another
            shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        event_shape: Sequence[int],
        size: tuple[int, int],
        blocks: SupportDistribution,
        validate_args: bool | None = None,
    ) -> None:
        shape = torch.Size(event_shape)
        expected = block_shape(shape, size)
        if blocks.event_shape != expected:
            raise ShapeError(
                "the distribution of the blocks has another shape",
                given=tuple(blocks.event_shape),
                accepted=f"{tuple(expected)}: blocks {size} of a support {tuple(shape)}",
            )
        self.size, self.blocks = size, blocks
        super().__init__(shape, validate_args=validate_args)

    @property
    def density(self) -> Tensor:
        """Stationary probability of an active element, a scalar in double precision."""
        return self.blocks.density

    @property
    def prior_log_odds(self) -> Tensor:
        """Stationary log-odds of an active element, a scalar in double precision."""
        return self.blocks.prior_log_odds

    def maximise(self, posterior: SupportPosterior) -> BlockSupport:
        """M-step on the distribution of the blocks.

        Args:
            posterior: A posterior under this distribution, with `pairwise` unless the blocks have
                no pairs.

        Returns:
            A new distribution.

        Raises:
            InvalidArgumentError: If the posterior lacks the expected transition counts.
        """
        of_blocks = posterior._replace(
            log_odds=self._corners(posterior.log_odds),
            probs=self._corners(posterior.probs),
            extrinsic=self._corners(posterior.extrinsic),
        )
        return self._with_blocks(self.blocks.maximise(of_blocks))

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Those of the distribution of the blocks."""
        return self.blocks.parameters

    def with_parameters(self, values: Mapping[str, Any]) -> BlockSupport:
        """See `SupportDistribution.with_parameters`."""
        return self._with_blocks(self.blocks.with_parameters(values))

    def _with_blocks(self, blocks: SupportDistribution) -> BlockSupport:
        new = BlockSupport(self.event_shape, self.size, blocks, self._validate_args)
        return new.expand(self.batch_shape)

    def _solve(self, llr: Tensor, wanted: Request) -> Solution:
        batch = llr.shape[: llr.dim() - len(self.event_shape)]
        local = llr.reshape(*batch, *matrix_shape(self.event_shape))
        pooled = pool_blocks(local, self.size)
        solved = self.blocks.posterior(
            pooled,
            start=wanted.start,
            pairwise=wanted.pairwise,
            log_evidence=wanted.log_evidence,
        )
        spread_blocks(
            solved.extrinsic, pooled, local, self.size, out=wanted.extrinsic.view(local.shape)
        )
        reported = (solved.pairwise, solved.log_evidence, solved.gate_log_odds)
        pairwise, evidence, gates = tree_map_only(Tensor, lambda x: x.to(llr.dtype), reported)
        return Solution(pairwise, evidence, solved.messages, gates)

    def _log_evidence(self, llr: Tensor) -> Tensor:
        batch = llr.shape[: llr.dim() - len(self.event_shape)]
        matrices = llr.double().reshape(-1, 1, *matrix_shape(self.event_shape))
        # a sum over the elements that a block has; `pool_blocks` has no gradient
        pooled = avg_pool2d(matrices, self.size, ceil_mode=True, divisor_override=1)
        return self.blocks.log_evidence(pooled.view(*batch, *pooled.shape[2:])).to(llr.dtype)

    def _draw(self, count: int) -> Tensor:
        return self._elements(self.blocks.sample((count,)))

    def _total_log_prob(self, value: Tensor) -> Tensor:
        states = value.reshape(-1, *matrix_shape(self.event_shape))
        corners = self._corners(value)
        whole = (self._elements(corners) == states).flatten(1).all(1)
        log_prob = self.blocks.log_prob(corners.double())
        return torch.where(whole, log_prob, -torch.inf)

    def _corners(self, elements: Tensor) -> Tensor:
        """The first element of every block, `[..., block rows, block columns]`."""
        batch = elements.shape[: elements.dim() - len(self.event_shape)]
        matrix = elements.reshape(*batch, *matrix_shape(self.event_shape))
        return matrix[..., :: self.size[0], :: self.size[1]]

    def _elements(self, blocks: Tensor) -> Tensor:
        """All elements of blocks, `[..., rows, columns]`."""
        rows, columns = matrix_shape(self.event_shape)
        tall = blocks.repeat_interleave(self.size[0], -2)[..., :rows, :]
        return tall.repeat_interleave(self.size[1], -1)[..., :columns]


def block_shape(event_shape: Sequence[int], size: tuple[int, int]) -> torch.Size:
    """Rows and columns of blocks that cover the matrix view of a support.

    Args:
        event_shape: Shape of the support tensor.
        size: Rows and columns of a block.

    Returns:
        How many blocks there are below and beside one another.

    Raises:
        InvalidArgumentError: If a block would have no elements.
        ShapeError: If the support has fewer than two dims.
    """
    matrix = matrix_shape(torch.Size(event_shape))
    if len(matrix) != 2:
        raise ShapeError(
            "blocks need rows and columns",
            given=f"a support of shape {tuple(event_shape)}",
            accepted="a support with at least two dims",
        )
    if len(size) != 2 or min(size) < 1:
        raise InvalidArgumentError(
            "a block needs elements", given=size, accepted="two integers >= 1"
        )
    return torch.Size(-(-n // m) for n, m in zip(matrix, size, strict=True))
