"""Batch normalisation over several processes against torch's over the whole batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi._batch_norm import SharedBatchNorm
from pyro_turbovbi.distributed import World
from tests.threads import in_threads

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "features": (nn.BatchNorm1d(3), (3,)),
    "images": (nn.BatchNorm2d(3), (3, 4, 2)),
    "no scale": (nn.BatchNorm2d(3, affine=False), (3, 2, 2)),
    "no statistics": (nn.BatchNorm1d(3, track_running_stats=False), (3,)),
    "mean of all batches": (nn.BatchNorm1d(3, momentum=None), (3, 5)),
    "lazy scale": (nn.BatchNorm1d(3, eps=0.1, momentum=0.5), (3,)),
}


def run(layer: Any, x: Tensor, part: slice) -> list[Tensor]:
    """Output, gradient of the input, statistics and gradients after two batches."""
    found = []
    for batch in (x, 2.0 * x + 1.0):
        inputs = batch[part].clone().requires_grad_()
        output = layer(inputs)
        weights = torch.linspace(-1.0, 2.0, batch.numel()).to(x).view(batch.shape)
        (output.sin() * weights[part]).sum().backward()
        assert inputs.grad is not None
        found += [output.detach(), inputs.grad]
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_parts_of_a_batch_are_normalised_as_the_whole(name: str) -> None:
    layer, shape = LAYERS[name]
    layer, rows = copy.deepcopy(layer).double(), 5
    x = 100.0 + torch.randn(rows, *shape, dtype=torch.float64)
    whole = copy.deepcopy(layer)
    expected = run(whole, x, slice(None))

    def task(world: World) -> tuple[list[Tensor], nn.Module]:
        own, part = copy.deepcopy(layer), slice(*((0, 2), (2, rows))[world.rank])
        with SharedBatchNorm(world.add):
            return run(own, x, part), own

    (first, one), (second, other) = in_threads(2, task)
    for parts, wanted in zip(zip(first, second, strict=True), expected, strict=True):
        torch.testing.assert_close(torch.cat(parts), wanted, rtol=1e-9, atol=1e-9)
    for buffer, same, wanted in zip(one.buffers(), other.buffers(), whole.buffers(), strict=True):
        assert torch.equal(buffer, same)
        torch.testing.assert_close(buffer, wanted, rtol=1e-12, atol=1e-12)
    gradients = ([p.grad for p in net.parameters()] for net in (one, other, whole))
    for mine, theirs, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(mine + theirs, wanted, rtol=1e-9, atol=1e-9)


def test_half_precision_is_summed_in_single() -> None:
    layer, x = nn.BatchNorm1d(2), (100.0 + torch.randn(8, 2)).bfloat16()
    wanted = copy.deepcopy(layer)(x.float())
    with SharedBatchNorm(lambda _total: None):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), wanted, rtol=1e-2, atol=1e-2)


def test_nothing_is_replaced_without_a_sum_or_in_evaluation() -> None:
    def add(_total: Tensor) -> None:
        raise AssertionError

    layer, x = nn.BatchNorm1d(2), torch.randn(8, 2)
    wanted = copy.deepcopy(layer)(x)
    with SharedBatchNorm(None):
        assert torch.equal(layer(x), wanted)
    layer.eval()
    wanted = layer(x)
    with SharedBatchNorm(add):
        assert torch.equal(layer(x), wanted)
