"""Linear layers computed as one: the same outputs, and only what may be joined."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi.compression import accelerate
from pyro_turbovbi.compression.inference_layers import SparseLinear, TransposedLinear
from pyro_turbovbi.compression.layers import InputSelect, is_elementwise
from pyro_turbovbi.compression.linear_chains import LinearChain, Run, runs_in
from tests.compression.graph_nets import Apply
from tests.compression.nets import mlp, randomise
from tests.compression.timers import clock
from tests.devices import DEVICES

ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.LeakyReLU(0.3),
    nn.ELU(0.7),
    nn.CELU(0.7),
    nn.SELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Mish(),
    nn.Softplus(2.0, 3.0),
    nn.Softsign(),
    nn.Tanh(),
    nn.Tanhshrink(),
    nn.Hardtanh(-0.2, 0.3),
    nn.Sigmoid(),
    nn.LogSigmoid(),
    nn.Hardsigmoid(),
    nn.Hardswish(),
    nn.Hardshrink(0.2),
    nn.Softshrink(0.2),
    nn.Threshold(0.1, -0.3),
]
OTHERS = [nn.BatchNorm1d(7), nn.PReLU(7), nn.MaxPool1d(2), nn.Softmax(1), nn.Linear(7, 7)]


def net_with(activation: nn.Module, *, bias: bool = True) -> nn.Sequential:
    """9-7-6-4 with a unit and an input that have no weights."""
    first, second, third = nn.Linear(9, 7, bias), nn.Linear(7, 6, bias), nn.Linear(6, 4)
    net = nn.Sequential(first, activation, second, nn.Dropout(), third)
    first.weight.data[2] = 0.0
    first.weight.data[:, 5] = 0.0
    return net.eval().requires_grad_(False)


def only_run(net: nn.Module) -> Run:
    (run,) = runs_in(net)
    return run


def joined(*layers: nn.Module) -> list[list[str]]:
    return [list(run.members) for run in runs_in(nn.Sequential(*layers))]


def same(module: nn.Module, net: nn.Module, x: Tensor, eps: float = 1e-5) -> None:
    before, expected = x.clone(), net(x).detach()
    tolerance = eps * float(expected.abs().max())
    torch.testing.assert_close(module(x), expected, rtol=0.0, atol=tolerance)
    torch.testing.assert_close(module(x), expected, rtol=0.0, atol=tolerance)
    assert torch.equal(x, before)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_outputs_are_those_of_the_layers(activation: nn.Module) -> None:
    net = net_with(activation)
    chain = only_run(net).chain()
    assert [type(step) for step in chain.steps].count(TransposedLinear) == 3
    for shape in ((5, 9), (9,), (2, 3, 9)):
        same(chain, net, torch.randn(shape))
    same(chain, net, torch.randn(9, 5).T)


def test_layers_without_bias() -> None:
    net = net_with(nn.ReLU(), bias=False)
    same(only_run(net).chain(), net, torch.randn(5, 9))


def test_only_what_acts_on_single_values_is_elementwise() -> None:
    class Mine(nn.ReLU):
        pass

    assert all(map(is_elementwise, ACTIVATIONS))
    assert not any(map(is_elementwise, [*OTHERS, Mine(), nn.Identity()]))


@pytest.mark.parametrize("other", OTHERS[:-1], ids=str)
def test_other_layers_end_a_run(other: nn.Module) -> None:
    a, b, c, d = (nn.Linear(7, 7) for _ in range(4))
    assert joined(a, nn.ReLU(), b, nn.ReLU(), other, nn.ReLU(), c, d) == [
        ["0", "1", "2"],
        ["6", "7"],
    ]
    assert joined(a, other, b) == []


def test_a_selection_is_joined_with_the_layer_that_takes_it() -> None:
    def select() -> InputSelect:
        return InputSelect.of(torch.arange(9) % 3 != 0)

    a, b = nn.Linear(6, 4), nn.Linear(4, 3)
    assert joined(select(), a) == [["0", "1"]]
    assert joined(select(), nn.ReLU(), a) == []
    assert joined(nn.Linear(9, 9), select(), a, nn.ReLU(), b) == [["1", "2", "3", "4"]]
    net = nn.Sequential(select(), a, nn.Tanh(), b).requires_grad_(False)
    same(only_run(net).chain(), net, torch.randn(5, 9))


def test_what_has_hooks_or_stands_twice_is_not_joined() -> None:
    a, b, c = (nn.Linear(7, 7) for _ in range(3))
    assert joined(a, b, b, c) == []
    b.register_forward_hook(lambda *_: None)
    assert joined(a, b, c) == []


def test_sparse_layers_are_steps_too() -> None:
    net = net_with(nn.ReLU())
    layers: Sequence[nn.Module] = list(net)
    first = layers[0]
    assert isinstance(first, nn.Linear)
    for kernel in (SparseLinear(first), SparseLinear(first, 4), TransposedLinear(first)):
        chain = only_run(nn.Sequential(kernel, *layers[1:])).chain()
        assert chain.steps[0] is kernel
        same(chain, net, torch.randn(5, 9))
        same(copy.deepcopy(chain), net, torch.randn(5, 9))


@pytest.mark.parametrize("device", DEVICES)
def test_copies_moves_and_types(device: str) -> None:
    net = net_with(nn.ReLU())
    chain = only_run(net).chain()
    same(chain, net, torch.randn(5, 9))
    for other in (copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        same(other, net, torch.randn(5, 9))
    net, moved = net.to(device).double(), chain.to(device).double()
    same(moved, net, torch.randn(5, 9, device=device).double(), eps=1e-13)


def test_gradients_to_the_inputs() -> None:
    net = net_with(nn.ReLU())
    x = torch.randn(5, 9, requires_grad=True)
    (expected,) = torch.autograd.grad(net(x).square().sum(), x)
    (found,) = torch.autograd.grad(only_run(net).chain()(x).square().sum(), x)
    torch.testing.assert_close(found, expected)


def test_accelerate_joins_what_is_faster_together() -> None:
    net = randomise(mlp(9, 7, 6, 4), 0)

    def timer(modules: Sequence[nn.Module], inputs: Tensor) -> list[list[float]]:
        alone = clock()(modules, inputs)
        together = [any(isinstance(m, LinearChain) for m in module.modules()) for module in modules]
        return [
            [t * (0.5 if one else 1.0) for t in ts] for ts, one in zip(alone, together, strict=True)
        ]

    result = accelerate(net, torch.randn(5, 9), timer=timer)
    assert isinstance(result.module, LinearChain)
    for choice in result.report.layers.values():
        assert choice.kernel == "transposed"
        assert choice.reason == "in one with its neighbours, 2.0 times as fast as one by one"
    same(result.module, net, torch.randn(3, 9))


def test_layers_that_code_asks_for_by_name_stay() -> None:
    layers = randomise(mlp(9, 7, 4), 0)
    net = Apply(lambda x, inner: inner[2](inner[1](inner[0](x))), inner=layers)
    result = accelerate(
        net, torch.randn(5, 9), timer=lambda m, _: [[1.0 / (i + 1)] * 4 for i, _ in enumerate(m)]
    )
    assert not any(isinstance(module, LinearChain) for module in result.module.modules())
    same(result.module, net, torch.randn(5, 9))
