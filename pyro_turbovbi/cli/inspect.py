"""`python -m pyro_turbovbi inspect FILE`: what a saved network holds and what it costs."""

from __future__ import annotations

from pathlib import Path

from pyro_turbovbi.compression.artifact import read
from pyro_turbovbi.compression.stored import Stored, TensorSize
from pyro_turbovbi.errors import InvalidArgumentError


def inspect_file(path: Path) -> str:
    """Reads a saved network and describes it.

    Args:
        path: A file from `Compressed.save`.

    Returns:
        Several lines: coding, version and checksum; shape, weights left, bits a weight and bytes of
            every tensor; what the file takes besides them.

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
    stored = read(content)
    tensors = sum(size.bytes for size in stored.sizes)
    kinds = "of a class that `load(path, net=...)` must be given"
    if stored.module is not None:
        kinds = ", ".join(type(layer).__name__ for layer in stored.module)
    return "\n".join(
        [
            f"{path}: {len(content):,} bytes, {stored.coding} coding, version {stored.version}, "
            "checksum ok",
            f"layers: {kinds}",
            f"standard deviations: {_uncertain(stored)}",
            "",
            f"{'tensor':20}{'shape':>14}{'kept':>9}{'support':>9}{'value':>9}{'sd':>7}{'bytes':>10}"
            "  coding",
            *(_line(size) for size in stored.sizes),
            f"{'everything else':20}{len(content) - tensors:>58,.0f}",
            "support, value, sd: bits a kept weight",
        ]
    )


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
