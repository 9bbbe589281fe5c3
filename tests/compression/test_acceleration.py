"""Whole networks with other kernels: the same outputs, and ordinary layers where they must stay."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_turbovbi.compression import Accelerated, acceleration, compress, masked
from pyro_turbovbi.compression.acceleration import accelerate
from pyro_turbovbi.compression.inference_layers import SparseLinear
from pyro_turbovbi.compression.kernel_choice import DENSE, KernelChoice
from pyro_turbovbi.compression.layers import InputSelect
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    VerificationError,
)
from tests.compression.graph_nets import (
    CASES,
    Apply,
    Case,
    GatedMLP,
    ResidualMLP,
    features,
    masks_with_dead_units,
)
from tests.compression.nets import mlp, randomise
from tests.compression.timers import clock, kernel_of, kernels_in
from tests.devices import DEVICES

SPARSE = ("csr", "bsr 4x4", "transposed")


def sparse_mlp(density: float = 0.2) -> nn.Sequential:
    """A chain with random supports of which nothing is cut."""
    net = randomise(mlp(30, 40, 20, 5), 0)
    assert isinstance(net, nn.Sequential)
    masks = {n: torch.rand(p.shape) < density for n, p in net.named_parameters() if p.ndim == 2}
    pruned = masked(net, masks)
    assert isinstance(pruned, nn.Sequential)
    return pruned


def kernels(result: Accelerated) -> dict[str, str]:
    return {name: choice.kernel for name, choice in result.report.layers.items()}


def same(result: Accelerated, net: nn.Module, x: Tensor) -> None:
    expected = net.eval()(x)
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(result.module(x), expected, rtol=0.0, atol=1e-5 * largest)


@pytest.mark.parametrize("kernel", SPARSE)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_of_networks_that_are_no_chains(case: Case, kernel: str) -> None:
    net = case.net(0)
    pruned = masked(net, masks_with_dead_units(net, 0, 0.3, dead=0.2))
    x = case.inputs()
    result = accelerate(pruned, x, batch_size=5, timer=clock(**{kernel.replace(" ", "_"): 0.5}))
    same(result, pruned, x)
    chosen = {name for name, choice in kernels(result).items() if choice != DENSE}
    assert chosen == {
        name for name, module in result.module.named_modules() if kernel_of(module) != DENSE
    }
    assert chosen or kernel != "transposed"
    assert result.report.max_error <= 1e-6
    assert not result.module.training


@pytest.mark.parametrize("batch_size", [1, 256])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.5])
def test_measured_choices_compute_the_same(batch_size: int, density: float) -> None:
    net = sparse_mlp(density)
    result = accelerate(net, torch.randn(40, 30), batch_size=batch_size)
    same(result, net, torch.randn(batch_size, 30))
    report = result.report
    assert report.batch_size == batch_size
    assert 0 < report.latency <= report.latency_ordinary
    assert report.layers.keys() == {"0", "2", "4"}


def test_the_selection_of_inputs_is_taken_over() -> None:
    net = randomise(mlp(30, 40, 5), 0)
    masks = {"0.weight": (torch.rand(40, 30) < 0.2) & (torch.rand(30) < 0.5)}
    small = compress(net, masks, torch.randn(20, 30), measure_latency=False).module
    assert isinstance(small, nn.Sequential)
    assert type(small[0]) is InputSelect
    result = accelerate(small, torch.randn(20, 30), timer=clock(csr=0.5))
    assert isinstance(result.module, nn.Sequential)
    assert [type(layer) for layer in result.module[:2]] == [nn.Identity, SparseLinear]
    same(result, small, torch.randn(20, 30))


def test_a_selection_that_others_use_stays() -> None:
    select, first = InputSelect.of(torch.arange(9) % 3 != 0), nn.Linear(6, 4)
    first.weight.data[:, ::2] = 0.0

    def forward(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
        return a(x) + b(x).sum(1, keepdim=True)

    net = Apply(forward, a=nn.Sequential(select, first), b=nn.Sequential(select, nn.Identity()))
    result = accelerate(net, features(9), timer=clock(transposed=0.5))
    assert kernels(result) == {"a.1": "transposed"}
    assert type(result.module.get_submodule("a.0")) is InputSelect
    same(result, net, features(9))


def test_the_network_is_not_touched() -> None:
    net = sparse_mlp().train()
    state = copy.deepcopy(net.state_dict())
    result = accelerate(net, torch.randn(7, 30), timer=clock(csr=0.5))
    assert kernels_in(result.module) == {"csr"}
    assert not kernels_in(net)
    assert net.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_layers_are_timed_on_what_the_layers_before_them_put_out() -> None:
    seen: list[tuple[int, ...]] = []

    def timer(modules: Sequence[nn.Module], inputs: Tensor) -> list[list[float]]:
        seen.append(inputs.stride())
        return clock(csr=0.5)(modules, inputs)

    accelerate(sparse_mlp(), torch.randn(3, 30), batch_size=8, timer=timer)
    # Unit by unit behind a sparse layer; the last entries are the layers as one, and the network.
    assert seen == [(30, 1), (1, 8), (1, 8), (30, 1), (30, 1)]


def test_a_network_that_is_not_faster_as_a_whole_stays_as_it_is() -> None:
    net = sparse_mlp()

    def timer(modules: Sequence[nn.Module], inputs: Tensor) -> list[list[float]]:
        whole = isinstance(modules[0], nn.Sequential)
        return [[1.0] * 4] * len(modules) if whole else clock(csr=0.5)(modules, inputs)

    result = accelerate(net, torch.randn(9, 30), timer=timer)
    assert not kernels_in(result.module)
    for choice in result.report.layers.values():
        assert choice.kernel == DENSE
        assert choice.reason == "the network as a whole would not be faster"
        assert choice.seconds["csr"] == 0.5
    assert result.report.max_error == 0.0


def test_a_network_of_one_layer_and_one_without_any() -> None:
    linear = nn.Linear(30, 8)
    linear.weight.data *= torch.rand(8, 30) < 0.2
    result = accelerate(linear, torch.randn(3, 30), timer=clock(csr=0.5))
    assert isinstance(result.module, SparseLinear)
    same(result, linear, torch.randn(3, 30))
    empty = accelerate(nn.Sequential(nn.ReLU()), torch.randn(3, 30))
    assert empty.report.layers == {}


def test_a_layer_that_is_used_twice_is_one_layer() -> None:
    net = GatedMLP()
    result = accelerate(net, features(5), timer=clock(transposed=0.5))
    assert kernels(result)["shared"] == "transposed"
    twice = nn.Sequential(net.shared, nn.ReLU(), net.shared)
    result = accelerate(twice, features(8), timer=clock(transposed=0.5))
    assert isinstance(result.module, nn.Sequential)
    assert result.module[0] is result.module[2]
    assert kernel_of(result.module[0]) == "transposed"
    same(result, twice, features(8))


def test_layers_that_the_network_needs_as_they_are() -> None:
    def forward(x: Tensor, read: nn.Linear, called: nn.Linear, alone: nn.Linear) -> Tensor:
        x = F.linear(torch.relu(read(x)), read.weight, read.bias)
        return F.linear(called(x), alone.weight)

    net = Apply(forward, **{name: nn.Linear(6, 6) for name in ("read", "called", "alone")})
    result = accelerate(net, features(6), timer=clock(transposed=0.5))
    assert kernels(result) == {"read": DENSE, "called": "transposed", "alone": DENSE}
    layers = result.report.layers
    assert "needs an nn.Linear" in layers["read"].reason
    assert "weight" in layers["read"].reason
    assert layers["alone"] == KernelChoice(DENSE, "the network does not call it")
    same(result, net, features(6))


def test_layers_with_hooks_stay() -> None:
    net = sparse_mlp()
    net[0].register_forward_hook(lambda module, args, output: output + 1.0)
    result = accelerate(net, torch.randn(3, 30), timer=clock(csr=0.5))
    assert kernels(result) == {"0": DENSE, "2": "csr", "4": "csr"}
    assert result.report.layers["0"].reason == "it has hooks"
    same(result, net, torch.randn(3, 30))


def test_encoders_with_a_fast_path_of_their_own() -> None:
    net = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True).eval()
    with torch.inference_mode():
        result = accelerate(net, features(5, 12), timer=clock(transposed=0.5))
        torch.testing.assert_close(result.module(features(5, 12)), net(features(5, 12)))
    assert kernels(result).keys() == {"linear1", "linear2"}


def test_a_batch_has_the_size_that_was_asked_for() -> None:
    sizes: set[int] = set()

    def timer(modules: Sequence[nn.Module], inputs: Tensor) -> list[list[float]]:
        sizes.add(len(inputs))
        return clock(csr=0.5)(modules, inputs)

    for size in (1, 7, 300):
        sizes.clear()
        accelerate(sparse_mlp(), torch.randn(10, 30), batch_size=size, timer=timer)
        assert sizes == {size}


@pytest.mark.parametrize("device", DEVICES)
def test_the_module_moves(device: str) -> None:
    net, x = sparse_mlp(), torch.randn(6, 30)
    result = accelerate(net, x, timer=clock(csr=0.5))
    expected = net(x).detach()
    moved = result.module.to(device)
    torch.testing.assert_close(moved(x.to(device)).cpu().detach(), expected, rtol=1e-4, atol=1e-4)
    there = accelerate(net.to(device), x, timer=clock(csr=0.5))
    torch.testing.assert_close(there.module(x.to(device)).cpu(), expected, rtol=1e-4, atol=1e-4)


def test_another_result_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(linear: nn.Linear, x: Tensor, **_: object) -> tuple[nn.Module, KernelChoice]:
        layer = SparseLinear(linear)
        layer.values *= 1.01
        return layer, KernelChoice("csr", "wrong")

    monkeypatch.setattr(acceleration, "choose", wrong)
    with pytest.raises(VerificationError, match="accelerated network does not compute what the"):
        accelerate(sparse_mlp(), torch.randn(6, 30), timer=clock(csr=0.5))


def test_refusals() -> None:
    net = sparse_mlp()
    with pytest.raises(InvalidArgumentError, match=r"batch_size.*given: 0.*accepted: 1, 2"):
        accelerate(net, torch.randn(6, 30), batch_size=0)
    with pytest.raises(ShapeError, match=r"cannot be applied.*given: shape \(256, 31\)"):
        accelerate(net, torch.randn(6, 31))
    with pytest.raises(InvalidDataError, match="finite"):
        accelerate(net, torch.full((6, 30), torch.nan))


def test_report_is_json_and_a_table() -> None:
    net = ResidualMLP()
    result = accelerate(net, features(6), batch_size=9, timer=clock(transposed=0.5))
    plain = json.loads(json.dumps(result.report.to_dict()))
    assert plain["layers"]["up"]["kernel"] == "transposed"
    assert (plain["latency"], plain["latency_ordinary"]) == (0.5, 1.0)
    assert "batches of 9: 1000.000 ms with ordinary layers, 500.000 ms" in repr(result)
    assert "up: transposed (2.0 times as fast as dense): dense 1000000 us" in repr(result)
