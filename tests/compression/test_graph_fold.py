"""Folding constants: the network computes the same and no longer reads them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi.compression import compress
from pyro_turbovbi.compression.graph_flow import Flow
from pyro_turbovbi.compression.graph_fold import fold_constants
from pyro_turbovbi.compression.graph_tape import record
from tests.compression.graph_nets import Apply, features, images
from tests.compression.nets import randomise


def folded(net: nn.Module, x: Tensor) -> tuple[nn.Module, tuple[str, ...]]:
    """The folded copy, checked against the network."""
    result = copy.deepcopy(net).double().eval()
    added = fold_constants(result, Flow(record(result, x.double()[:2])))
    expected = copy.deepcopy(net).double().eval()(x.double())
    torch.testing.assert_close(result(x.double()), expected, rtol=1e-12, atol=1e-12)
    return result, added


@pytest.mark.parametrize("bias", [True, False])
def test_a_constant_feature_goes_into_the_bias(bias: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=bias))
    net[0].weight.data[1] = 0.0
    result, added = folded(net, features(4))
    assert added == (() if bias else ("2.bias",))
    assert result[2].weight[:, 1].tolist() == [0.0, 0.0]
    assert bool((result[2].weight[:, [0, 2]] != 0).all())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("padding", "mode"), [(0, "zeros"), (1, "zeros"), (1, "replicate")])
def test_a_constant_channel_where_the_border_sees_the_same(
    groups: int, padding: int, mode: str
) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.BatchNorm2d(6),
        nn.Sigmoid(),
        nn.Conv2d(6, 4, 3, padding=padding, padding_mode=mode, groups=groups),
    )
    randomise(net, 0)
    net[0].weight.data[[1, 4]] = 0.0
    result, _ = folded(net, images())
    gone = (result[3].weight.flatten(2) == 0).all(2).sum()
    assert gone == (0 if (padding, mode) == (1, "zeros") else 8 // groups)


def test_a_silent_channel_needs_no_folding() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))
    net[0].weight.data[1] = 0.0
    result, added = folded(net, images())
    assert added == ()
    assert torch.equal(result[2].weight, net[2].weight.double())


def test_constants_that_differ_among_tokens_stay() -> None:
    position = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    net = Apply(
        lambda x, position, mix, out: out(mix(x) + position),
        position=nn.Parameter(position),
        mix=nn.Linear(2, 2, bias=False),
        out=nn.Linear(2, 2),
    )
    net.mix.weight.data.zero_()
    result, _ = folded(net, features(3, 2))
    assert bool((result.out.weight[:, 0] != 0).all())
    assert bool((result.out.weight[:, 1] == 0).all())


def test_a_layer_that_runs_twice_is_left_alone() -> None:
    def forward(x: Tensor, *, a: nn.Linear, shared: nn.Linear) -> Tensor:
        return shared(torch.tanh(shared(a(x))))

    net = Apply(forward, a=nn.Linear(3, 3), shared=nn.Linear(3, 3))
    net.a.weight.data[0] = 0.0
    result, added = folded(net, features(3))
    assert added == ()
    assert torch.equal(result.shared.weight, net.shared.weight.double())


def test_a_vector_that_a_layer_reads_is_constant() -> None:
    def forward(x: Tensor, *, a: nn.Linear, b: nn.Linear, z: nn.Parameter) -> Tensor:
        return a(x) + b(z)

    net = Apply(forward, a=nn.Linear(4, 3), b=nn.Linear(2, 3), z=nn.Parameter(torch.ones(2)))
    result, _ = folded(net, features(4))
    expected = net.b.bias + net.b.weight.sum(1)
    torch.testing.assert_close(result.b.bias, expected.double())
    net = nn.Sequential(net, nn.Linear(3, 2))
    masks = {"0.a.weight": torch.tensor([[1.0], [0.0], [1.0]]).expand(3, 4)}
    masks["0.b.weight"] = masks["0.a.weight"][:, :2]
    assert compress(net, masks, features(4), measure_latency=False).report.structure == (2,)
