"""Regularity against hand-made masks and against a slow second algorithm."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pyro_turbovbi.compression import Regularity, compress, regularity
from pyro_turbovbi.errors import InvalidArgumentError


def slow_blocks(rows: list[list[bool]], height: int, width: int) -> tuple[int, int]:
    blocks = cells = 0
    for top in range(0, len(rows), height):
        for left in range(0, len(rows[0]), width):
            block = [row[left : left + width] for row in rows[top : top + height]]
            if any(any(row) for row in block):
                blocks += 1
                cells += sum(len(row) for row in block)
    return blocks, cells


@given(
    rows=st.integers(1, 19),
    cols=st.integers(1, 21),
    density=st.sampled_from([0.0, 0.05, 0.3, 0.8, 1.0]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_equals_slow_second_algorithm(rows: int, cols: int, density: float, seed: int) -> None:
    mask = torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed)) < density
    lists = mask.tolist()
    runs = [len(list(g)) for row in lists for kept, g in groupby(row) if kept]
    measured = regularity(mask)
    assert measured.rows == rows
    assert measured.weights == rows * cols
    assert measured.kept == sum(map(sum, lists))
    assert measured.clusters == len(runs)
    assert measured.max_cluster_length == max(runs, default=0)
    for (height, width), count in {
        (8, 8): measured.blocks_8x8,
        (4, 4): measured.blocks_4x4,
        (1, 8): measured.blocks_1x8,
    }.items():
        assert (count.blocks, count.cells) == slow_blocks(lists, height, width)
        assert count.block_rows == -(-rows // height)
    addresses = [4 * i for i, kept in enumerate(x for row in lists for x in row) if kept]
    assert measured.cache_lines == len({address // 64 for address in addresses})


def test_hand_made_mask() -> None:
    mask = torch.tensor(
        [
            [1, 1, 0, 1, 0, 0, 0, 0, 0, 1],
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
    )
    measured = regularity(mask)
    assert (measured.kept, measured.clusters, measured.max_cluster_length) == (5, 4, 2)
    assert measured.density == 5 / 30
    assert measured.mean_cluster_length == 5 / 4
    assert measured.block_fill == 5 / 30  # both 8x8 blocks, cut to 3x8 and 3x2 cells
    assert measured.block_fill_4x4 == 5 / 18  # the middle 3x4 block is empty
    assert measured.block_fill_1x8 == 5 / (8 + 2 + 8)
    assert (measured.cache_lines, measured.cache_lines_per_weight) == (1, 1 / 5)
    assert measured.index_bits_run_length == (24 * 4 + 32 * 3) / 5
    assert measured.index_bits_csr == (32 * 5 + 32 * 3) / 5
    assert measured.index_bits_block_csr == (32 * 2 + 32 * 1) / 5


def test_runs_do_not_continue_in_the_next_row() -> None:
    measured = regularity(torch.ones(4, 6, dtype=torch.bool))
    assert (measured.clusters, measured.max_cluster_length) == (4, 6)
    assert measured.block_fill == measured.block_fill_4x4 == measured.block_fill_1x8 == 1.0


def test_a_cache_line_may_hold_the_end_of_a_row_and_the_start_of_the_next() -> None:
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[0, 11] = mask[1, 0] = True  # weights 11 and 12 of line 0
    assert regularity(mask).cache_lines == 1
    mask[1, 4] = mask[2, 7] = True  # 16 is the first of line 1, 31 its last
    assert regularity(mask).cache_lines == 2
    mask[2, 8] = True
    assert regularity(mask).cache_lines == 3
    assert regularity(mask).cache_lines_per_weight == 3 / 5


def test_convolution_is_the_matrix_out_by_rest() -> None:
    mask = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.3
    assert regularity(mask) == regularity(mask.reshape(6, 75))


def test_vector_is_one_row() -> None:
    measured = regularity(torch.tensor([1.0, 1.0, 0.0, 1.0]))
    assert (measured.rows, measured.clusters, measured.max_cluster_length) == (1, 2, 2)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 4)])
def test_nothing_kept_gives_zeros(shape: tuple[int, int]) -> None:
    measured = regularity(torch.zeros(shape, dtype=torch.bool))
    assert measured.mean_cluster_length == measured.density == measured.block_fill == 0.0
    assert measured.index_bits_run_length == measured.index_bits_csr == 0.0
    assert measured.cache_lines == measured.cache_lines_per_weight == 0


def test_total_is_that_of_the_stacked_matrix() -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.rand(8 * n, 16, generator=generator) < 0.2 for n in (1, 2, 3)]
    assert Regularity.total(map(regularity, parts)) == regularity(torch.cat(parts))
    assert Regularity.total([]).weights == 0


def test_to_dict_is_json_with_every_ratio() -> None:
    plain = json.loads(json.dumps(regularity(torch.eye(5)).to_dict()))
    assert plain["clusters"] == 5
    assert plain["mean_cluster_length"] == 1.0
    assert plain["index_bits_run_length"] == 24 + 32


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("mask", [[[1, 0], [0, 1]], np.eye(2)], ids=["list", "array"])
def test_refuses_what_is_no_tensor(mask: Any) -> None:
    expected = "no tensor; given: .*; accepted: a boolean tensor, or one of zeros and ones, as of"
    with pytest.raises(InvalidArgumentError, match=f"^the mask is {expected}"):
        regularity(mask)
    with pytest.raises(InvalidArgumentError, match=f"^the mask of '0.weight' is {expected}"):
        compress(nn.Sequential(nn.Linear(2, 2)), {"0.weight": mask}, torch.randn(3, 2))


def test_refuses_other_values_and_scalars() -> None:
    with pytest.raises(InvalidArgumentError, match=r"other than 0 and 1.*given.*accepted"):
        regularity(torch.tensor([[0.5, 1.0]]))
    with pytest.raises(InvalidArgumentError, match="scalar"):
        regularity(torch.tensor(True))
