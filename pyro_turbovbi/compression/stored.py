"""What the file of a compressed network holds, in either coding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.state_form import filled
from pyro_turbovbi.compression.surgery import Surgery
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.likelihoods import Likelihood

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
        coding: `"plain"` or `"compact"`.
        version: Version of that form.
        scales: Posterior standard deviations by parameter name, shapes as the parameters'; empty if
            the file holds none.
        sizes: What every tensor takes.
        module: The network in evaluation mode, on the CPU; None if it is no chain of layers.
        state: The tensors of a network that is no chain of layers, by name.
        surgery: How such a network was cut; None for a chain.
        likelihood: What the outputs mean, on the CPU; None if the file does not say.
    """

    coding: str
    version: int
    scales: Mapping[str, Tensor]
    sizes: tuple[TensorSize, ...]
    module: nn.Sequential | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    surgery: Surgery | None = None
    likelihood: Likelihood | None = None

    def assembled(self, net: nn.Module | None) -> nn.Module:
        """The network.

        Args:
            net: An uncut instance of the class of a network that is no chain of layers; None for a
                chain. It is not touched.

        Returns:
            The network in evaluation mode.

        Raises:
            InvalidArgumentError: If there is a net and the file needs none, or the other way round.
            ArtifactError, ShapeError: If the net does not fit the file.
        """
        if self.module is not None and net is None:
            return self.module
        if self.surgery is not None and net is not None:
            return filled(net, self.surgery, self.state)
        raise InvalidArgumentError(
            "the file holds a chain of layers and rebuilds it alone"
            if net is not None
            else "the file holds a network whose class it cannot bring along",
            given=f"net={None if net is None else type(net).__name__}",
            accepted="net=None" if net is not None else "load(path, net=MyNet())",
        )


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
