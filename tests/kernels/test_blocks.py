from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.kernels import ChainLaw, chain_posterior, pool_blocks, spread_blocks
from tests.oracles.enumeration import all_states, chain_log_prior, enumerate_posterior

EXACT = {"rtol": 1e-10, "atol": 1e-10}
LAW = ChainLaw.stationary(0.2, 2.0)
SHAPES = [((4, 6), (2, 3)), ((5, 7), (2, 3)), ((3, 4), (1, 1)), ((2, 3), (8, 8)), ((4, 9), (4, 1))]


def random_llr(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def posterior(llr: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Extrinsic log-odds of elements, of blocks, and the blocks' log-evidence: chains of blocks."""
    pooled = pool_blocks(llr, size)
    blocks = chain_posterior(pooled, LAW, log_evidence=True)
    return (
        spread_blocks(blocks.extrinsic, pooled, llr, size), blocks.extrinsic, blocks.log_evidence,
    )  # fmt: skip


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_pools_the_elements_of_each_block(shape: tuple[int, int], size: tuple[int, int]) -> None:
    llr = random_llr(2, *shape)
    pooled = pool_blocks(llr.float(), size)
    assert pooled.dtype == torch.float64
    for i in range(pooled.shape[1]):
        for j in range(pooled.shape[2]):
            rows = slice(i * size[0], (i + 1) * size[0])
            columns = slice(j * size[1], (j + 1) * size[1])
            total = llr.float()[:, rows, columns].double().sum((1, 2))
            torch.testing.assert_close(pooled[:, i, j], total, **EXACT)


@pytest.mark.parametrize(("shape", "size"), [((4, 4), (2, 2)), ((3, 5), (2, 2)), ((2, 5), (1, 3))])
def test_chains_of_blocks_equal_enumeration(shape: tuple[int, int], size: tuple[int, int]) -> None:
    llr = random_llr(*shape)
    rows, columns = pool_blocks(llr, size).shape
    states = all_states(rows * columns)
    blocks = states.view(-1, rows, columns)
    wide = blocks.repeat_interleave(size[0], 1).repeat_interleave(size[1], 2)
    elements = wide[:, : shape[0], : shape[1]].flatten(1)
    log_prior = chain_log_prior(blocks, *LAW).sum(-1)
    exact = enumerate_posterior(elements, log_prior, llr.flatten())
    extrinsic, _, evidence = posterior(llr, size)
    torch.testing.assert_close((extrinsic + llr).flatten(), exact.log_odds, **EXACT)
    torch.testing.assert_close(evidence.sum(), exact.log_evidence, **EXACT)


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_extrinsic_is_free_of_an_elements_own_evidence(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    llr = random_llr(*shape)
    changed = llr.clone()
    changed[1, 2] += 1e4
    before, after = posterior(llr, size)[0], posterior(changed, size)[0]
    torch.testing.assert_close(after[1, 2], before[1, 2], rtol=0, atol=1e-8)


def test_blocks_of_one_element_change_nothing() -> None:
    llr = random_llr(3, 4)
    extrinsic, blocks, _ = posterior(llr, (1, 1))
    torch.testing.assert_close(extrinsic, blocks, **EXACT)


@pytest.mark.parametrize(("shape", "size"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_writes_where_it_is_told(
    shape: tuple[int, int], size: tuple[int, int], dtype: torch.dtype
) -> None:
    llr = random_llr(2, *shape).to(dtype)
    pooled = pool_blocks(llr, size)
    blocks = chain_posterior(pooled, LAW).extrinsic
    out = torch.empty_like(llr)
    assert spread_blocks(blocks, pooled, llr, size, out=out) is out
    torch.testing.assert_close(out, spread_blocks(blocks, pooled, llr, size))


def test_single_precision_keeps_large_evidence_apart() -> None:
    llr = random_llr(6, 6, scale=1e4).float()
    pooled = pool_blocks(llr, (3, 3))
    got = spread_blocks(torch.zeros_like(pooled), pooled, llr, (3, 3)).double()
    wide = pooled.repeat_interleave(3, 0).repeat_interleave(3, 1)
    torch.testing.assert_close(got, wide - llr.double(), rtol=1e-6, atol=0)


def test_refuses_bad_input() -> None:
    llr = torch.zeros(4, 6)
    with pytest.raises(InvalidArgumentError, match="needs elements"):
        pool_blocks(llr, (0, 2))
    with pytest.raises(ShapeError, match="rows and columns"):
        pool_blocks(llr[:0], (1, 2))
    pooled = pool_blocks(llr, (2, 2))
    with pytest.raises(ShapeError, match="do not cover"):
        spread_blocks(pooled, pooled, llr, (2, 3))
    with pytest.raises(ShapeError, match="overwritten"):
        spread_blocks(pooled, pooled, llr, (2, 2), out=llr.double())
    assert math.isfinite(float(pooled.sum()))
