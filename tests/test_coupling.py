"""Coupling groups of networks: which weights share units, and where that is given up."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from pyro_turbovbi.coupling import (
    INPUT,
    Coupling,
    Couplings,
    Member,
    couplings,
    entries,
    put_in_order,
)
from pyro_turbovbi.errors import UnsupportedError
from tests.compression.random_nets import RandomNet


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


class Traced(nn.Module):
    """Layers, and a forward method that is given."""

    def __init__(self, run: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def images(*between: nn.Module, width: int = 6, flat: int = 4) -> nn.Module:
    """Two convolutions on 4 x 4 pixels with something between, and a linear layer."""
    first = nn.Conv2d(1, 6, 3, padding=1)
    behind = nn.Conv2d(width, 5, 3)
    return nn.Sequential(first, *between, behind, nn.Flatten(), nn.Linear(5 * flat, 3))


def features(*between: nn.Module, width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), *between, nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 3))


def flattened(run: Callable[..., Tensor], width: int, channels: int = 16) -> nn.Module:
    return Traced(
        lambda net, x: net.last(run(F.relu(net.first(x))).flatten(1)),
        first=nn.Conv2d(1, channels, 3, padding=1), last=nn.Linear(width, 3),
    )  # fmt: skip


def positions(flatten: Callable[[Tensor], Tensor]) -> nn.Module:
    """A linear layer on the positions of sixteen channels, of which there are as many."""
    return Traced(
        lambda net, x: net.last(torch.tanh(net.inner(flatten(net.first(x)))).flatten(1)),
        first=nn.Conv2d(1, 16, 3, padding=1), inner=nn.Linear(16, 8), last=nn.Linear(128, 3),
    )  # fmt: skip


def linear(name: str, shape: tuple[int, int] = (6, 6)) -> nn.Module:
    """A chain whose middle layer is something else than it seems."""
    layer = nn.Linear(*shape)
    if name == "pruned":
        prune.random_unstructured(layer, "weight", amount=0.3)
    if name == "hooked":
        scale = torch.linspace(0.1, 2.0, shape[1])
        layer.register_forward_hook(lambda _module, _inputs, output: output * scale)
    return features(nn.Tanh(), layer, nn.Tanh())


def reads_weight(how: str) -> nn.Module:
    def run(net: nn.Module, x: Tensor) -> Tensor:
        if how == "directly":
            again = F.linear(x, net.first.weight)
        elif how == "transposed":
            again = x @ net.first.weight.t()
        else:  # something that tracing takes for a constant
            again = x @ dict(net.first.named_parameters())["weight"].t()
        return net.last(torch.relu(net.first(x))) + again[:, :3]

    return Traced(run, first=nn.Linear(4, 6), last=nn.Linear(6, 3))


def shared_norm() -> nn.Module:
    return Traced(
        lambda net, x: net.last(net.norm(net.second(net.norm(net.first(x))))),
        first=nn.Linear(4, 6), second=nn.Linear(6, 6), norm=nn.BatchNorm1d(6),
        last=nn.Linear(6, 3),
    )  # fmt: skip


IMAGES = torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))
FEATURES = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
#: Per name: the net, inputs, the groups of hidden units that can be moved, those that are fixed.
NETS: dict[str, tuple[Callable[[], nn.Module], Tensor, str, str]] = {
    "flattening of positions": (lambda: positions(lambda h: h.flatten(2)), IMAGES, "", ""),
    "view of positions": (lambda: positions(lambda h: h.view(-1, 16, 16)), IMAGES, "", ""),
    "flattening": (lambda: flattened(lambda h: h.flatten(1), 256), IMAGES, "first.weight", ""),
    "flattening to the last dim": (
        lambda: flattened(lambda h: torch.flatten(h, 1, 3), 256),
        IMAGES,
        "first.weight",
        "",
    ),
    "view": (lambda: flattened(lambda h: h.view(h.size(0), -1), 256), IMAGES, "first.weight", ""),
    "view of open rows": (
        lambda: flattened(lambda h: h.view(-1, 256), 256),
        IMAGES,
        "first.weight",
        "",
    ),
    "view of open rows that are closed again": (
        lambda: Traced(
            lambda net, x: net.last(
                torch.relu(net.second(net.first(x).view(-1, 16))).view(x.size(0), -1)
            ),
            first=nn.Conv2d(1, 16, 1),
            second=nn.Linear(16, 5),
            last=nn.Linear(80, 3),
        ),
        IMAGES,
        "",
        "",
    ),
    "reshape": (
        lambda: flattened(lambda h: h.reshape((h.shape[0], 256)), 256),
        IMAGES,
        "first.weight",
        "",
    ),
    "mean over the rows": (lambda: flattened(lambda h: h.mean(2), 64), IMAGES, "first.weight", ""),
    "means over positions": (
        lambda: flattened(lambda h: h.mean(-1).amax(2), 16),
        IMAGES,
        "first.weight",
        "",
    ),
    "transposition": (lambda: flattened(lambda h: h.mT, 256), IMAGES, "", ""),
    "softmax over channels": (lambda: images(nn.Softmax(1)), IMAGES, "2.weight", ""),
    "running sum": (lambda: flattened(lambda h: h.cumsum(1), 256), IMAGES, "", ""),
    "instance norm": (
        lambda: images(nn.InstanceNorm2d(6, affine=True, track_running_stats=True)),
        IMAGES,
        "2.weight",
        "0.weight",
    ),
    "group norm": (lambda: images(nn.GroupNorm(2, 6)), IMAGES, "2.weight", "0.weight"),
    "layer norm": (lambda: features(nn.LayerNorm(6)), FEATURES, "2.weight", "0.weight"),
    "local response": (lambda: images(nn.LocalResponseNorm(3)), IMAGES, "2.weight", ""),
    "channel shuffle": (lambda: images(nn.ChannelShuffle(3)), IMAGES, "2.weight", ""),
    "pixel shuffle": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 1), nn.PixelShuffle(2), nn.Flatten(), nn.Linear(128, 3)
        ),
        IMAGES,
        "",
        "",
    ),
    "gated linear units": (lambda: features(nn.GLU(), width=3), FEATURES, "2.weight", ""),
    "slopes per channel": (lambda: images(nn.PReLU(6)), IMAGES, "0.weight 2.weight", ""),
    "slopes per feature": (lambda: features(nn.PReLU(6)), FEATURES, "0.weight 2.weight", ""),
    "batch norm": (lambda: images(nn.BatchNorm2d(6)), IMAGES, "0.weight 2.weight", ""),
    "batch norm behind a flattening": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 1), nn.Flatten(), nn.BatchNorm1d(96), nn.PReLU(96), nn.Linear(96, 3)
        ),
        IMAGES,
        "0.weight",
        "",
    ),
    "batch norm of tokens": (
        lambda: features(nn.BatchNorm1d(4)),
        FEATURES[:, None] * torch.ones(4, 1),
        "2.weight",
        "0.weight",
    ),
    "pooling of features": (lambda: features(nn.MaxPool1d(3, 1, 1)), FEATURES, "2.weight", ""),
    "depthwise": (
        lambda: images(nn.Conv2d(6, 6, 3, padding=1, groups=6)),
        IMAGES,
        "2.weight",
        "0.weight",
    ),
    "grouped": (
        lambda: images(nn.Conv2d(6, 6, 3, padding=1, groups=2)),
        IMAGES,
        "2.weight",
        "1.weight",
    ),
    "channels multiplied": (
        lambda: images(nn.Conv2d(6, 12, 3, padding=1, groups=6), width=12),
        IMAGES,
        "2.weight",
        "1.weight",
    ),
    "spectral norm": (
        lambda: nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(4, 6)),
            nn.Tanh(),
            nn.Linear(6, 5),
            nn.Tanh(),
            nn.Linear(5, 3),
        ),
        FEATURES,
        "2.weight",
        "",
    ),
    "weight norm behind": (
        lambda: nn.Sequential(
            nn.Linear(4, 6),
            nn.Tanh(),
            parametrizations.weight_norm(nn.Linear(6, 5)),
            nn.Tanh(),
            nn.Linear(5, 3),
        ),
        FEATURES,
        "",
        "",
    ),
    "pruned": (lambda: linear("pruned"), FEATURES, "4.weight", ""),
    "hooked": (lambda: linear("hooked"), FEATURES, "4.weight", ""),
    "a weight that is read elsewhere": (lambda: reads_weight("directly"), FEATURES, "", ""),
    "a weight that is transposed elsewhere": (lambda: reads_weight("transposed"), FEATURES, "", ""),
    "a constant made of a weight": (lambda: reads_weight("as a constant"), FEATURES, "", ""),
    "a norm of two groups": (shared_norm, FEATURES, "", "first.weight second.weight"),
    "an input with a skip": (
        lambda: Traced(
            lambda net, x: net.last(net.first(x) + x), first=nn.Linear(4, 4), last=nn.Linear(4, 3)
        ),
        FEATURES,
        "",
        "",
    ),
    "an argument by its name": (
        lambda: Traced(
            lambda net, x: net.last(input=torch.cumsum(input=net.first(x), dim=1)),
            first=nn.Linear(4, 6),
            last=nn.Linear(6, 3),
        ),
        FEATURES,
        "",
        "",
    ),
}


def randomised(net: nn.Module) -> nn.Module:
    """In evaluation mode, with nothing that is the same for all units."""
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            nn.init.uniform_(tensor.detach(), 0.1, 2.0)
    return net.double().eval()


def change_when_moved(net: nn.Module, x: Tensor, groups: Couplings, which: Iterable[str]) -> float:
    """How far outputs change when the units of groups are shuffled."""
    shuffled = copy.deepcopy(net)
    tensors = dict(shuffled.named_parameters()) | dict(shuffled.named_buffers())
    with torch.no_grad():
        for name in which:
            order = torch.randperm(groups.sizes[name])
            for member in groups.members[name]:
                tensor = tensors[member.name]
                tensor.copy_(tensor.index_select(member.dim, entries(order, member)))
        expected, actual = net(x), shuffled(x)
    return float((actual - expected).abs().max() / expected.abs().max())


def hidden(names: Iterable[str]) -> set[str]:
    return {name for name in names if name != INPUT}


@pytest.mark.parametrize("name", NETS)
def test_units_are_moved_as_a_whole_or_left_alone(name: str) -> None:
    torch.manual_seed(0)
    make, x, movable, fixed = NETS[name]
    with torch.no_grad():  # a pruned layer cannot be copied otherwise
        net = randomised(make())
    found = couplings(net, weights_of(net), input_dims=x.ndim)
    assert hidden(found.members) == set(movable.split())
    assert hidden(found.sizes) == set(movable.split()) | set(fixed.split())
    assert change_when_moved(net, x.double(), found, hidden(found.members)) < 1e-10


@pytest.mark.parametrize("seed", range(30))
def test_units_of_random_graphs_are_moved_as_a_whole_or_left_alone(seed: int) -> None:
    torch.manual_seed(seed)
    net = randomised(RandomNet(seed))
    x = torch.randn(3, 3, 5, 5, dtype=torch.float64)
    found = couplings(net, weights_of(net))
    for group in hidden(found.members):
        assert change_when_moved(net, x, found, [group]) < 1e-10, group


@pytest.mark.parametrize("shape", [(-1, 16), (2, -1)])
def test_units_of_inputs_in_another_shape_cannot_be_taken_out(
    shape: tuple[int, int],
) -> None:
    net = Traced(lambda net, x: net.last(x.view(shape)), last=nn.Linear(16, 3))
    found = couplings(net, weights_of(net))
    assert found.sizes == {"input": 16}
    assert not found.members


def test_an_input_that_is_read_along_two_dims_is_given_up() -> None:
    net = Traced(
        lambda net, x: net.channels(x).flatten(1) + net.positions(x).flatten(1),
        channels=nn.Conv1d(5, 4, 1), positions=nn.Linear(5, 4),
    )  # fmt: skip
    assert couplings(net, weights_of(net)).sizes == {}


def test_tracing_leaves_nothing_in_the_net() -> None:
    net = reads_weight("as a constant")
    before = dict(net.__dict__)
    couplings(net, weights_of(net))
    assert net.__dict__ == before


@pytest.mark.parametrize(("dim", "movable"), [(0, {"first.weight"}), (1, set()), (-1, set())])
def test_units_whose_number_is_asked_for_are_fixed(dim: int, movable: set[str]) -> None:
    def run(net: nn.Module, x: Tensor) -> Tensor:
        h = net.first(x)
        return net.last(h) / h.size(dim)

    net = Traced(run, first=nn.Linear(4, 6), last=nn.Linear(6, 3))
    found = couplings(net, weights_of(net))
    assert hidden(found.members) == movable
    assert hidden(found.sizes) == {"first.weight"}


def test_a_layer_that_is_called_like_the_input_is_none() -> None:
    net = Traced(lambda net, x: net.last(net.input_1(x)), input_1=nn.Linear(4, 6),
                 last=nn.Linear(6, 3))  # fmt: skip
    masks = {"last.weight": torch.tensor([[True, False, True, False, True, False]] * 3)}
    moved = []
    put_in_order(
        couplings(net, weights_of(net)),
        lambda: masks,
        lambda members, order: moved.append(members),
    )
    assert len(moved) == 1
