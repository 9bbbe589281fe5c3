"""Cutting networks of any shape: same outputs, fewer parameters, nothing left to cut."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_turbovbi.compression import compress, masked
from pyro_turbovbi.compression.graph import cut_graph
from pyro_turbovbi.compression.shrink import cut_masked
from pyro_turbovbi.errors import UnsupportedError
from tests.compression.graph_nets import (
    CASES,
    GPT,
    Apply,
    Attention,
    BasicBlock,
    ByHandAttention,
    Case,
    GatedMLP,
    ResidualMLP,
    ResNet,
    TorchAttention,
    features,
    images,
    masks_with_dead_units,
    tokens,
)
from tests.compression.nets import mlp, random_masks, randomise
from tests.compression.random_nets import RandomNet


@pytest.mark.parametrize("density", [0.5, 0.05])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_cut_network_is_smaller_and_computes_the_same(case: Case, density: float) -> None:
    net = case.net(1)
    masks = masks_with_dead_units(net, 1, density)
    result = compress(net, masks, case.inputs(), measure_latency=False)
    expected = masked(net, masks)(case.inputs())
    torch.testing.assert_close(result.module(case.inputs()), expected, rtol=1e-4, atol=1e-4)
    assert result.report.parameters < result.report.parameters_dense
    assert result.report.flops < result.report.flops_dense
    if result.surgery is not None:
        assert type(result.module) is type(net)


def test_random_graphs() -> None:
    check_random_graphs(range(20))


@pytest.mark.slow
def test_many_random_graphs() -> None:
    check_random_graphs(range(20, 200))


def check_random_graphs(seeds: range) -> None:
    """Each is verified by `compress`; on average much must go."""
    left = []
    for seed in seeds:
        net = randomise(RandomNet(seed), seed)
        masks = masks_with_dead_units(net, seed, (0.1, 0.3, 0.6)[seed % 3])
        report = compress(net, masks, images(5), measure_latency=False).report
        left.append(report.parameters / report.parameters_dense)
    assert sum(left) / len(left) < 0.7


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_cut_can_be_repeated_on_another_instance(case: Case) -> None:
    net = case.net(2)
    cut = cut_graph(masked(net, masks_with_dead_units(net, 2, 0.3)), case.inputs())
    again = cut.surgery.apply(case.net(3))
    again.load_state_dict(cut.module.state_dict())
    assert torch.equal(again(case.inputs()), cut.module(case.inputs()))
    assert not again.training


@pytest.mark.parametrize("seed", range(12))
def test_chains_lose_the_units_that_the_cutter_of_chains_finds(seed: int) -> None:
    net = randomise(mlp(7, 9, 8, 6, 3, activation=nn.Tanh), seed)
    pruned = masked(net, random_masks(net, seed))
    x = torch.randn(2, 7)
    graph, chain = cut_graph(pruned, x), cut_masked(pruned, x)
    hidden = [layer.in_features for layer in chain.module if isinstance(layer, nn.Linear)][1:]
    assert list(graph.units) == hidden
    assert graph.units_dense == (9, 8, 6)


@pytest.mark.parametrize("make", [ResNet, ResidualMLP, GatedMLP])
def test_nothing_is_left_to_cut(make: type[nn.Module]) -> None:
    x = features(6) if make is ResidualMLP else features(5) if make is GatedMLP else images()
    net = randomise(make(), 4)
    cut = cut_graph(masked(net, masks_with_dead_units(net, 4, 0.4)), x)
    again = cut_graph(cut.module, x)
    assert again.units == again.units_dense == cut.units


def test_units_of_a_sum_are_cut_where_all_terms_allow_it() -> None:
    net = randomise(ResidualMLP(), 0)
    masks = {name: torch.ones_like(p) for name, p in net.named_parameters() if p.ndim == 2}
    masks["stem.weight"][[2, 3]] = 0.0  # constant in one term: tanh(bias)
    masks["down.weight"][[3, 4]] = 0.0  # constant in the other
    masks["up.weight"][:, [3, 4, 5]] = 0.0
    masks["head.weight"][:, [5, 6]] = 0.0  # read by `up` still: 6; by nobody: 5
    result = compress(net, masks, features(6), measure_latency=False)
    assert result.report.structure == (8, 16)  # without 3 and 5
    assert result.module.stem.out_features == result.module.head.in_features == 8
    assert result.surgery is not None
    kept = result.surgery.kept["stem.weight"][0]
    assert kept is not None
    assert kept.tolist() == [0, 1, 2, 4, 6, 7, 8, 9]
    assert result.masks["down.weight"].shape == (8, 16)


def test_normalised_units_stay() -> None:
    net = randomise(ResidualMLP(norm=True), 0)
    masks = {"stem.weight": torch.zeros(10, 6), "down.weight": torch.zeros(10, 16)}
    masks["stem.weight"][0] = masks["down.weight"][0] = 1.0
    report = compress(net, masks, features(6), measure_latency=False).report
    assert report.structure[0] == 10


def test_a_constant_channel_stays_in_front_of_a_padded_convolution() -> None:
    def forward(x: Tensor, *, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
        return second(torch.sigmoid(first(x))) + 0 * x.sum()

    layers = {"first": nn.Conv2d(3, 4, 1), "second": nn.Conv2d(4, 2, 3, padding=1)}
    masks = {"first.weight": torch.ones(4, 3, 1, 1)}
    masks["first.weight"][1] = 0.0
    net = Apply(forward, **layers)
    report = compress(net, masks, images(), measure_latency=False).report
    assert report.structure == (4,)
    layers["second"].padding = (0, 0)
    report = compress(Apply(forward, **layers), masks, images(), measure_latency=False).report
    assert report.structure == (3,)


@pytest.mark.parametrize("kind", ["unread", "constant"])
@pytest.mark.parametrize("fused", [True, False])
def test_dead_attention_heads_are_cut(fused: bool, kind: str) -> None:
    net = nn.Sequential(
        nn.Linear(5, 12), Attention(12, 3, 4) if fused else ByHandAttention(12, 3), nn.ReLU()
    )
    randomise(net, 0)
    values = "1.qkv.weight" if fused else "1.v.weight"
    out = "1.proj.weight" if fused else "1.out.weight"
    masks = {name: torch.ones_like(p) for name, p in net.named_parameters() if p.ndim == 2}
    if kind == "unread":
        masks[out][:, 4:8] = 0.0
    else:  # the values of head 1 are its bias, for every token; attention averages them
        start = 24 if fused else 0
        masks[values][start + 4 : start + 8] = 0.0
    result = compress(net, masks, features(4, 5), measure_latency=False)
    attention = result.module[1]
    assert (attention.num_heads if fused else attention.heads) == 2
    assert result.module.get_parameter(out).shape == (12, 8)
    rows = result.module.get_parameter(values).shape[0]
    assert rows == (24 if fused else 8)
    assert net[1].qkv.out_features == 36 if fused else net[1].v.out_features == 12


def test_modules_that_check_their_own_sizes_stay_whole() -> None:
    net = nn.Sequential(nn.Linear(5, 8), TorchAttention(8, 2), nn.Linear(8, 6), nn.Linear(6, 2))
    masks = {"1.mha.in_proj_weight": torch.zeros(24, 8), "3.weight": torch.zeros(2, 6)}
    masks["3.weight"][:, 0] = 1.0
    result = compress(net, masks, features(4, 5), measure_latency=False)
    assert result.module[1].mha.in_proj_weight.shape == (24, 8)
    assert result.module[2].out_features == 1


def test_sizes_that_a_forward_method_remembers_keep_their_units() -> None:
    def forward(x: Tensor, *, first: nn.Linear, second: nn.Linear, third: nn.Linear) -> Tensor:
        x = torch.tanh(first(x)).view(-1, 2, 3).flatten(1)  # 2 and 3 are written down here
        return third(torch.tanh(second(x)))

    net = Apply(forward, first=nn.Linear(5, 6), second=nn.Linear(6, 4), third=nn.Linear(4, 2))
    masks = {"second.weight": torch.ones(4, 6), "third.weight": torch.ones(2, 4)}
    masks["second.weight"][:, :3] = 0.0
    masks["third.weight"][:, 0] = 0.0
    report = compress(net, masks, features(5), measure_latency=False).report
    assert report.structure == (6, 3)


def test_depthwise_groups_follow_their_channels() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    masks = {"3.weight": torch.ones(2, 6, 1, 1)}
    masks["3.weight"][:, [1, 4]] = 0.0
    module = compress(net, masks, images(), measure_latency=False).module
    assert (module[1].groups, module[1].in_channels, module[1].out_channels) == (4, 4, 4)
    assert module[1].weight.shape == (4, 1, 3, 3)


def test_tied_weights_stay_tied() -> None:
    net = GPT()
    masks = masks_with_dead_units(net, 0, 0.3)
    masks["wte.weight"] = torch.ones(20, 12)
    result = compress(net, masks, tokens(), measure_latency=False)
    assert result.module.lm_head.weight is result.module.wte.weight
    masks["lm_head.weight"] = masks.pop("wte.weight")
    again = compress(net, masks, tokens(), measure_latency=False)
    assert again.report.parameters == result.report.parameters


def test_channels_that_a_shortcut_pads() -> None:
    def forward(x: Tensor, *, a: nn.Conv2d, b: nn.Conv2d, out: nn.Linear) -> Tensor:
        x = F.relu(a(x))
        x = b(x) + F.pad(x, (0, 0, 0, 0, 2, 2))
        return out(x.mean((2, 3)))

    net = Apply(
        forward,
        a=nn.Conv2d(3, 6, 3, padding=1),
        b=nn.Conv2d(6, 10, 3, padding=1),
        out=nn.Linear(10, 3),
    )
    masks = {"out.weight": torch.ones(3, 10), "b.weight": torch.ones(10, 6, 3, 3)}
    masks["out.weight"][:, [0, 3]] = 0.0  # 0 is padding, 3 is channel 1 of the shortcut
    masks["b.weight"][:, 1] = 0.0
    module = compress(net, masks, images(), measure_latency=False).module
    assert module.a.out_channels == module.b.in_channels == 5
    assert module.b.out_channels == module.out.in_features == 9


def test_at_least_one_unit_stays() -> None:
    net = ResNet()
    masks = {n: torch.zeros_like(p) for n, p in net.named_parameters() if p.ndim > 1}
    result = compress(net, masks, images(), measure_latency=False)
    assert set(result.report.structure) == {1}


def test_precision_device_training_mode_and_the_net_itself_are_kept() -> None:
    net = randomise(BasicBlock(4, 6), 0).double()
    net.conv1.weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    x = images(channels=4)
    cut = cut_graph(masked(net, masks_with_dead_units(net, 0, 0.3)), x)
    assert {p.dtype for p in cut.module.parameters()} == {torch.float64}
    assert not cut.module.conv1.weight.requires_grad
    assert cut.module.bn1.weight.requires_grad
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert net.training


def test_tensors_are_cut_like_the_parameters() -> None:
    net = GPT()
    masks = masks_with_dead_units(net, 0, 0.3)
    cut = cut_graph(masked(net, masks), tokens())
    like = cut.cut_like({name: torch.ones_like(p) for name, p in net.named_parameters()})
    for name, parameter in cut.module.named_parameters():
        assert like[name].shape == parameter.shape
        if parameter.ndim > 1:
            assert torch.equal(like[name] != 0, parameter != 0)
    tied = cut.cut_like({"lm_head.weight": torch.ones(20, 12)})["lm_head.weight"]
    assert torch.equal(tied, like["wte.weight"])
    assert cut.name_of("wte.weight") == "wte.weight"


def several_outputs(x: Tensor, *, a: nn.Linear, b: nn.Linear) -> object:
    out = b(F.relu(a(x)))
    return {"out": out, "best": out.argmax(-1), "sure": out > 0, "state": None, "none": out[:0]}


def test_outputs_may_be_labels_truth_values_and_nothing() -> None:
    net = Apply(several_outputs, a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    masks = {"a.weight": torch.ones(8, 6)}
    masks["a.weight"][[1, 5]] = 0.0
    result = compress(net, masks, features(6), measure_latency=False)
    assert result.report.structure == (6,)


@pytest.mark.parametrize("output", [None, "text", object()])
def test_outputs_without_tensors_are_refused(output: object) -> None:
    def forward(x: Tensor, *, a: nn.Linear) -> object:
        return output if isinstance(output, str | None) else (a(x), output)

    with pytest.raises(UnsupportedError, match=r"something else than tensors.*tuples, lists"):
        compress(Apply(forward, a=nn.Linear(6, 8)), {}, features(6), measure_latency=False)


def test_units_of_transposed_convolutions_are_counted() -> None:
    def forward(x: Tensor, *, a: nn.Conv2d, up: nn.ConvTranspose2d, w: Tensor) -> Tensor:
        return F.relu(up(F.relu(a(x)))).mean((2, 3)) @ w

    net = Apply(
        forward,
        a=nn.Conv2d(3, 6, 1),
        up=nn.ConvTranspose2d(6, 5, 2, 2, bias=False),
        w=nn.Parameter(torch.randn(5, 4)),
    )
    masks = {"a.weight": torch.ones(6, 3, 1, 1), "up.weight": torch.ones(6, 5, 2, 2)}
    masks["a.weight"][0] = 0.0
    masks["up.weight"][:, [1, 2]] = 0.0
    report = compress(net, masks, images(), measure_latency=False).report
    assert report.structure_dense == (6, 5)
    assert report.structure == (5, 3)
