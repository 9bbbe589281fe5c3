"""Packages of others, where they are installed."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from benchmarks.frontier_cases.magnitude import Dense
from benchmarks.frontier_cases.peers import (
    CplxModule,
    TorchPruning,
    missing,
    parameters_left,
    structured_masks,
)
from benchmarks.frontier_cases.training import Task, weights_of
from pyro_turbovbi.compression import compress, masked
from tests.benchmarks.frontier_cases import tiny


def task(net: nn.Module, epochs: int = 4) -> Task:
    return Task(net, tiny.points(120, 0), epochs, 40, 0, torch.device("cpu"))


def convolutional() -> nn.Sequential:
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))


def test_cplxmodule_keeps_the_network_and_its_shapes() -> None:
    pytest.importorskip("cplxmodule")
    work = task(tiny.build())
    trained = CplxModule(lr=0.01).train(work)
    assert isinstance(trained.net[0], nn.Linear)  # type: ignore[index]
    for name, weight in weights_of(trained.net).items():
        assert trained.masks[name].shape == trained.scales[name].shape == weight.shape
    assert all(mask.dtype == torch.bool for mask in trained.masks.values())


def test_what_torch_pruning_leaves_is_what_it_would_cut() -> None:
    torch_pruning = pytest.importorskip("torch_pruning")
    net, x = convolutional(), torch.randn(5, 1, 8, 8)
    masks = structured_masks(net, x, 0.5, 2)
    cut = convolutional()
    cut.load_state_dict(net.state_dict())
    torch_pruning.pruner.BasePruner(
        cut,
        x,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        global_pruning=True,
        ignored_layers=[cut[-1]],
    ).step()
    assert cut[0].out_channels + cut[3].out_channels + cut[5].out_features == 9
    torch.testing.assert_close(masked(net, masks)(x), cut(x))
    assert parameters_left(net, masks) == sum(p.numel() for p in cut.parameters())


def test_torch_pruning_stays_within_its_share() -> None:
    pytest.importorskip("torch_pruning")
    work = task(tiny.build())
    trained = TorchPruning(0.5).train(work)
    small = compress(trained.net, trained.masks, work.train.x)
    assert small.report.parameters <= 0.5 * small.report.parameters_dense
    for name, mask in trained.masks.items():
        assert torch.equal(weights_of(trained.net)[name] != 0, mask)


def test_a_package_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CplxModule, "package", "no_such_package")
    assert missing(CplxModule()) == "no_such_package"
    assert missing(Dense()) is None
    net = nn.Sequential(OrderedDict(a=nn.Linear(3, 2), b=nn.Linear(2, 1)))
    masks = {"a.weight": torch.tensor([[1, 0, 1], [0, 0, 0]]).bool()}
    assert parameters_left(net, masks) == 2 + 1 + 2 + 1
