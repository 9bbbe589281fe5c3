"""Units that tensors share, by operation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_turbovbi.compression.graph_flow import Flow
from pyro_turbovbi.compression.graph_partition import FIXED
from pyro_turbovbi.compression.graph_tape import record
from pyro_turbovbi.compression.graph_units import Units, needed_units
from tests.compression.graph_nets import Apply, Attention, features, images


def units_of(net: nn.Module, x: Tensor, **how: int) -> tuple[Units, dict[str, list[list[int]]]]:
    """The units, and for every parameter those along its dims."""
    tape = record(net.double(), x.double())
    units = Units(Flow(tape), **how)
    return units, {name: units.labels(number) for number, name in tape.names.items()}


def fixed(axis: list[int]) -> bool:
    return set(axis) == {FIXED}


def test_rows_of_one_layer_are_the_columns_of_the_next() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    _, labels = units_of(net, features(3))
    assert labels["0.weight"][0] == labels["0.bias"][0] == labels["2.weight"][1]
    assert len(set(labels["0.weight"][0])) == 4
    assert fixed(labels["0.weight"][1])
    assert fixed(labels["2.weight"][0])


def test_a_flattening_repeats_the_channels() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    _, labels = units_of(net, images(4))
    channels = labels["0.weight"][0]
    assert labels["2.weight"][1] == [c for c in channels for _ in range(4)]


def test_a_sum_merges_and_a_concatenation_does_not() -> None:
    def forward(x: Tensor, *, a: nn.Linear, b: nn.Linear, out: nn.Linear) -> Tensor:
        return out(torch.cat([a(x) + b(x), a(x)], 1))

    net = Apply(forward, a=nn.Linear(3, 4), b=nn.Linear(3, 4), out=nn.Linear(8, 2))
    units, labels = units_of(net, features(3))
    assert labels["a.weight"][0] == labels["b.weight"][0]
    assert labels["out.weight"][1] == labels["a.weight"][0] * 2
    groups = {units.partition.group(label) for label in labels["out.weight"][1]}
    assert len(groups) == 1


@pytest.mark.parametrize(
    "layer",
    [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.Softmax(-1), nn.RMSNorm(4)],
    ids=lambda layer: type(layer).__name__,
)
def test_what_mixes_the_units_fixes_them(layer: nn.Module) -> None:
    _, labels = units_of(nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2)), features(3))
    assert fixed(labels["0.weight"][0])


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y[:, [3, 2, 1, 0]],
        lambda y: y.roll(1, 1),
        lambda y: y.sort(1).values,
        lambda y: y.cumsum(1),
        lambda y: y - y.mean(1, keepdim=True),
        lambda y: y / y.norm(dim=1, keepdim=True),
        lambda y: y[:, 1:2].expand(-1, 4),
        lambda y: torch.linalg.matrix_exp(y @ y.T) @ y,
    ],
)
def test_places_that_are_chosen_by_number_or_mixed_are_fixed(function: object) -> None:
    def forward(x: Tensor, *, a: nn.Linear, b: nn.Linear) -> Tensor:
        return b(function(a(x)))  # type: ignore[operator]

    net = Apply(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    _, labels = units_of(net, features(3))
    assert fixed(labels["a.weight"][0]) or labels["a.weight"][0][1] == FIXED


@pytest.mark.parametrize("transposed", [False, True])
def test_groups_of_a_convolution_are_units(transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    net = nn.Sequential(nn.Conv2d(3, 4, 1), kind(4, 6, 1, groups=2), nn.Conv2d(6, 2, 1))
    units, labels = units_of(net, images(3))
    one, other = set(labels["0.weight"][0])
    assert labels["0.weight"][0] == [one, one, other, other]
    assert labels["2.weight"][1] == [one] * 3 + [other] * 3 == labels["1.bias"][0]
    (found,) = units.convolutions
    assert found.module == "1"
    assert [units.partition.find(label) for label in found.groups] == [one, other]


def test_heads_are_units_of_queries_keys_and_values() -> None:
    net = nn.Sequential(Attention(4, 3, 2), nn.Tanh())
    units, labels = units_of(net, features(5, 4), carrier=-2)
    heads = labels["0.qkv.weight"][0]
    assert heads == heads[:6] * 3
    assert labels["0.proj.weight"][1] == heads[:6]
    assert len(set(heads)) == 3
    assert units.splits
    assert {size.module for size in units.sizes} >= {"0"}


def test_padding_is_fixed_and_moves_the_others_aside() -> None:
    def forward(x: Tensor, *, a: nn.Linear, b: nn.Linear) -> Tensor:
        return b(F.pad(a(x), (1, 2)))

    net = Apply(forward, a=nn.Linear(3, 4), b=nn.Linear(7, 2))
    _, labels = units_of(net, features(3))
    assert labels["b.weight"][1] == [FIXED, *labels["a.weight"][0], FIXED, FIXED]


def test_needed_units() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    net[2].weight.data[:, 1] = 0.0
    tape = record(net, features(3).double())
    flow = Flow(tape)
    units = Units(flow)
    number = next(n for n, name in tape.names.items() if name == "0.bias")
    (hidden,) = units.labels(number)
    assert needed_units(units, flow) == {FIXED, hidden[0], hidden[2], hidden[3]}
