"""Sum-product on chains as Triton kernels, for CUDA devices: the scan of `scan` in registers.

Chains are cut into tiles. Where a chain is one tile, a single kernel reads the evidence and writes
the messages. Otherwise three kernels follow each other: the products of all tiles, a scan over
these for each chain, and the messages; the evidence is read twice and the messages are written
once, with some hundred bytes per tile and chain in between. Work is spread over elements, not over
chains, so that many short chains and few long ones keep a device equally busy. Nothing is copied or
turned in memory, whichever dim the chains run along.

All arithmetic is in double precision, as in the other back ends; only the last logarithm of
messages that are stored in single precision is taken in that. Sums over a chain are taken in a
fixed order: results do not change from run to run.

Triton comes with the GPU builds of torch; it is imported when the first chains are solved.
"""

from __future__ import annotations

import importlib.util
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from pyro_turbovbi.kernels.law import ChainLaw, ChainSummary

_STEPS = 16  # elements that a thread holds in registers ...
_STEPS_COUNTED = 8  # ... and when it counts transitions, which takes more registers per element
_THREADS = 128  # of a program
_REGISTERS = 168  # of a thread at most: twelve warps on a multiprocessor instead of eight
_LINE = 16  # columns side by side: 64 bytes of memory in single precision
_SCANNED = 128  # tiles that a program of the scan over tiles takes at a time


def available() -> bool:
    """Whether Triton for CUDA is installed, in a version that suits; it is not imported."""
    needed = "2.7"  # comes with Triton 3.3, the first in which kernels can hold tuples
    recent = TorchVersion(torch.__version__) >= TorchVersion(needed)
    return recent and not torch.version.hip and importlib.util.find_spec("triton") is not None


class _Tiling(NamedTuple):
    """How contiguous chains `[outer, length, inner]` are cut into tiles."""

    outer: int
    length: int
    inner: int
    rows: bool
    width: int
    lanes: int
    steps: int

    @classmethod
    def of(cls, shape: torch.Size, dim: int, most: int) -> _Tiling:
        """The tiling of chains along a dim, with at most so many steps."""
        outer, length, inner = shape[:dim].numel(), shape[dim], shape[dim + 1 :].numel()
        rows = inner == 1
        steps = min(most, _next_power_of_two(length))
        lanes = min(_next_power_of_two(-(-length // steps)), _THREADS)
        if not rows:
            lanes = min(lanes, _THREADS // min(_LINE, _next_power_of_two(inner)))
        return cls(outer, length, inner, rows, _THREADS // lanes, lanes, steps)

    @property
    def chains(self) -> int:
        """Number of chains."""
        return self.outer * self.inner

    @property
    def chunks(self) -> int:
        """Number of tiles along a chain."""
        return -(-self.length // (self.lanes * self.steps))

    @property
    def programs(self) -> int:
        """Number of tiles."""
        across = -(-self.chains // self.width)
        if not self.rows:
            across = self.outer * -(-self.inner // self.width)
        return across * self.chunks

    @property
    def constants(self) -> dict[str, int | bool]:
        """Arguments of the kernels that are compiled in."""
        return {
            "ROWS": self.rows,
            "WIDTH": self.width,
            "LANES": self.lanes,
            "STEPS": self.steps,
            "num_warps": _THREADS // 32,
            "enable_fp_fusion": True,
        }


@torch.no_grad()
def update_messages(
    llr: Tensor,
    other: Tensor | None,
    message: Tensor,
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
        llr: Log-likelihood ratios in nats, finite, contiguous, on a CUDA device, single or double.
        other: More evidence, to be added to `llr`, in the same layout and dtype, or None.
        message: Overwritten by the log-odds of all evidence outside an element, without the
            stationary prior; same layout and dtype.
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
    from pyro_turbovbi.kernels import _triton_kernels as kernels

    dim %= llr.dim()
    tiling = _Tiling.of(llr.shape, dim, _STEPS_COUNTED if pairwise else _STEPS)
    parameters = llr.new_tensor(
        [
            law.p00,
            math.sqrt(law.p01 * law.p10),
            law.p11,
            math.sqrt(law.p01 / law.p10),
            offset - law.log_odds,
            damping,
        ],
        dtype=torch.float64,
    )
    shape, size = (tiling.chains, tiling.chunks), tiling.chains * tiling.chunks
    entering = parameters.new_empty(2, *shape if tiling.chunks > 1 else (0,))
    logs = parameters.new_empty(shape if log_evidence else 0)
    counts = parameters.new_empty(4, *shape if pairwise else (0,))
    changes = parameters.new_empty(tiling.programs if residual else 0)
    extent = (tiling.chains, tiling.length, tiling.inner, tiling.chunks, size)
    sources = (llr, llr if other is None else other)
    options = {"OTHER": other is not None, **tiling.constants}
    with torch.cuda.device_of(llr):  # Triton takes the current device, not the tensors'
        if tiling.chunks > 1:
            products = parameters.new_empty(4, *shape)
            kernels.multiply[(tiling.programs,)](*sources, parameters, products, *extent, **options)
            span = min(_SCANNED, _next_power_of_two(tiling.chunks))
            width = _SCANNED // span
            kernels.enter[(-(-tiling.chains // width),)](
                parameters, products, entering, tiling.chains, tiling.chunks, size,
                WIDTH=width, SPAN=span, num_warps=_SCANNED // 32, enable_fp_fusion=True,
            )  # fmt: skip
        kernels.solve[(tiling.programs,)](
            *sources, message, parameters, entering, logs, counts, changes, *extent,
            SPLIT=tiling.chunks > 1, MIX=residual or damping > 0, RESIDUAL=residual,
            LOGS=log_evidence, COUNTS=pairwise, maxnreg=_REGISTERS, **options,
        )  # fmt: skip
    others = llr.shape[:dim] + llr.shape[dim + 1 :]
    return ChainSummary(
        log_evidence=logs.sum(1).view(others) if log_evidence else None,
        transitions=counts.sum(2).T.reshape(*others, 2, 2) if pairwise else None,
        residual=float(changes.max()) if residual else math.nan,
    )


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
