"""Compress: the report's numbers, the table, files, quantisation."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyro_turbovbi.compression import (
    FineTune,
    accelerate,
    compress,
    compressed,
    fine_tune,
    load,
    load_posterior,
    masked,
    regularity,
)
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    SiteError,
)
from pyro_turbovbi.likelihoods import Categorical
from tests.compression.graph_nets import GPT, ResidualMLP, masks_with_dead_units, tokens
from tests.compression.nets import mlp, random_masks, randomise
from tests.compression.timers import clock, kernels_in


def hand_made() -> tuple[nn.Sequential, dict[str, torch.Tensor]]:
    """Inputs 0 and 2 feed hidden unit 0; unit 1 is constant; unit 2 is unread."""
    net = mlp(4, 3, 2)
    first = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    second = torch.tensor([[1, 1, 0], [1, 1, 0]])
    return net, {"0.weight": first, "2.weight": second}


def test_report_of_a_hand_made_case(tmp_path: Path) -> None:
    net, masks = hand_made()
    result = compress(net, masks, torch.randn(300, 4))
    report = result.report
    assert (report.total, report.masked, report.kept) == (18, 10, 4)
    assert report.mask_density == 10 / 18
    assert report.weights_left == 4 / 18
    assert report.structure == (2, 1)
    assert str(report.structure) == "2-1"
    assert f"{report.structure_dense}" == "4-3"
    assert (report.flops_dense, report.flops) == (2 * (12 + 6), 2 * (2 + 2))
    assert (report.parameters_dense, report.parameters) == (12 + 3 + 6 + 2, 2 + 1 + 2 + 2)
    assert report.bytes_dense == 4 * 23
    assert report.latency_batch == 256
    assert report.latency is not None
    assert report.latency > 0
    assert {name: tuple(m.shape) for name, m in result.masks.items()} == {
        "0.weight": (1, 2),
        "2.weight": (2, 1),
    }
    assert report.regularity["0.weight"] == regularity(torch.ones(1, 2))
    assert report.regularity_total.kept == 4
    assert report.regularity_total.clusters == 3
    assert result.save(tmp_path / "net.ptv") == report.bytes
    x = torch.randn(7, 4)
    assert torch.equal(load(tmp_path / "net.ptv")(x), result.module(x))


def test_outputs_in_single_precision() -> None:
    for seed in range(20):
        net = randomise(mlp(30, 40, 20, 5, activation=nn.Tanh), seed)
        masks = random_masks(net, seed, biases=True)
        result = compress(net, masks, torch.randn(20, 30), measure_latency=False)
        x = torch.randn(500, 30)
        expected = masked(net, masks)(x)
        error = (result.module(x) - expected).abs().max()
        assert error <= 1e-5 * expected.abs().max()
        assert result.report.max_error <= 1e-6


def test_structure_and_flops_of_a_convolution_net() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 8),
        nn.ReLU(),
        nn.Linear(8, 2),
    )
    features = torch.zeros(8, 6, 9)
    features[:, :2, :5] = 1
    report = compress(net, {"6.weight": features.flatten(1)}, torch.randn(2, 1, 12, 12)).report
    assert report.structure_dense == (1, 4, 6, 54, 8)
    assert report.structure == (1, 4, 2, 10, 8)
    assert report.flops_dense == 2 * (36 * 100 + 6 * 36 * 9 + 54 * 8 + 16)
    assert report.flops == 2 * (36 * 100 + 2 * 36 * 9 + 10 * 8 + 16)


def test_latency_is_optional() -> None:
    report = compress(*hand_made(), torch.randn(3, 4), measure_latency=False).report
    assert report.latency is report.latency_dense is None
    assert report.latency_batch == 3


def test_without_masks_everything_is_left() -> None:
    report = compress(mlp(4, 3, 2), {}, torch.randn(3, 4), measure_latency=False).report
    assert report.weights_left == report.mask_density == 1.0
    assert str(report.structure) == "4-3"


def test_report_is_json_and_a_table() -> None:
    result = compress(*hand_made(), torch.randn(3, 4))
    plain = json.loads(json.dumps(result.report.to_dict()))
    assert plain["structure"] == "2-1"
    assert plain["units"] == [2, 1]
    assert plain["weights_left"] == 4 / 18
    assert plain["regularity"]["2.weight"]["clusters"] == 2
    table = repr(result)
    assert "22.22%" in table
    assert "4-3" in table
    assert "0.weight" in table


def test_the_tables_of_supports_show_what_the_report_holds_and_stay_narrow() -> None:
    mask = torch.zeros(20, 40)
    mask[:6, :10] = 1
    report = compress(nn.Linear(40, 20), {"weight": mask}, torch.randn(3, 40)).report
    places, costs = str(report).split("\n\n")[1:]
    assert [line.split() for line in places.splitlines()] == [
        ["support", "shape", "kept", "clusters", "mean", "run", "longest"],
        ["weight", "20x10", "60", "6", "10.00", "10"],
        ["all", "60", "6", "10.00", "10"],
    ]
    cells = ["75.0%", "75.0%", "100.0%", "42.7", "13.1", "2.7", "4", "0.07"]
    assert [line.split() for line in costs.splitlines()[2:]] == [
        ["weight", *cells],
        ["all", *cells],
    ]
    assert max(map(len, str(report).splitlines())) < 90


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(0, 4),
        torch.zeros(4),
        torch.full((2, 4), torch.nan),
        torch.zeros(2, 4, dtype=torch.long),
    ],
    ids=["empty", "no batch", "nan", "integers"],
)
def test_refuses_inputs(inputs: torch.Tensor) -> None:
    with pytest.raises((InvalidDataError, ShapeError), match=r"given.*accepted"):
        compress(mlp(4, 3, 2), {}, inputs)


def test_report_of_a_network_that_is_no_chain() -> None:
    net = randomise(ResidualMLP(), 0)
    masks = {name: torch.ones_like(p) for name, p in net.named_parameters() if p.ndim == 2}
    masks["up.weight"][3] = 0.0  # constant
    masks["down.weight"][:, [0, 1]] = 0.0  # unread
    report = compress(net, masks, torch.randn(30, 6)).report
    assert (str(report.structure_dense), str(report.structure)) == ("10-16", "10-13")
    assert report.flops_dense == 2 * (60 + 160 + 160 + 30)
    assert report.flops == 2 * (60 + 130 + 130 + 30)
    assert report.parameters_dense - report.parameters == 3 * (10 + 1 + 10)
    assert report.kept == report.masked - 2 * 10 - 10
    assert report.regularity["up.weight"].rows == 13
    assert report.latency is not None


def test_integer_inputs_are_checked_between_the_least_and_the_largest() -> None:
    net = GPT()
    small = compress(net, masks_with_dead_units(net, 0), tokens(), measure_latency=False)
    assert small.report.max_error <= 1e-6
    assert small.example is not None
    assert not small.example.is_floating_point()


def test_a_network_with_several_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            x = torch.relu(self.stem(x))
            return {"a": self.a(x), "b": self.b(x)}

    masks = {"a.weight": torch.ones(2, 5), "b.weight": torch.ones(3, 5)}
    masks["a.weight"][:, [0, 1]] = masks["b.weight"][:, [1, 2]] = 0.0
    report = compress(Two(), masks, torch.randn(6, 4), measure_latency=False).report
    assert report.structure == (4,)


def test_what_is_no_chain_is_loaded_into_its_own_class(tmp_path: Path) -> None:
    x = torch.randn(6, 6)
    small = compress(ResidualMLP(), {}, x, measure_latency=False)
    assert small.save(tmp_path / "net.ptv") == small.report.bytes
    assert torch.equal(load(tmp_path / "net.ptv", net=ResidualMLP())(x), small.module(x))


def test_net_inputs_and_masks_are_untouched() -> None:
    net, masks = hand_made()
    net = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm1d(4), *net)
    masks = {f"{int(name[0]) + 2}.weight": mask for name, mask in masks.items()}
    state = {name: t.clone() for name, t in net.state_dict().items()}
    inputs = torch.randn(10, 4)
    copies = inputs.clone(), {name: mask.clone() for name, mask in masks.items()}
    compress(net, masks, inputs)
    assert torch.equal(inputs, copies[0])
    assert all(torch.equal(mask, copies[1][name]) for name, mask in masks.items())
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
    assert net.training


def overfitted() -> tuple[nn.Sequential, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A random net, masks with dead units, and standard deviations of its weights."""
    net = randomise(mlp(12, 20, 3), 3)
    assert isinstance(net, nn.Sequential)
    masks = random_masks(net, 3)
    scales = {
        name: torch.rand(net.get_parameter(name).shape) * 0.05 + 0.01 for name in [*masks, "2.bias"]
    }
    return net, masks, scales


def test_scales_are_cut_like_the_weights() -> None:
    net, masks, _ = overfitted()
    # The weights themselves as scales: then the cut must give the cut weights.
    absolute = {name: net.get_parameter(name).detach().abs() for name in (*masks, "2.bias")}
    result = compress(net, masks, torch.randn(9, 12), scales=absolute, measure_latency=False)
    assert result.scales.keys() == {"0.weight", "2.weight", "2.bias"}
    for name in masks:
        assert torch.equal(result.scales[name], result.module.get_parameter(name).detach().abs())
    assert torch.equal(result.scales["2.bias"], absolute["2.bias"])


def test_scales_of_convolutions_and_nested_modules() -> None:
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(96, 4),
    )
    randomise(net, 1)
    masks = random_masks(net, 1)
    scales = {name: net.get_parameter(name).detach().abs() for name in (*masks, "0.1.weight")}
    result = compress(net, masks, torch.randn(3, 2, 6, 6), scales=scales, measure_latency=False)
    assert result.names == {"0.0.weight": "0_0.weight"}
    assert result.scales.keys() == {"0_0.weight", "2.weight"}
    for name, scale in result.scales.items():
        assert torch.equal(scale, result.module.get_parameter(name).detach().abs())


def test_what_is_saved_is_what_was_validated(tmp_path: Path) -> None:
    net, masks, scales = overfitted()
    x = torch.randn(400, 12)
    y = masked(net, masks)(x).argmax(1)
    small = compress(net, masks, x, scales=scales, measure_latency=False)
    rough = small.quantise((x, y), tolerance=0.01)
    how = rough.quantisation
    assert how is not None
    assert how.loss <= how.loss_exact + 0.01
    assert rough.save(tmp_path / "net.ptv") == rough.report.bytes < small.report.bytes / 2
    loaded = load(tmp_path / "net.ptv")
    assert torch.equal(loaded(x), rough.module(x))
    loss = nn.functional.cross_entropy(loaded(x), y)
    assert float(loss.detach()) == pytest.approx(how.loss, rel=1e-5)
    assert "posterior standard deviations" in repr(rough)
    for name, mask in rough.masks.items():
        assert torch.equal(mask, rough.module.get_parameter(rough.names.get(name, name)) != 0)
        assert not bool((mask & ~small.masks[name]).any())
    assert rough.report.kept == sum(int(mask.sum()) for mask in rough.masks.values())
    assert 0 < rough.report.max_error < 1
    plain = rough.save(tmp_path / "plain.ptv", coding="plain")
    assert plain > rough.report.bytes
    assert torch.equal(load(tmp_path / "plain.ptv")(x), rough.module(x))
    # The exact network is untouched.
    assert small.quantisation is None
    assert torch.equal(small.module(x), compress(net, masks, x).module(x))


@pytest.mark.parametrize("coding", ["plain", "compact"])
def test_uncertainty_travels_along(coding: str, tmp_path: Path) -> None:
    net, masks, scales = overfitted()
    x = torch.randn(50, 12)
    small = compress(net, masks, x, scales=scales, measure_latency=False)
    small.save(tmp_path / "net.ptv", coding=coding, uncertainty=True)
    posterior = load_posterior(tmp_path / "net.ptv")
    assert torch.equal(posterior.module(x), small.module(x))
    assert posterior.scales.keys() == small.scales.keys()
    for name, scale in posterior.scales.items():
        assert torch.allclose(scale, small.scales[name], rtol=0.095, atol=0)
    assert posterior.predict(x, 4).shape == (4, 50, 3)


def test_scales_and_uncertainty_are_checked(tmp_path: Path) -> None:
    net, masks, scales = overfitted()
    x = torch.randn(5, 12)
    bad = [
        ({"9.weight": scales["0.weight"]}, SiteError),
        ({"0.weight": scales["2.weight"]}, ShapeError),
        ({"0.weight": -scales["0.weight"]}, InvalidDataError),
    ]
    for wrong, error in bad:
        with pytest.raises(error, match=r"given|accepted"):
            compress(net, masks, x, scales=wrong)
    small = compress(net, masks, x, measure_latency=False)
    with pytest.raises(InvalidArgumentError, match="no standard deviations"):
        small.save(tmp_path / "net.ptv", uncertainty=True)
    points: Any = [{"a": row, "b": row, "y": row[0]} for row in x]
    named = torch.utils.data.DataLoader(points)
    with pytest.raises(InvalidArgumentError, match="one input"):
        small.quantise(named, tolerance=0.1)


@pytest.fixture
def csr_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `Compressed.accelerate` chooses, whatever this machine is fast at."""
    monkeypatch.setattr(compressed, "accelerate", partial(accelerate, timer=clock(csr=0.5)))


@pytest.mark.usefixtures("csr_is_fastest")
@pytest.mark.parametrize("coding", ["plain", "compact"])
def test_an_accelerated_network_is_saved_with_ordinary_layers(coding: str, tmp_path: Path) -> None:
    net, masks, scales = overfitted()
    x = torch.randn(50, 12)
    small = compress(net, masks, x, scales=scales, measure_latency=False)
    fast = small.accelerate(batch_size=16)
    assert kernels_in(fast.module) == {"csr"}
    torch.testing.assert_close(fast.module(x), small.module(x), rtol=1e-4, atol=1e-5)
    size = fast.save(tmp_path / "fast.ptv", coding=coding, uncertainty=True)
    assert size == small.save(tmp_path / "small.ptv", coding=coding, uncertainty=True)
    assert (tmp_path / "fast.ptv").read_bytes() == (tmp_path / "small.ptv").read_bytes()
    loaded = load(tmp_path / "fast.ptv")
    assert torch.equal(loaded(x), small.module(x))
    again = accelerate(loaded, x, timer=clock(csr=0.5))
    assert torch.equal(again.module(x), fast.module(x))


@pytest.mark.usefixtures("csr_is_fastest")
def test_an_accelerated_network_is_exported_and_quantised_with_ordinary_layers() -> None:
    net, masks, scales = overfitted()
    x = torch.randn(50, 12)
    small = compress(net, masks, x, scales=scales, measure_latency=False)
    fast = small.accelerate()
    assert torch.equal(fast.export().module()(x), small.export().module()(x))
    y = small.module(x).argmax(1)
    rough = fast.quantise((x, y), tolerance=0.1)
    assert not kernels_in(rough.module)
    assert rough.report.acceleration is rough.ordinary is None
    assert torch.equal(rough.module(x), small.quantise((x, y), tolerance=0.1).module(x))
    assert kernels_in(rough.accelerate().module) == {"csr"}
    assert small.with_ordinary_layers() is small
    assert fast.with_ordinary_layers().module is small.module
    settings = FineTune(epochs=1, holdout=0.2)
    tuned = fine_tune(fast, (x, y), Categorical(), settings=settings)
    assert tuned.report.acceleration is tuned.ordinary is None
    assert not kernels_in(tuned.module)


@pytest.mark.usefixtures("csr_is_fastest")
def test_the_report_of_an_accelerated_network() -> None:
    small = compress(*overfitted()[:2], torch.randn(50, 12))
    fast = small.accelerate(batch_size=3)
    assert small.report.acceleration is None
    how = fast.report.acceleration
    assert how is not None
    assert (how.batch_size, how.latency, how.latency_ordinary) == (3, 0.5, 1.0)
    assert fast.report.latency == small.report.latency
    plain = json.loads(json.dumps(fast.report.to_dict()))
    assert plain["acceleration"]["layers"]["0"]["kernel"] == "csr"
    assert "kernels for batches of 3" in repr(fast)
    once_more = fast.accelerate(batch_size=2)
    assert once_more.ordinary is fast.ordinary is small.module
    with pytest.raises(InvalidArgumentError, match="batch_size"):
        small.accelerate(batch_size=-1)


@pytest.mark.usefixtures("csr_is_fastest")
def test_an_accelerated_network_that_is_no_chain(tmp_path: Path) -> None:
    net = randomise(ResidualMLP(), 0)
    masks = masks_with_dead_units(net, 0, 0.3, dead=0.1)
    x = torch.randn(6, 6)
    small = compress(net, masks, x, measure_latency=False)
    fast = small.accelerate()
    assert kernels_in(fast.module) == {"csr"}
    fast.save(tmp_path / "net.ptv")
    assert torch.equal(load(tmp_path / "net.ptv", net=ResidualMLP())(x), small.module(x))


def test_supports_are_drawn_after_and_before_the_cut() -> None:
    net, masks = hand_made()
    small = compress(net, masks, torch.randn(3, 4), measure_latency=False)
    assert {name: mask.dtype for name, mask in small.masks_before.items()} == {
        name: torch.bool for name in masks
    }
    titles = [axes.get_title() for axes in small.plot_supports().axes]
    assert titles[0] == "0.weight\n1x2, 100 % left, 1 clusters"
    titles = [axes.get_title() for axes in small.plot_supports(before=True).axes]
    assert [title.split(",")[0] for title in titles] == [
        "0.weight: before\n3x4",
        "0.weight: cut\n1x2",
        "2.weight: before\n2x3",
        "2.weight: cut\n2x1",
    ]
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        compress(net, {}, torch.randn(3, 4), measure_latency=False).plot_supports()
