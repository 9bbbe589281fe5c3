"""Standard deviations in quarters of octaves."""

from __future__ import annotations

import torch

from pyro_turbovbi.compression.stored import TensorSize, codes_to_scales, scales_to_codes


def test_scales_come_back_within_an_eighth_of_an_octave() -> None:
    scales = torch.logspace(-12, 7, 500, dtype=torch.float64)
    back = codes_to_scales(scales_to_codes(scales), torch.float64)
    assert float((back / scales).log2().abs().max()) <= 1 / 8 + 1e-12


def test_zero_stays_zero_and_powers_of_two_are_exact() -> None:
    scales = torch.tensor([[0.0, 1.0], [2.0**-20, 0.25]])
    codes = scales_to_codes(scales)
    assert codes.tolist() == [[0, 161], [81, 153]]
    assert torch.equal(codes_to_scales(codes, torch.float32), scales)


def test_scales_beyond_the_table_are_clipped() -> None:
    assert scales_to_codes(torch.tensor([1e-30, 1e30])).tolist() == [1, 255]


def test_codes_that_come_back_do_not_change() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(scales_to_codes(codes_to_scales(codes, torch.float64)), codes)


def test_bytes_are_the_sum_of_the_bits() -> None:
    size = TensorSize("0.weight", (3, 2), 4, "row chain", 6.0, 20.0, 14.0)
    assert size.bytes == 5.0
