"""Noisy layers against draws of their weights, and a small training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.frontier_cases.training import Task
from benchmarks.frontier_cases.variational import Noisy, Variational
from pyro_turbovbi.data import TensorPair
from pyro_turbovbi.priors import GroupHorseshoe, GroupNormalJeffreys, LogUniform


def test_pre_activations_have_the_moments_of_drawn_weights() -> None:
    layer = nn.Linear(3, 2)
    noisy = Noisy(layer, LogUniform())
    noisy.weight.raw.log_scale.data.fill_(-0.5)
    x = torch.randn(1, 3)
    with torch.no_grad():
        outputs = noisy(x.expand(50_000, 3))
        loc, scale = noisy.weight.moments()
        weights = loc + scale * torch.randn(50_000, 2, 3)
        expected = (weights @ x[0]) + layer.bias
    torch.testing.assert_close(outputs.mean(0), expected.mean(0), atol=0.02, rtol=0.02)
    torch.testing.assert_close(outputs.std(0), expected.std(0), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("dim", [0, 1])
def test_groups_of_a_convolution_share_a_scale(dim: int) -> None:
    """With fixed raw weights the outputs of a data point vary along the groups alone."""
    layer = nn.Conv2d(2, 3, 2, bias=False)
    noisy = Noisy(layer, GroupNormalJeffreys(dim=dim))
    noisy.weight.raw.log_scale.data.fill_(-30.0)
    noisy.weight.value("w_scale").log_scale.data.fill_(0.0)
    x = torch.randn(1, 2, 4, 4).expand(6, -1, -1, -1)
    with torch.no_grad():
        outputs, plain = noisy(x), layer(x)
    if dim == 0:
        ratio = (outputs / plain).flatten(2)
        assert float(ratio.std(-1).max()) < 1e-2 * float(ratio.std((0, 1)).max())
    else:
        # Every point's output is a combination of the two channels' outputs.
        parts = [nn.functional.conv2d(x[:1, [c]], layer.weight[:, [c]]).flatten() for c in (0, 1)]
        basis = torch.stack(parts, 1)
        fit = torch.linalg.lstsq(basis, outputs.flatten(1).T).solution
        torch.testing.assert_close(basis @ fit, outputs.flatten(1).T, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("prior", [LogUniform(), GroupNormalJeffreys(), GroupHorseshoe()])
def test_inputs_that_do_not_matter_are_pruned(prior: LogUniform) -> None:
    x = torch.randn(400, 12)
    y = (x[:, 0] > x[:, 1]).long()
    net = nn.Sequential(nn.Linear(12, 2))
    task = Task(net, TensorPair(x, y), epochs=40, batch=100, seed=0, device=torch.device("cpu"))
    trained = Variational(prior, lr=0.05).train(task)
    kept = trained.masks["0.weight"]
    assert kept[:, :2].any(0).all()
    assert kept[:, 2:].double().mean() < 0.3
    assert trained.scales["0.weight"].shape == (2, 12)
    errors = (trained.net(x).argmax(1) != y).double().mean()
    assert errors < 0.05
