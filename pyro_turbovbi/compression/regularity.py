"""How regular a support is: clusters, block fill and the bits that say where the weights are.

Two supports with equally many weights can cost very different amounts of memory and time. What
matters is how the kept weights lie together, so the numbers here describe a mask through the index
overhead of common sparse formats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError

RUN_BITS = 24
"""Index bits of one run (where it starts and how long it is) in run-length coding."""
ROW_BITS = 32
"""Index bits of one row pointer."""
COLUMN_BITS = 32
"""Index bits of one column (or block column) number in CSR and block-CSR."""
LINE_WEIGHTS = 16
"""Weights of a cache line: 64 bytes of single precision."""


@dataclass(frozen=True)
class BlockCount:
    """The non-empty blocks of a mask on a fixed tiling.

    Attributes:
        blocks: Number of blocks that hold at least one kept weight.
        cells: Number of weights inside those blocks (blocks at the edge of the matrix are smaller).
        block_rows: Number of rows of blocks.
    """

    blocks: int
    cells: int
    block_rows: int

    def __add__(self, other: BlockCount) -> BlockCount:
        """The counts of two masks together."""
        return BlockCount(
            self.blocks + other.blocks,
            self.cells + other.cells,
            self.block_rows + other.block_rows,
        )


@dataclass(frozen=True)
class Regularity:
    """Counts that describe how clustered a support is; ratios are derived from them.

    Because only counts are stored, the regularity of several layers together is their exact sum,
    see `total`.

    Attributes:
        rows: Number of rows of the matrix view.
        weights: Number of weights, kept or not.
        kept: Number of kept weights.
        clusters: Number of maximal runs of kept weights along the rows.
        max_cluster_length: Length of the longest run; 0 if nothing is kept.
        blocks_8x8: Non-empty blocks of 8 rows x 8 columns.
        blocks_4x4: Non-empty blocks of 4 rows x 4 columns.
        blocks_1x8: Non-empty blocks of 1 row x 8 columns.
        cache_lines: Cache lines of 64 bytes that hold a kept weight, if the matrix is stored dense,
            row by row, in single precision and from the start of a line: what a sparse pass over a
            dense matrix reads.
    """

    rows: int
    weights: int
    kept: int
    clusters: int
    max_cluster_length: int
    blocks_8x8: BlockCount
    blocks_4x4: BlockCount
    blocks_1x8: BlockCount
    cache_lines: int

    @property
    def density(self) -> float:
        """Fraction of kept weights; 0 for an empty matrix."""
        return _ratio(self.kept, self.weights)

    @property
    def mean_cluster_length(self) -> float:
        """Kept weights per run; 0 if nothing is kept."""
        return _ratio(self.kept, self.clusters)

    @property
    def block_fill(self) -> float:
        """Fraction of kept weights inside the non-empty 8x8 blocks; 0 if nothing is kept."""
        return _ratio(self.kept, self.blocks_8x8.cells)

    @property
    def block_fill_4x4(self) -> float:
        """Fraction of kept weights inside the non-empty 4x4 blocks; 0 if nothing is kept."""
        return _ratio(self.kept, self.blocks_4x4.cells)

    @property
    def block_fill_1x8(self) -> float:
        """Fraction of kept weights inside the non-empty 1x8 blocks; 0 if nothing is kept."""
        return _ratio(self.kept, self.blocks_1x8.cells)

    @property
    def cache_lines_per_weight(self) -> float:
        """Cache lines per kept weight, 1/16 at best; 0 if nothing is kept."""
        return _ratio(self.cache_lines, self.kept)

    @property
    def index_bits_run_length(self) -> float:
        """Index bits per kept weight in run-length coding: 24 a run and 32 a row."""
        return _ratio(RUN_BITS * self.clusters + ROW_BITS * self.rows, self.kept)

    @property
    def index_bits_csr(self) -> float:
        """Index bits per kept weight in CSR: 32 a weight and 32 a row."""
        return _ratio(COLUMN_BITS * self.kept + ROW_BITS * self.rows, self.kept)

    @property
    def index_bits_block_csr(self) -> float:
        """Index bits per kept weight in CSR of 8x8 blocks: 32 a block and 32 a row of blocks."""
        tiling = self.blocks_8x8
        return _ratio(COLUMN_BITS * tiling.blocks + ROW_BITS * tiling.block_rows, self.kept)

    @classmethod
    def total(cls, parts: Iterable[Regularity]) -> Regularity:
        """Sums the counts of several layers.

        Args:
            parts: The regularity of every layer.

        Returns:
            The regularity of all of them together; all zeros for no layer at all.
        """
        none = BlockCount(0, 0, 0)
        whole = cls(0, 0, 0, 0, 0, none, none, none, 0)
        for part in parts:
            whole = cls(
                rows=whole.rows + part.rows,
                weights=whole.weights + part.weights,
                kept=whole.kept + part.kept,
                clusters=whole.clusters + part.clusters,
                max_cluster_length=max(whole.max_cluster_length, part.max_cluster_length),
                blocks_8x8=whole.blocks_8x8 + part.blocks_8x8,
                blocks_4x4=whole.blocks_4x4 + part.blocks_4x4,
                blocks_1x8=whole.blocks_1x8 + part.blocks_1x8,
                cache_lines=whole.cache_lines + part.cache_lines,
            )
        return whole

    def to_dict(self) -> dict[str, int | float]:
        """The counts and the ratios under their names, ready for JSON."""
        counts = {f.name: getattr(self, f.name) for f in fields(self) if "blocks" not in f.name}
        return counts | {name: getattr(self, name) for name in _RATIOS}


_RATIOS = (
    "density",
    "mean_cluster_length",
    "block_fill",
    "block_fill_4x4",
    "block_fill_1x8",
    "cache_lines_per_weight",
    "index_bits_run_length",
    "index_bits_csr",
    "index_bits_block_csr",
)


def regularity(mask: Tensor) -> Regularity:
    """Measures how clustered a support is.

    The mask is viewed as the matrix (out, everything else); a vector is one row. Runs lie along the
    rows and do not continue from one row to the next.

    Args:
        mask: Which weights are kept, any shape with at least one dimension; boolean or 0/1 of any
            dtype.

    Returns:
        The counts and ratios of the mask.

    Raises:
        InvalidArgumentError: If the mask is no tensor or a scalar, or holds values other than 0 and
            1.
    """
    matrix = as_matrix(as_bool(mask, "the mask"))
    length, clusters = _runs(matrix)
    return Regularity(
        rows=matrix.shape[0],
        weights=matrix.numel(),
        kept=int(matrix.sum()),
        clusters=clusters,
        max_cluster_length=length,
        blocks_8x8=_block_count(matrix, 8, 8),
        blocks_4x4=_block_count(matrix, 4, 4),
        blocks_1x8=_block_count(matrix, 1, 8),
        cache_lines=_block_count(matrix.reshape(1, -1), 1, LINE_WEIGHTS).blocks,
    )


def as_bool(mask: Tensor, what: str) -> Bool[Tensor, "*shape"]:
    """Reads a 0/1 tensor of any dtype as a boolean one.

    Args:
        mask: The tensor.
        what: How an error message calls it.

    Returns:
        The boolean mask on the same device, of the same shape.

    Raises:
        InvalidArgumentError: If it is no tensor, or a value is neither 0 nor 1.
    """
    if not isinstance(mask, Tensor):
        raise InvalidArgumentError(
            f"{what} is no tensor",
            given=type(mask).__name__,
            accepted="a boolean tensor, or one of zeros and ones, as of torch.as_tensor(mask)",
        )
    if mask.dtype == torch.bool:
        return mask
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InvalidArgumentError(
            f"{what} holds values other than 0 and 1",
            given=f"{mask.dtype} in [{mask.min().item():g}, {mask.max().item():g}]",
            accepted="a boolean tensor, or one of zeros and ones",
        )
    return mask != 0


def as_matrix(mask: Bool[Tensor, "*shape"]) -> Bool[Tensor, "rows cols"]:
    """Views a mask as the matrix (out, everything else); a vector as one row.

    Args:
        mask: A mask with at least one dimension.

    Returns:
        The two-dimensional view.

    Raises:
        InvalidArgumentError: If the mask is a scalar.
    """
    if mask.ndim == 0:
        raise InvalidArgumentError(
            "a scalar has no runs", given="0 dimensions", accepted="a mask of at least 1 dimension"
        )
    if mask.ndim == 1:
        return mask.unsqueeze(0)
    columns = 1
    for size in mask.shape[1:]:
        columns *= size
    return mask.reshape(mask.shape[0], columns)


def _runs(matrix: Bool[Tensor, "rows cols"]) -> tuple[int, int]:
    """Length of the longest run along the rows, and the number of runs."""
    # A zero column after every row keeps runs of neighbouring rows apart in the flat view.
    padded = torch.nn.functional.pad(matrix, (1, 1)).flatten().to(torch.int8)
    steps = padded[1:] - padded[:-1]
    starts, ends = (steps == 1).nonzero().flatten(), (steps == -1).nonzero().flatten()
    longest = int((ends - starts).max()) if starts.numel() else 0
    return longest, starts.numel()


def _block_count(matrix: Bool[Tensor, "rows cols"], height: int, width: int) -> BlockCount:
    rows, cols = matrix.shape
    tall, wide = -(-rows // height), -(-cols // width)
    padded = torch.nn.functional.pad(matrix, (0, wide * width - cols, 0, tall * height - rows))
    occupied = padded.reshape(tall, height, wide, width).any(3).any(1)
    heights = torch.full((tall,), height, device=matrix.device)
    widths = torch.full((wide,), width, device=matrix.device)
    heights[-1:] -= tall * height - rows
    widths[-1:] -= wide * width - cols
    cells = (occupied * heights.unsqueeze(1) * widths).sum()
    return BlockCount(blocks=int(occupied.sum()), cells=int(cells), block_rows=tall)


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 0.0
