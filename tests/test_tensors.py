"""Tensors of a module in the place of others."""

from __future__ import annotations

import torch
from torch import nn

from pyro_turbovbi._tensors import named_tensors, replace_tensor


def test_a_shared_tensor_is_replaced_under_all_its_names() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    net[0].weight.requires_grad_(False)
    assert {"0.weight", "1.weight"} < set(named_tensors(net))
    replace_tensor(net, "1.weight", torch.zeros(2, 1))
    assert net[0].weight is net[1].weight
    assert isinstance(net[0].weight, nn.Parameter)
    assert net[0].weight.shape == (2, 1)
    assert not net[0].weight.requires_grad


def test_a_buffer_stays_a_buffer() -> None:
    net = nn.BatchNorm1d(3)
    replace_tensor(net, "running_mean", torch.ones(2))
    assert dict(net.named_buffers())["running_mean"].tolist() == [1.0, 1.0]
    assert "running_mean" not in dict(net.named_parameters())
