"""Lossless coding of tensors: dense, or values and one bit a weight where that is smaller.

Every bit pattern survives, also negative zeros and NaN.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from pyro_turbovbi.compression.layers import InputSelect
from pyro_turbovbi.errors import ArtifactError

_BIT_VALUES = (1, 2, 4, 8, 16, 32, 64, 128)
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack_bits(mask: Bool[Tensor, "*shape"]) -> UInt8[Tensor, " bytes"]:
    """Packs a mask in row-major order, eight entries a byte, the first in the lowest bit.

    Args:
        mask: Any shape.

    Returns:
        ceil(entries / 8) bytes.
    """
    flat = mask.flatten()
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).reshape(-1, 8)
    return (padded * torch.tensor(_BIT_VALUES, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, count: int) -> Bool[Tensor, " count"]:
    """Inverse of `pack_bits`.

    Args:
        packed: The bytes; they come from a file and are checked.
        count: Number of entries.

    Returns:
        The mask as a vector.

    Raises:
        ArtifactError: If the number of bytes does not fit, or a bit behind the last entry is set.
    """
    if packed.dtype != torch.uint8 or packed.shape != (-(-count // 8),):
        raise ArtifactError("a bit mask has the wrong size", given=str(tuple(packed.shape)))
    bits = ((packed.unsqueeze(1) & torch.tensor(_BIT_VALUES, dtype=torch.uint8)) != 0).flatten()
    if bool(bits[count:].any()):
        raise ArtifactError("a bit mask has bits behind its end")
    return bits[:count]


def encode(tensor: Tensor) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Codes a tensor in the smaller of the two ways.

    Args:
        tensor: Any shape and real dtype, on the CPU.

    Returns:
        A description for the manifest (`coding`, and `shape` where it is needed), and the parts to
        store.
    """
    dense = tensor.detach().contiguous()
    present = dense.view(_INTEGERS[dense.element_size()]) != 0
    values = dense[present]
    sparse_bytes = values.numel() * dense.element_size() + -(-dense.numel() // 8)
    if sparse_bytes >= dense.numel() * dense.element_size():
        return {"coding": "dense"}, {"data": dense}
    description: dict[str, object] = {"coding": "sparse", "shape": list(dense.shape)}
    return description, {"values": values, "mask": pack_bits(present)}


def decode(description: Mapping[str, object], parts: Mapping[str, Tensor]) -> Tensor:
    """Inverse of `encode`.

    Args:
        description: The description from the manifest.
        parts: The stored parts.

    Returns:
        The tensor, in memory of its own.

    Raises:
        ArtifactError: If description and parts do not fit together.
    """
    coding = description.get("coding")
    if coding == "dense" and parts.keys() == {"data"}:
        return parts["data"].clone()
    shape = description.get("shape")
    if coding != "sparse" or parts.keys() != {"values", "mask"} or not _is_shape(shape):
        raise ArtifactError(
            "a tensor's description does not fit its parts", given=dict(description)
        )
    size = torch.Size(shape)  # type: ignore[arg-type]  # checked above
    # Checked before any memory of this size is taken: the size comes from the file.
    present = unpack_bits(parts["mask"], size.numel())
    if parts["values"].shape != (int(present.sum()),):
        raise ArtifactError("a sparse tensor has the wrong number of values")
    dense = torch.zeros(size.numel(), dtype=parts["values"].dtype)
    dense[present] = parts["values"]
    return dense.reshape(size)


def encode_selection(layer: InputSelect) -> Tensor:
    """The kept units of a selection as packed bits: smaller than their numbers.

    Args:
        layer: The selection.

    Returns:
        ceil(size / 8) bytes.
    """
    keep = torch.zeros(layer.size, dtype=torch.bool)
    keep[layer.indices.cpu()] = True
    return pack_bits(keep)


def decode_selection(packed: Tensor, size: int, count: int) -> Tensor:
    """Inverse of `encode_selection`.

    Args:
        packed: The bytes.
        size: Number of units before the selection.
        count: Number of kept units.

    Returns:
        The indices of the kept units, int64, shape (count,).

    Raises:
        ArtifactError: If the bytes do not mark `count` of `size` units.
    """
    indices = unpack_bits(packed, size).nonzero().flatten()
    if indices.numel() != count:
        raise ArtifactError("a selection keeps the wrong number of units", given=indices.numel())
    return indices


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
