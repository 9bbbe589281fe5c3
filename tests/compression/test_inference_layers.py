"""Layers that spare zeros compute what the ordinary ones compute."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.inference_layers import SparseLinear, TransposedLinear
from pyro_turbovbi.compression.layers import InputSelect
from tests.devices import DEVICES

Make = Callable[..., SparseLinear | TransposedLinear]
KINDS: dict[str, Make] = {
    "transposed": TransposedLinear,
    "csr": SparseLinear,
    "bsr 4": lambda linear, **more: SparseLinear(linear, 4, **more),
    "bsr 8": lambda linear, **more: SparseLinear(linear, 8, **more),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def linear_of(
    features: int, units: int, density: float, *, bias: bool = True, dead: float = 0.2
) -> nn.Linear:
    """A layer with a random support and some dead rows and columns."""
    linear = nn.Linear(features, units, bias=bias)
    mask = torch.rand(units, features) < density
    mask &= (torch.rand(units, 1) >= dead) & (torch.rand(1, features) >= dead)
    linear.weight.data *= mask
    return linear.eval()


def deviation(layer: nn.Module, linear: nn.Linear, x: Tensor) -> float:
    """The largest, relative to the largest output in double precision."""
    with torch.no_grad():
        expected = copy.deepcopy(linear).double()(x.double())
        actual = layer(x)
    assert actual.shape == expected.shape
    assert actual.dtype == x.dtype
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@every_kind
@pytest.mark.parametrize("batch", [1, 256])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_outputs_are_those_of_the_ordinary_layer(
    make: Make, batch: int, density: float, bias: bool
) -> None:
    linear = linear_of(75, 42, density, bias=bias)
    x = torch.randn(batch, 75)
    assert deviation(make(linear), linear, x) < 1e-5
    linear.double()
    assert deviation(make(linear), linear, x.double()) < 1e-13


@every_kind
@pytest.mark.parametrize("shape", [(), (2, 3), (0,), (3, 1)], ids=str)
def test_leading_dimensions(make: Make, shape: tuple[int, ...]) -> None:
    linear = linear_of(12, 7, 0.4)
    x = torch.randn(*shape, 12)
    torch.testing.assert_close(make(linear)(x), linear(x))


@every_kind
def test_layouts_of_inputs_and_outputs(make: Make) -> None:
    linear = linear_of(12, 8, 0.4)
    by_unit = torch.randn(12, 30).T
    y = make(linear)(by_unit)
    assert y.T.is_contiguous()
    torch.testing.assert_close(y, linear(by_unit))


@every_kind
def test_a_selection_of_inputs_is_taken_over(make: Make) -> None:
    select = InputSelect.of(torch.rand(40) < 0.6)
    linear = linear_of(select.count, 9, 0.4)
    layer, x = make(linear, select=select), torch.randn(5, 40)
    assert layer.in_features == 40
    torch.testing.assert_close(layer(x), linear(select(x)))


@every_kind
def test_a_layer_without_weights(make: Make) -> None:
    linear = linear_of(10, 6, 0.0)
    x = torch.randn(3, 10)
    assert torch.equal(make(linear)(x), linear(x))


def test_what_is_stored() -> None:
    linear = nn.Linear(8, 8, bias=False)
    linear.weight.data.zero_()
    linear.weight.data[:4, [1, 3, 4, 6]] = 1.0
    linear.weight.data[0, 1] = 0.0
    assert TransposedLinear(linear).values.shape == (4, 4)
    assert TransposedLinear(linear).stored == 16 / 64
    assert SparseLinear(linear).stored == 15 / 64
    # Columns without weights are left out before blocks are formed.
    assert SparseLinear(linear, 4).stored == 16 / 64
    assert SparseLinear(linear, 8).stored == 1.0
    dense = nn.Linear(5, 3)
    assert TransposedLinear(dense).inputs is SparseLinear(dense).inputs is None
    assert TransposedLinear(dense).units is None


@every_kind
def test_copies_files_and_types(make: Make) -> None:
    linear, other = linear_of(20, 11, 0.3), nn.Linear(20, 11)
    layer, x = make(linear), torch.randn(5, 20)
    layer(x)  # what is built at the first call must not hinder what follows
    assert not list(layer.parameters())
    doubled = copy.deepcopy(layer).double()
    assert deviation(doubled, linear, x.double()) < 1e-13
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other.weight.data = linear.weight.data * 2.0
    again = make(other)
    again(x)
    again.load_state_dict(state)
    assert torch.equal(again(x), layer(x))
    again = make(other)
    again(x)
    again.load_state_dict(state, assign=True)
    assert torch.equal(again(x), layer(x))


@every_kind
@pytest.mark.parametrize("device", DEVICES)
def test_moves_to_devices(make: Make, device: str) -> None:
    linear = linear_of(20, 11, 0.3)
    layer, x = make(linear), torch.randn(5, 20)
    expected = layer(x)
    actual = layer.to(device)(x.to(device))
    assert actual.device.type == device
    torch.testing.assert_close(actual.cpu(), expected)


@pytest.mark.parametrize("kind", ["transposed", "csr"])
def test_gradients_pass_through(kind: str) -> None:
    linear = linear_of(9, 6, 0.5)
    x = torch.randn(4, 9, requires_grad=True)
    (actual,) = torch.autograd.grad(KINDS[kind](linear)(x).square().sum(), x)
    (expected,) = torch.autograd.grad(linear(x).square().sum(), x)
    torch.testing.assert_close(actual, expected)


def test_a_call_without_gradients_leaves_later_ones_intact() -> None:
    layer = SparseLinear(linear_of(9, 6, 0.5))
    with torch.inference_mode():
        layer(torch.randn(2, 9))
    x = torch.randn(2, 9, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Has torch repeat what it says once in a process."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.usefixtures("every_warning")
@pytest.mark.parametrize("block", [1, 4])
def test_no_remark_about_sparse_tensors(block: int) -> None:
    linear = linear_of(20, 12, 0.3)
    with pytest.warns(UserWarning, match="beta state"):
        linear.weight.detach().to_sparse_csr()
    SparseLinear(linear, block)(torch.randn(3, 20))


def test_what_a_layer_says_of_itself() -> None:
    linear = nn.Linear(8, 4)
    linear.weight.data[:, 4:] = 0.0
    assert "in_features=8, out_features=4, bias=True, stored=50.0%" in str(TransposedLinear(linear))
    assert "csr, stored=50.0%" in str(SparseLinear(linear))
    assert "bsr 4x4, stored=50.0%" in str(SparseLinear(linear, 4))
