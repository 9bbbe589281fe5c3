"""Cut networks against masked ones: random networks, and cases that are easy to get wrong."""

from __future__ import annotations

import copy
import random
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pyro_turbovbi.compression import compress, masked, shrink
from pyro_turbovbi.compression.layers import InputSelect
from pyro_turbovbi.errors import UnsupportedError
from tests.compression.nets import mlp, needed_units, random_masks, randomise

ACTIVATIONS = [nn.ReLU, nn.Softplus, nn.Tanh, nn.Sigmoid, nn.GELU, nn.ELU, nn.Identity]
SEEDS = st.integers(0, 2**31)


def assert_same(net: nn.Module, masks: dict[str, Tensor], x: Tensor) -> nn.Sequential:
    """Checks the cut net against the masked one in double precision, on new random data."""
    cut = shrink(net, masks, x)
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(9)).double()
    expected = masked(net, masks).double()(fresh)
    actual = copy.deepcopy(cut).double()(fresh)
    scale = expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6 * scale + 1e-12)
    return cut


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    norm=st.booleans(),
    biases=st.booleans(),
    seed=SEEDS,
)
@settings(max_examples=150, deadline=None)
def test_random_mlps(
    sizes: list[int],
    activation: type[nn.Module],
    bias: bool,
    norm: bool,
    biases: bool,
    seed: int,
) -> None:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers.append(nn.Linear(inputs, outputs, bias=bias))
        layers += [nn.BatchNorm1d(outputs)] if norm else []
        layers += [activation(), nn.Dropout(0.3)]
    net = randomise(nn.Sequential(*layers), seed)
    assert_same(net, random_masks(net, seed, biases=biases), torch.randn(3, sizes[0]))


class ConvNet(nn.Module):
    """Two convolutions, a pool each, flatten, two linear layers; everything else is drawn."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        channels = [rng.randint(1, 4) for _ in range(3)]
        padding, mode = rng.choice([0, 1, "same"]), rng.choice(["zeros", "circular", "reflect"])
        kernel = rng.choice([1, 3]) if padding == "same" else rng.choice([1, 2, 3])

        def pick(*values: object) -> object:
            return rng.choice(values)

        self.front = pick(nn.Identity(), nn.BatchNorm2d(channels[0]), nn.Tanh())
        self.conv1 = nn.Conv2d(channels[0], channels[1], 3, bias=pick(True, False))
        self.norm = pick(nn.Identity(), nn.BatchNorm2d(channels[1]), nn.PReLU(channels[1]))
        self.act = pick(*(cls() for cls in ACTIVATIONS))
        self.conv2 = nn.Conv2d(channels[1], channels[2], kernel, padding=padding, padding_mode=mode)
        self.pool1 = self.pool(pick)
        self.pool2 = self.pool(pick)
        size = self.features(torch.zeros(1, channels[0], 16, 16)).shape[1]
        self.flat_norm = pick(nn.Identity(), nn.BatchNorm1d(size))
        self.fc = nn.Linear(size, rng.randint(1, 6), bias=pick(True, False))
        self.out = nn.Linear(self.fc.out_features, rng.randint(1, 3))
        self.channels = channels[0]
        self.eval()

    @staticmethod
    def pool(pick: object) -> nn.Module:
        padding = pick(0, 1)
        return pick(
            nn.Identity(),
            nn.MaxPool2d(2, padding=padding),
            nn.AvgPool2d(2, padding=padding),
            nn.AvgPool2d(3, 2, padding=padding, ceil_mode=True, count_include_pad=False),
            nn.AvgPool2d(2, divisor_override=3, ceil_mode=True),
            nn.AdaptiveAvgPool2d(6),
        )

    def features(self, x: Tensor) -> Tensor:
        x = self.pool1(self.act(self.norm(self.conv1(self.front(x)))))
        return torch.flatten(self.pool2(F.softplus(self.conv2(x))), 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flat_norm(self.features(x))
        return F.log_softmax(self.out(self.act(self.fc(x))), dim=1)


@given(seed=SEEDS)
@settings(max_examples=150, deadline=None)
def test_random_conv_nets(seed: int) -> None:
    net = ConvNet(seed)
    randomise(net, seed)
    assert_same(net, random_masks(net, seed), torch.randn(2, net.channels, 16, 16))


@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_random_sequences(seed: int) -> None:
    net = nn.Sequential(
        nn.Conv1d(3, 5, 3, padding=1, bias=False),
        nn.Sequential(nn.BatchNorm1d(5), nn.Sigmoid(), nn.AvgPool1d(2, padding=1)),
        nn.Conv1d(5, 4, 2, stride=2),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    randomise(net, seed)
    assert_same(net, random_masks(net, seed), torch.randn(2, 3, 16))


@given(sizes=st.lists(st.integers(1, 7), min_size=3, max_size=6), seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_keeps_exactly_the_needed_units(sizes: list[int], seed: int) -> None:
    """The two passes reach the fixed point that removing one unit at a time reaches."""
    net = randomise(mlp(*sizes, activation=nn.Sigmoid), seed)
    masks = random_masks(net, seed)
    pruned = [p.detach() for n, p in masked(net, masks).named_parameters() if p.ndim == 2]
    cut = [m for m in shrink(net, masks, torch.randn(2, sizes[0])) if isinstance(m, nn.Linear)]
    needed = [max(1, int(alive.sum())) for alive in needed_units(pruned)]
    assert [layer.in_features for layer in cut] == needed


def test_constant_is_folded_through_batch_norm_and_activation() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Softplus(), nn.Linear(2, 2))
    randomise(net, 0)
    mask = torch.tensor([[True] * 3, [False] * 3])
    cut = assert_same(net, {"0.weight": mask}, torch.randn(4, 3))
    norm = net[1]
    standard = (net[0].bias[1] - norm.running_mean[1]) / (norm.running_var[1] + norm.eps).sqrt()
    constant = F.softplus(standard * norm.weight[1] + norm.bias[1])
    torch.testing.assert_close(
        cut.get_parameter("3.bias"), net[3].bias + constant * net[3].weight[:, 1]
    )
    assert cut.get_parameter("0.weight").shape == (1, 3)


def test_layer_without_bias_gets_one_only_when_a_constant_is_folded() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid(), nn.Linear(2, 2, bias=False))
    mask = torch.tensor([[True] * 3, [False] * 3])
    assert assert_same(net, {"0.weight": mask}, torch.randn(4, 3))[2].bias is not None
    assert assert_same(net, {}, torch.randn(4, 3))[2].bias is None
    net[1] = nn.Tanh()
    net[0].bias.data.zero_()  # tanh(0) = 0: nothing to fold
    assert assert_same(net, {"0.weight": mask}, torch.randn(4, 3))[2].bias is None


@pytest.mark.parametrize(
    ("padding", "mode", "bias", "channels"),
    [
        (1, "zeros", 0.5, 2),  # 0.5 inside, 0 beyond the border: must stay
        (1, "zeros", -0.5, 1),  # relu makes it 0: nothing to fold
        (0, "zeros", 0.5, 1),
        ("same", "zeros", 0.5, 2),
        (1, "replicate", 0.5, 1),
    ],
)
def test_constant_in_front_of_padding(
    padding: int | str, mode: str, bias: float, channels: int
) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=padding, padding_mode=mode)
    )
    net[0].bias.data.fill_(bias)
    mask = torch.ones(2, 1, 3, 3)
    mask[0] = 0
    cut = assert_same(net, {"0.weight": mask}, torch.randn(3, 1, 8, 8))
    assert cut[0].out_channels == channels


def test_constant_that_padded_pooling_makes_uneven() -> None:
    mask = torch.ones(2, 1, 3, 3)
    mask[0] = 0
    uneven = [nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.AvgPool2d(2, padding=1)]
    into_conv = nn.Sequential(*uneven, nn.Conv2d(2, 2, 2))
    cut = assert_same(into_conv, {"0.weight": mask}, torch.randn(3, 1, 8, 8))
    assert cut[0].out_channels == 2
    into_linear = nn.Sequential(*uneven, nn.Flatten(), nn.Linear(32, 2))
    cut = assert_same(into_linear, {"0.weight": mask}, torch.randn(3, 1, 8, 8))
    assert cut[0].out_channels == 1


def test_dead_features_behind_flatten_are_selected_away() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2))
    mask = torch.zeros(2, 3, 4)
    mask[0, 1, 2] = mask[1, 2, 0] = mask[1, 2, 3] = 1
    cut = assert_same(net, {"3.weight": mask.reshape(2, 12)}, torch.randn(5, 1, 4, 4))
    assert cut.get_parameter("0.weight").shape[0] == 2
    select = next(layer for layer in cut if isinstance(layer, InputSelect))
    assert select.indices.tolist() == [2, 4, 7]


def test_dead_inputs_are_selected_away_through_the_front_layers() -> None:
    net = randomise(nn.Sequential(nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)), 0)
    mask = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 1]])
    cut = assert_same(net, {"2.weight": mask}, torch.randn(5, 4))
    assert [type(layer).__name__ for layer in cut] == [
        "InputSelect",
        "BatchNorm1d",
        "Tanh",
        "Linear",
    ]
    assert cut[1].num_features == 2


def test_nothing_to_cut_leaves_the_layers_and_their_names() -> None:
    net = mlp(4, 3, 2)
    cut = shrink(net, {}, torch.randn(2, 4))
    assert list(cut.state_dict()) == list(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(cut.parameters(), net.parameters(), strict=True))


@pytest.mark.parametrize("dead", ["0.weight", "2.weight", "4.weight"])
def test_dead_layer_leaves_one_unit_everywhere(dead: str) -> None:
    net = mlp(5, 4, 3, 2, activation=nn.Softplus)
    masks = {dead: torch.zeros_like(net.get_parameter(dead))}
    cut = assert_same(net, masks, torch.randn(6, 5))
    widths = [layer.in_features for layer in cut if isinstance(layer, nn.Linear)]
    assert widths == [1, 1, 1]
    assert all(cut.get_parameter(f"{i}.bias").item() == 0 for i in (0, 2))
    outputs = cut(torch.randn(6, 5))
    assert outputs.shape == (6, 2)
    torch.testing.assert_close(outputs, outputs[:1].expand(6, 2))


def test_outputs_are_never_cut() -> None:
    net = mlp(3, 3, 4)
    mask = torch.ones(4, 3)
    mask[1:] = 0
    assert assert_same(net, {"2.weight": mask}, torch.randn(2, 3))[-1].out_features == 4


def test_exact_zeros_count_as_pruned_without_a_mask() -> None:
    net = mlp(3, 3, 2)
    net[2].weight.data[:, 1] = 0.0
    assert assert_same(net, {}, torch.randn(2, 3))[0].out_features == 2


def test_negative_zeros_become_zeros() -> None:
    net = nn.Linear(3, 2)
    net.weight.data = torch.tensor([[-0.0, 1.0, 0.0], [2.0, -0.0, -1.0]])
    (cut,) = shrink(net, {}, torch.randn(2, 3))
    assert not torch.signbit(cut.weight[cut.weight == 0]).any()


def test_net_is_untouched_and_the_random_state_too() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    net[2].inplace = True
    before = copy.deepcopy(net.state_dict())
    x = torch.randn(5, 4)
    kept, state = x.clone(), torch.get_rng_state()
    cut = shrink(net, random_masks(net, 3), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept)
    assert net.training
    assert not cut.training
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    addresses = {p.data_ptr() for p in net.parameters()}
    assert addresses.isdisjoint(p.data_ptr() for p in cut.parameters())


def test_double_precision_is_kept() -> None:
    net = mlp(4, 3, 2).double()
    cut = shrink(net, random_masks(net, 1), torch.randn(2, 4).double())
    assert {p.dtype for p in cut.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (nn.Sequential(nn.ReLU()), "no weight matrix"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 2)), "Softmax.*mixes"),
    ],
)
def test_refusals(net: nn.Module, match: str) -> None:
    with pytest.raises(UnsupportedError, match=match):
        shrink(net, {}, torch.randn(2, 4))


def test_refuses_a_mask_of_a_parameter_outside_the_chain() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(3, 2)
            self.spare = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(UnsupportedError, match=r"spare\.weight.*used\.weight"):
        shrink(Spare(), {"spare.weight": torch.ones(2, 3)}, torch.randn(2, 3))


def even_masks(net: nn.Module, seed: int, density: float) -> dict[str, Tensor]:
    """Masks of one density everywhere."""
    generator = torch.Generator().manual_seed(seed)
    matrices = {name: p for name, p in net.named_parameters() if p.ndim > 1}
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in matrices.items()}


@pytest.mark.parametrize("density", [0.6, 0.02, 0.0])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["mlp", "flat", "images"])
def test_a_cut_network_is_cut_again_as_a_chain(kind: str, seed: int, density: float) -> None:
    if kind == "images":
        head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        net, x = nn.Sequential(*head, *mlp(24, 8, 3)), torch.randn(4, 3, 6, 6)
    else:
        front = [nn.Flatten(), nn.ReLU()] if kind == "flat" else []
        net, x = nn.Sequential(*front, *mlp(9, 8, 3)), torch.randn(4, 9)
    net = randomise(net, seed)
    once = compress(net, even_masks(net, seed, 0.15), x, measure_latency=False)
    assert any(isinstance(layer, InputSelect) for layer in once.module)
    masks = even_masks(once.module, seed + 9, density)
    scales = {name: torch.full_like(once.module.get_parameter(name), 0.1) for name in masks}
    twice = compress(once.module, masks, x, scales=scales, measure_latency=False)
    assert twice.surgery is None
    for name, own in ((name, twice.names.get(name, name)) for name in masks):
        parameter = twice.module.get_parameter(own)
        assert twice.scales[own].shape == twice.masks[name].shape == parameter.shape
    pairs = zip(once.report.structure, twice.report.structure, strict=True)
    assert all(after <= before for before, after in pairs)
