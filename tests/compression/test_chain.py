"""Reading networks as chains: what is accepted, what is refused, and how."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_turbovbi.compression.calls import FUNCTIONS, METHODS
from pyro_turbovbi.compression.chain import chain_of
from pyro_turbovbi.errors import ShapeError, UnsupportedError


class LeNet(nn.Module):
    """Written by hand, the way that tutorials do it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.head = nn.Sequential(nn.Linear(45, 7), nn.Sequential(nn.Softplus(), nn.Linear(7, 3)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), kernel_size=2, stride=2)
        x = F.dropout(x, 0.4, training=self.training)
        x = x.view(x.size(0), -1)
        return F.log_softmax(self.head(x), dim=1)


class Apply(nn.Module):
    """Applies a function between two linear layers."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self, self.a(x)))


def run(net: nn.Module, x: Tensor) -> Tensor:
    for link in chain_of(net, x):
        assert tuple(x.shape[1:]) == link.in_shape
        x = link.layer(x)
        assert tuple(x.shape[1:]) == link.out_shape
    return x


def test_hand_written_forward_is_the_chain_of_its_layers() -> None:
    net, x = LeNet(), torch.randn(5, 1, 14, 14)
    names = [(link.path, type(link.layer).__name__) for link in chain_of(net, x)]
    assert names == [
        ("conv1", "Conv2d"),
        ("norm", "BatchNorm2d"),
        (None, "ReLU"),
        (None, "MaxPool2d"),
        ("conv2", "Conv2d"),
        (None, "Tanh"),
        (None, "AvgPool2d"),
        (None, "Dropout"),
        (None, "Flatten"),
        ("head.0", "Linear"),
        ("head.1.0", "Softplus"),
        ("head.1.1", "Linear"),
        (None, "LogSoftmax"),
    ]
    torch.testing.assert_close(run(net, x), net.eval()(x), rtol=0, atol=0)


def test_net_and_its_mode_are_untouched() -> None:
    net, x = LeNet().train(), torch.randn(5, 1, 14, 14)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    generator = torch.get_rng_state()
    chain_of(net, x)
    assert net.training
    assert net.norm.training
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_layer_alone_is_a_chain() -> None:
    (link,) = chain_of(nn.Linear(3, 2), torch.randn(1, 3))
    assert (link.path, link.name) == ("", "layer")


def test_names_are_unique_and_no_container_attributes() -> None:
    inner = nn.Sequential()
    inner.add_module("b", nn.Linear(2, 2))

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = inner
            self.a_b = nn.Linear(2, 2)
            self.append = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.append(self.a_b(self.a(x)))

    names = [link.name for link in chain_of(Odd(), torch.randn(1, 2))]
    assert names == ["a_b", "a_b_1", "append_1"]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: getattr(f, "__name__", "f"))
def test_every_function_equals_its_layer(function: object) -> None:
    layer, names = FUNCTIONS[function]
    dims = {"1d": (4, 3, 8), "2d": (4, 3, 8, 8)}
    shape = next((s for d, s in dims.items() if d in layer.__name__), (4, 8))
    arguments: tuple[object, ...] = ()
    if "Pool" in layer.__name__:
        arguments = (2,)
    if layer is nn.Threshold or "dim" in names:
        arguments = (1,)
    if "training" in names:
        arguments = (0.5, False)

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x, *arguments)

    x = torch.randn(shape)
    (link,) = chain_of(Net(), x)
    assert type(link.layer) is layer
    assert torch.equal(link.layer(x), function(x, *arguments))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "contiguous"])
def test_every_method_equals_its_layer(method: str) -> None:
    arguments = (1,) if "softmax" in method else ()

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return getattr(x, method)(*arguments)

    x = torch.randn(4, 5)
    (link,) = chain_of(Net(), x)
    assert torch.equal(link.layer(x), getattr(x.clone(), method)(*arguments))


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: torch.flatten(x, 1),
        lambda x: torch.flatten(x, start_dim=1),
        lambda x: x.flatten(1),
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(x.size(dim=0), -1),
        lambda x: x.reshape(x.shape[0], x.shape[1] * 4),
        lambda x: torch.reshape(x, (x.size()[0], -1)),
        lambda x: x.view(-1, 12),
        lambda x: x.contiguous().view((-1, 12)),
    ],
)
def test_ways_to_flatten(flatten: object) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)
            self.out = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(flatten(self.conv(x)))

    net, x = Net(), torch.randn(5, 1, 4, 4)
    assert torch.equal(run(net, x), net(x))


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda net, x: x + x, "add"),
        (lambda net, x: x + 1.0, "add"),
        (lambda net, x: x * x.size(0), "mul"),
        (lambda net, x: net.a(x) + x, "shares|takes|take"),
        (lambda net, x: F.linear(x, net.a.weight), "a_weight"),
        (lambda net, x: F.dropout(x, 0.5), "dropout"),
        (lambda net, x: torch.sort(x).values, "sort"),
        (lambda net, x: x.view(-1, 3), "view"),
        (lambda net, x: x if x.sum() > 0 else -x, "traced"),
        (lambda net, x: F.relu(x, inplace=True)[:, :6], "getitem"),
    ],
)
def test_refusals_name_the_node_and_the_accepted_layers(function: object, named: str) -> None:
    with pytest.raises(UnsupportedError, match=named) as caught:
        chain_of(Apply(function), torch.randn(4, 6))
    assert "Conv2d" in str(caught.value) or "used once" in str(caught.value)


def test_refuses_two_inputs_and_two_outputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.relu(), x

    for net in (Two(), Pair()):
        with pytest.raises(UnsupportedError, match="not a chain"):
            chain_of(net, torch.randn(4, 6))


def test_refuses_shared_layers_and_tied_weights() -> None:
    shared = nn.Linear(4, 4)
    with pytest.raises(UnsupportedError, match="shares its parameters"):
        chain_of(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(2, 4))
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    with pytest.raises(UnsupportedError, match="'2' shares its parameters"):
        chain_of(tied, torch.randn(2, 4))


def hooked() -> nn.Module:
    layer = nn.ReLU()
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    ("layer", "shape", "match"),
    [
        (nn.LayerNorm(4), (2, 4), "LayerNorm"),
        (nn.Conv2d(4, 4, 3, groups=2), (2, 4, 8, 8), "groups=2"),
        (nn.MaxPool2d(2, return_indices=True), (2, 4, 8, 8), "returns indices"),
        (nn.BatchNorm1d(4, track_running_stats=False), (2, 4), "running statistics"),
        (nn.Flatten(2), (2, 4, 8, 8), "does not flatten everything"),
        (nn.LSTM(4, 4), (2, 4), "LSTM"),
        (hooked(), (2, 4), "hooks"),
    ],
)
def test_refuses_layers(layer: nn.Module, shape: tuple[int, ...], match: str) -> None:
    with pytest.raises(UnsupportedError, match=match):
        chain_of(nn.Sequential(layer), torch.randn(shape))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 4), (2, 3, 4)),
        (nn.Linear(5, 4), (2, 4)),
        (nn.MaxPool1d(2), (2, 4)),
        (nn.Conv2d(1, 2, 3), (1, 8, 8)),
    ],
)
def test_refuses_shapes_that_do_not_fit(layer: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"layer '0'.*given.*accepted"):
        chain_of(nn.Sequential(layer), torch.randn(shape))
