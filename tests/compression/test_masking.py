"""Masking: copies, checks and their messages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_turbovbi.compression import masked
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, ShapeError, SiteError


def test_pruned_weights_are_zero_and_the_net_is_untouched() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    weight = net[0].weight.detach().clone()
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]])
    pruned = masked(net, {"0.weight": mask})
    assert torch.equal(pruned.get_parameter("0.weight"), weight * mask)
    assert torch.equal(net[0].weight, weight)
    assert net.training
    assert not pruned.training


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    pruned = masked(net, {"1.weight": torch.eye(2)})
    assert pruned.get_parameter("0.weight") is pruned.get_parameter("1.weight")
    assert pruned.get_parameter("0.weight")[0, 1] == 0


def test_refusals() -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(SiteError, match="given: wait; accepted: weight, bias"):
        masked(net, {"wait": torch.ones(2, 3)})
    with pytest.raises(ShapeError, match=r"given: \(3, 2\); accepted: \(2, 3\)"):
        masked(net, {"weight": torch.ones(3, 2)})
    with pytest.raises(InvalidArgumentError, match="mask of 'weight'"):
        masked(net, {"weight": torch.full((2, 3), 0.5)})
    net.bias.data[0] = torch.nan
    with pytest.raises(InvalidDataError, match="'bias'"):
        masked(net, {})
