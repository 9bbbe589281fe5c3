"""Tensor coding: every bit pattern comes back, in the smaller of the two codings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_turbovbi.compression.encoding import (
    decode,
    decode_selection,
    encode,
    encode_selection,
    pack_bits,
    unpack_bits,
)
from pyro_turbovbi.compression.layers import InputSelect
from pyro_turbovbi.errors import ArtifactError


@given(bits=st.lists(st.booleans(), max_size=70))
@settings(deadline=None)
def test_bits_equal_numpys(bits: list[bool]) -> None:
    mask = torch.tensor(bits, dtype=torch.bool)
    packed = pack_bits(mask)
    assert packed.tolist() == np.packbits(np.array(bits, bool), bitorder="little").tolist()
    assert torch.equal(unpack_bits(packed, len(bits)), mask)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (13,), (4, 0), (5, 7), (2, 3, 4, 5)])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_round_trip(dtype: torch.dtype, shape: tuple[int, ...], density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = (torch.randn(shape, generator=generator) * 9).to(dtype)
    tensor = tensor * (torch.rand(shape, generator=generator) < density).to(dtype)
    back = decode(*encode(tensor))
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(back, tensor)


def test_special_values_keep_their_bits() -> None:
    tensor = torch.zeros(100)
    tensor[:5] = torch.tensor([-0.0, torch.nan, torch.inf, -torch.inf, 1e-45])
    description, parts = encode(tensor)
    assert description["coding"] == "sparse"
    assert torch.equal(decode(description, parts).view(torch.int32), tensor.view(torch.int32))


@pytest.mark.parametrize("kept", [0, 1, 96, 97, 100])
def test_the_smaller_coding_is_taken(kept: int) -> None:
    tensor = torch.zeros(100)
    tensor[:kept] = 1.0
    size = sum(part.numel() * part.element_size() for part in encode(tensor)[1].values())
    assert size == min(400, 4 * kept + 13)


def test_selection_round_trip() -> None:
    layer = InputSelect.of(torch.tensor([0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0], dtype=torch.bool))
    packed = encode_selection(layer)
    assert packed.numel() == 2
    assert torch.equal(decode_selection(packed, 11, 4), layer.indices)
    with pytest.raises(ArtifactError, match="wrong number of units"):
        decode_selection(packed, 11, 5)


def test_refusals() -> None:
    description, parts = encode(torch.eye(10))
    bad: list[tuple[dict[str, object], dict[str, torch.Tensor]]] = [
        ({"coding": "other"}, parts),
        ({"coding": "dense"}, parts),
        (description | {"shape": [10, -10]}, parts),
        (description | {"shape": [10**9, 10**9]}, parts),
        (description, parts | {"values": parts["values"][1:]}),
        (description, parts | {"mask": parts["mask"].bitwise_not()}),
        (description, parts | {"mask": parts["mask"].float()}),
        (description, {"values": parts["values"]}),
    ]
    for what, given_parts in bad:
        with pytest.raises(ArtifactError):
            decode(what, given_parts)
