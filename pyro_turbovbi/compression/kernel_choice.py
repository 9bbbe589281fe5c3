"""Chooses the kernel that a linear layer is fastest with, by measured time."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.inference_layers import SparseLinear, TransposedLinear
from pyro_turbovbi.compression.layers import InputSelect
from pyro_turbovbi.compression.measure import timings_of

Timer: TypeAlias = Callable[[Sequence[nn.Module], Tensor], list[list[float]]]
"""Times one batch through several modules, round by round, as `measure.timings_of` does."""

DENSE = "dense"
TRANSPOSED = "transposed"
CSR = "csr"
BLOCKS = (4, 8, 16)
"""Edges of the blocks of block-sparse candidates."""
MOST_STORED = 0.5
"""A sparse format is tried if it stores at most this share of the weights, indices aside."""
MARGIN = 0.1
"""By which share of a simpler kernel's time a further one must be faster."""
MAJORITY = 0.75
"""In which share of the rounds it must be faster."""
ROUNDING = 100
"""Accepted deviation from the dense layer, in units of the floating-point type's precision,
relative to the largest output."""

_Maker: TypeAlias = Callable[..., TransposedLinear | SparseLinear]
_KERNELS: Mapping[str, _Maker] = {
    TRANSPOSED: TransposedLinear,
    CSR: SparseLinear,
    **{f"bsr {edge}x{edge}": partial(SparseLinear, block=edge) for edge in BLOCKS},
}
"""What makes each kernel; the simplest first."""


@dataclass(frozen=True)
class KernelChoice:
    """Which kernel a layer uses, and why.

    Attributes:
        kernel: `"dense"` (the layer as it is), `"transposed"` (see `TransposedLinear`), `"csr"` or
            `"bsr 8x8"` and the like (see `SparseLinear`).
        reason: Why, in one clause.
        seconds: Median time of one batch through the layer, by kernel; empty if only the dense one
            was possible.
        skipped: Kernels that cannot be used here, with what is the matter.
    """

    kernel: str
    reason: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def rejected(self, reason: str) -> KernelChoice:
        """The same measurements, but the layer stays as it is.

        Args:
            reason: Why another kernel that was chosen is not used.
        """
        return self if self.kernel == DENSE else replace(self, kernel=DENSE, reason=reason)

    def joined(self, gain: float) -> KernelChoice:
        """The same measurements, but the layer is computed in one with its neighbours.

        Args:
            gain: How many times as fast they are together.
        """
        together = f"in one with its neighbours, {gain:.1f} times as fast as one by one"
        if self.kernel == DENSE:
            return replace(self, kernel=TRANSPOSED, reason=together)
        return replace(self, reason=f"{self.reason}; {together}")

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """The kernel, the reason, and the time of every candidate in microseconds."""
        times = ", ".join(
            f"{name} {seconds * 1e6:.0f} us" for name, seconds in self.seconds.items()
        )
        return f"{self.kernel} ({self.reason})" + (f": {times}" if times else "")


def choose(
    linear: nn.Linear,
    x: Tensor,
    *,
    select: InputSelect | None = None,
    timer: Timer = timings_of,
) -> tuple[nn.Module | None, KernelChoice]:
    """Chooses the kernel of a layer for a batch of inputs.

    The simplest kernel wins (dense, transposed, CSR, BSR, in this order) unless a further one is
    faster by a tenth in the median and faster in three rounds out of four, so that noise does not
    decide. What raises, or deviates from the dense layer by more than rounding, is no candidate.

    Args:
        linear: The layer in evaluation mode; it is not touched.
        x: A batch of inputs of the two, shape (..., features), laid out in memory as it will be.
        select: The layer in front of it, if there is one that selects its inputs; another kernel
            takes its place as well.
        timer: How candidates are timed.

    Returns:
        A module that takes the place of the layers, None if they stay; and the reasons.
    """
    dense = linear if select is None else nn.Sequential(select, linear)
    usable, skipped = _usable(dense, linear, select, x)
    if len(usable) == 1:
        return None, KernelChoice(DENSE, "no other kernel can be used", {}, skipped)
    times = dict(zip(usable, timer(list(usable.values()), x), strict=True))
    kernel = fastest(times)
    seconds = {name: statistics.median(rounds) for name, rounds in times.items()}
    choice = KernelChoice(kernel, _reason(kernel, seconds), seconds, skipped)
    return None if kernel == DENSE else usable[kernel], choice


def fastest(times: Mapping[str, Sequence[float]]) -> str:
    """The winner among candidates: each further one must beat the best so far.

    Args:
        times: Seconds of every round, by candidate; the simplest first.

    Returns:
        The winner's name.
    """
    best, *further = times
    for name in further:
        if beats(times[name], times[best]):
            best = name
    return best


def beats(
    challenger: Sequence[float], champion: Sequence[float], *, margin: float = MARGIN
) -> bool:
    """Whether one of two that took turns is faster, beyond noise.

    Args:
        challenger: Its seconds in every round.
        champion: The other's seconds in the same rounds.
        margin: By which share of the champion's median the challenger's must be smaller.

    Returns:
        Whether it is, and the challenger was faster in three rounds out of four.
    """
    won = sum(a < b for a, b in zip(challenger, champion, strict=True))
    faster = statistics.median(challenger) < (1 - margin) * statistics.median(champion)
    return faster and won >= MAJORITY * len(champion)


def _reason(kernel: str, seconds: Mapping[str, float]) -> str:
    if kernel == DENSE:
        return "no other kernel is clearly faster"
    return f"{seconds[DENSE] / seconds[kernel]:.1f} times as fast as dense"


def _usable(
    dense: nn.Module, linear: nn.Linear, select: InputSelect | None, x: Tensor
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """What is dense and what computes the same, the simplest first; and what does not, with why."""
    usable, skipped = {DENSE: dense}, {}
    with torch.inference_mode():
        expected = dense(x)
    for name, make in _KERNELS.items():
        try:
            layer = make(linear, select=select)
            if isinstance(layer, SparseLinear) and layer.stored > MOST_STORED:
                continue
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # how fast a kernel is will be measured
                error = _deviation(expected, layer(x))
        except RuntimeError as refusal:  # not every build of torch has every sparse kernel
            skipped[name] = str(refusal).splitlines()[0]
            continue
        if error <= ROUNDING * torch.finfo(expected.dtype).eps:
            usable[name] = layer
        else:
            skipped[name] = f"deviates by {error:.1e} of the largest output"
    return usable, skipped


def _deviation(expected: Tensor, actual: Tensor) -> float:
    """The largest, relative to the largest output."""
    largest, deviation = float(expected.abs().max()), float((expected - actual).abs().max())
    return deviation / largest if largest else deviation
