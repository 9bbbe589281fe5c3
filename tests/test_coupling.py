"""Coupling groups of networks: which weights share units, and where that is given up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_turbovbi.coupling import Coupling, Member, couplings
from pyro_turbovbi.errors import UnsupportedError


def weights_of(net: nn.Module) -> list[str]:
    return [name for name, parameter in net.named_parameters() if parameter.dim() > 1]


class Residual(nn.Module):
    """A block with a skip connection, a depthwise convolution and a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.expand = nn.Conv2d(8, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.stem(x)))
        h = h + self.project(self.depthwise(F.relu(self.expand(h))))
        return self.head(h.mean((2, 3)))


def test_a_multilayer_perceptron_has_a_group_per_layer_but_the_last() -> None:
    net = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    found = couplings(net, weights_of(net))
    assert found.sizes == {"input": 7, "0.weight": 5, "2.weight": 4}
    assert found.weights == {
        "0.weight": Coupling(rows="0.weight", columns="input"),
        "2.weight": Coupling(rows="2.weight", columns="0.weight"),
        "4.weight": Coupling(rows=None, columns="2.weight"),
    }


def test_pixels_of_a_channel_behind_a_flattening_belong_to_its_unit() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 9, 4)
    )
    found = couplings(net, weights_of(net))
    assert found.sizes == {"input": 3, "0.weight": 6}
    assert found.weights["4.weight"] == Coupling(rows=None, columns="0.weight")
    assert Member("4.weight", 1, each=9) in found.members["0.weight"]


def test_layers_that_are_added_share_their_units_and_depthwise_filters_are_rows() -> None:
    net = Residual()
    found = couplings(net, weights_of(net))
    assert found.sizes == {"input": 3, "stem.weight": 8, "expand.weight": 16}
    assert found.weights["project.weight"] == Coupling(rows="stem.weight", columns="expand.weight")
    assert found.weights["depthwise.weight"] == Coupling(rows="expand.weight", columns=None)
    assert found.weights["head.weight"] == Coupling(rows=None, columns="stem.weight")
    assert "expand.weight" not in found.members, "a depthwise layer's groups count its channels"
    assert Member("norm.running_mean", 0) in found.members["stem.weight"]
    assert Member("head.weight", 1) in found.members["stem.weight"]


def test_only_the_weights_that_are_named_count() -> None:
    net = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 4))
    found = couplings(net, ["2.weight"])
    assert found.sizes == {"0.weight": 5}
    assert found.weights == {"2.weight": Coupling(rows=None, columns="0.weight")}


def test_a_weight_that_is_used_twice_makes_its_groups_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            return self.last(self.again(self.again(h)))

    found = couplings(Tied(), ["first.weight", "again.weight", "last.weight"])
    group = found.weights["first.weight"].rows
    assert found.weights["again.weight"] == Coupling(rows=group, columns=group)
    assert found.weights["last.weight"].columns == group


class Mixed(nn.Module):
    """Tokens flattened position by position, a softmax over units, a transposition."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.last = nn.Linear(4, 6), nn.Linear(12 if how == "tokens" else 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.how == "tokens":
            h = h.flatten(1)
        if self.how == "sorted":
            h = h.sort(-1)[0]
        return self.last(h)


@pytest.mark.parametrize("how", ["tokens", "sorted"])
def test_units_are_given_up_where_their_order_is_not_certain(how: str) -> None:
    found = couplings(Mixed(how), ["first.weight", "last.weight"])
    assert found.sizes == {"input": 4}
    assert found.weights["last.weight"] == Coupling(rows=None, columns=None)


def test_outputs_and_groups_of_one_unit_are_in_no_group() -> None:
    net = nn.Linear(1, 3)
    assert couplings(net, ["weight"]).sizes == {}
    assert couplings(net, ["weight"]).weights == {"weight": Coupling(None, None)}


def test_a_net_that_cannot_be_traced_is_refused_with_the_alternative() -> None:
    class Branching(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) if input.sum() > 0 else input

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Branching(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    with pytest.raises(UnsupportedError, match=r"cannot be traced.*supports\.Gated"):
        couplings(Outer(), ["inner.weight"])
