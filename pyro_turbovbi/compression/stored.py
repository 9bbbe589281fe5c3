"""What the file of a compressed network holds, in either coding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SCALE_STEPS = 4
"""Standard deviations are kept in quarters of octaves: at most 9 % off."""
_ORIGIN = 160


@dataclass(frozen=True)
class TensorSize:
    """What one tensor takes in a file.

    Attributes:
        name: Layer and tensor, such as `0.weight`.
        shape: Its shape.
        kept: Entries that are not zero.
        coding: How it is coded, in words.
        support_bits: Bits that say where the kept entries are; 0 if all entries are stored.
        value_bits: Bits of the entries' values.
        scale_bits: Bits of their standard deviations; 0 if the file holds none.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    coding: str
    support_bits: float
    value_bits: float
    scale_bits: float = 0.0

    @property
    def bytes(self) -> float:
        """All of it in bytes; fractions of bits are shared with the neighbours."""
        return (self.support_bits + self.value_bits + self.scale_bits) / 8


@dataclass(frozen=True, eq=False)
class Stored:
    """A network as a file holds it.

    Attributes:
        module: The network in evaluation mode, on the CPU.
        scales: Posterior standard deviations by parameter name of `module`, shapes as the
            parameters'; empty if the file holds none.
        coding: `"plain"` or `"compact"`.
        version: Version of that form.
        sizes: What every tensor takes.
    """

    module: nn.Sequential
    scales: Mapping[str, Tensor]
    coding: str
    version: int
    sizes: tuple[TensorSize, ...]


def scales_to_codes(scales: Tensor) -> Tensor:
    """Standard deviations in quarters of octaves.

    Args:
        scales: Not negative, any shape.

    Returns:
        uint8, same shape: 0 for zero, otherwise 161 + 4 log2(scale), rounded, within 1 to 255
        (2^-40 to 2^23.5).
    """
    codes = (scales.double().log2() * SCALE_STEPS).round() + _ORIGIN + 1
    return torch.where(scales > 0, codes.clamp(1, 255), 0).to(torch.uint8)


def codes_to_scales(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of `scales_to_codes`, up to its rounding.

    Args:
        codes: uint8, any shape.
        dtype: Of the standard deviations.

    Returns:
        The standard deviations, same shape.
    """
    table = [0.0] + [math.exp2((code - _ORIGIN - 1) / SCALE_STEPS) for code in range(1, 256)]
    return torch.tensor(table, dtype=dtype)[codes.long()]
