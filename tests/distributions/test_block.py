from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.distributions import (
    BlockSupport,
    GatedMarkovSupport,
    IndependentSupport,
    MarkovGridSupport,
    SupportDistribution,
)
from pyro_turbovbi.distributions.block import block_shape
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def random_llr(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def inner(name: str, shape: torch.Size) -> SupportDistribution:
    if name == "grid":
        return MarkovGridSupport(shape, 0.3, (2.0, 2.0))
    return GatedMarkovSupport(shape, (0.3, 0.4), (0.2, 0.5))


@pytest.mark.parametrize("name", ["grid", "gated"])
@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (4, 3, 2, 2)])
def test_any_law_of_the_blocks(name: str, shape: tuple[int, ...]) -> None:
    prior = BlockSupport(shape, (2, 3), inner(name, block_shape(shape, (2, 3))))
    llr = random_llr(5, *shape).float()
    post = prior.posterior(llr)
    again = prior.posterior(llr, start=post.messages, out=post)
    assert again.extrinsic.data_ptr() == post.extrinsic.data_ptr()
    matrix = post.log_odds.view(5, shape[0], -1)
    for rows in matrix.split(2, 1):
        for block in rows.split(3, 2):
            flat = block.flatten(1)
            torch.testing.assert_close(flat, flat[:, :1].expand_as(flat), rtol=1e-5, atol=1e-4)
    fitted = prior.maximise(prior.posterior(llr))
    assert type(fitted.blocks) is type(prior.blocks)
    assert fitted.size == (2, 3)


def test_what_is_no_union_of_blocks_is_impossible() -> None:
    prior = BlockSupport((4, 4), (2, 2), IndependentSupport((2, 2), 0.3))
    value = torch.zeros(3, 4, 4)
    value[1, :2, 2:] = 1
    value[2, 0, 0] = 1
    nothing, block, part = prior.log_prob(value).tolist()
    assert nothing == pytest.approx(4 * torch.tensor(0.7).log().item())
    assert block == pytest.approx(nothing + torch.tensor(0.3 / 0.7).log().item())
    assert part == -torch.inf


def test_refuses_blocks_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="another shape"):
        BlockSupport((4, 6), (2, 2), IndependentSupport((2, 2), 0.3))
    with pytest.raises(ShapeError, match="rows and columns"):
        block_shape((5,), (2, 2))
    with pytest.raises(InvalidArgumentError, match="integers >= 1"):
        block_shape((5, 5), (0, 2))
