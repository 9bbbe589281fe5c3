"""`ptv inspect`: what a saved network holds and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyro_turbovbi.compression.artifact import read
from pyro_turbovbi.compression.stored import Stored, TensorSize
from pyro_turbovbi.errors import InvalidArgumentError


@dataclass(frozen=True)
class Inspection:
    """A saved network that was read.

    Attributes:
        file: The file.
        bytes: Its size.
        stored: What it holds.
    """

    file: Path
    bytes: int
    stored: Stored

    @property
    def layers(self) -> list[str] | None:
        """Class names of the layers; None if the network is of a class of the user's own."""
        module = self.stored.module
        return None if module is None else [type(layer).__name__ for layer in module]

    def to_dict(self) -> Mapping[str, Any]:
        """Coding, version, layers, and the size of every tensor."""
        return {
            "file": self.file,
            "bytes": self.bytes,
            "coding": self.stored.coding,
            "version": self.stored.version,
            "layers": self.layers,
            "standard_deviations": list(self.stored.scales),
            "tensors": [asdict(size) for size in self.stored.sizes],
        }

    def __str__(self) -> str:
        """Several lines: the whole, then every tensor, then what the file takes besides them."""
        stored, tensors = self.stored, sum(size.bytes for size in self.stored.sizes)
        kinds = ", ".join(self.layers or ["of a class that `load(path, net=...)` must be given"])
        return "\n".join(
            [
                f"{self.file}: {self.bytes:,} bytes, {stored.coding} coding, version "
                f"{stored.version}, checksum ok",
                f"layers: {kinds}",
                f"standard deviations: {_uncertain(stored)}",
                "",
                f"{'tensor':20}{'shape':>14}{'kept':>9}{'support':>9}{'value':>9}{'sd':>7}"
                f"{'bytes':>10}  coding",
                *(_line(size) for size in stored.sizes),
                f"{'everything else':20}{self.bytes - tensors:>58,.0f}",
                "support, value, sd: bits a kept weight",
            ]
        )


def inspect_file(path: Path) -> Inspection:
    """Reads a saved network; runs no code.

    Args:
        path: A file from `Compressed.save`.

    Returns:
        What it holds; prints as a table.

    Raises:
        ArtifactError: If the file is damaged, of an unknown version, or not one of ours.
        InvalidArgumentError: If the file cannot be read.
        UnsupportedError: If reading it needs a package that is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(
            "the file cannot be read",
            given=f"{path} ({error.strerror})",
            accepted="a saved network",
        ) from error
    return Inspection(path, len(content), read(content))


def _uncertain(stored: Stored) -> str:
    return ", ".join(stored.scales) or "none"


def _line(size: TensorSize) -> str:
    shape = "x".join(map(str, size.shape)) or "scalar"
    parts = (size.support_bits, size.value_bits, size.scale_bits)
    support, value, scale = (f"{bits / size.kept:.2f}" if size.kept else "-" for bits in parts)
    return (
        f"{size.name:20}{shape:>14}{size.kept:>9,}{support:>9}{value:>9}{scale:>7}"
        f"{size.bytes:>10,.0f}  {size.coding}"
    )
