"""Which cutter a network gets, and what is said of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.artifact import serialise
from pyro_turbovbi.compression.cutting import bytes_of, cut_any, structures
from pyro_turbovbi.compression.graph import GraphCut
from pyro_turbovbi.compression.shrink import Cut
from tests.compression.graph_nets import GPT, ResidualMLP, features, tokens
from tests.compression.nets import mlp


def test_a_chain_becomes_a_sequential() -> None:
    net = mlp(4, 3, 2).eval()
    cut = cut_any(net, features(4), {})
    assert isinstance(cut, Cut)
    assert structures(cut, net, features(4)) == ((4, 3), (4, 3))
    assert bytes_of(cut) == len(serialise(cut.module))


def test_everything_else_keeps_its_class() -> None:
    net = ResidualMLP().eval()
    net.up.weight.data[:, 0] = 0.0
    net.down.weight.data[:, [1, 2]] = 0.0
    cut = cut_any(net, features(6), {})
    assert isinstance(cut, GraphCut)
    assert type(cut.module) is ResidualMLP
    assert structures(cut, net, features(6)) == ((10, 16), (10, 14))


def test_a_linear_layer_on_several_tokens_is_cut_as_a_graph() -> None:
    cut = cut_any(mlp(4, 3, 2).eval(), features(5, 4), {})
    assert isinstance(cut, GraphCut)


def test_a_mask_of_a_parameter_that_is_not_used() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    cut = cut_any(Spare().eval(), features(3), {"spare.weight": torch.ones(2, 3)})
    assert isinstance(cut, GraphCut)
    assert cut.module.spare.weight.shape == (2, 3)


def test_shared_tensors_count_once() -> None:
    net = GPT().eval()
    cut = cut_any(net, tokens(), {})
    values = 4 * sum(p.numel() for p in net.parameters())
    assert values < bytes_of(cut) < values + 8000
