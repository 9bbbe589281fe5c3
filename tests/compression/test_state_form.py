"""Networks that a file cannot rebuild: round trips through an instance of their class."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi.compression import compress, load, load_posterior
from pyro_turbovbi.compression.artifact import deserialise, read, save, serialise
from pyro_turbovbi.compression.container import Sections, pack, unpack
from pyro_turbovbi.compression.quantisation import quantised
from pyro_turbovbi.compression.state_form import described, own_tensors, read_surgery
from pyro_turbovbi.compression.surgery import Surgery
from pyro_turbovbi.errors import ArtifactError, InvalidArgumentError, ShapeError

CODINGS = ["plain", "compact"]


class Residual(nn.Module):
    """A skip connection, batch statistics, and a weight that is used twice."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.width = width
        self.first, self.norm = nn.Linear(6, width), nn.BatchNorm1d(width)
        self.up, self.head = nn.Linear(width, 9, bias=False), nn.Linear(width, 3)
        self.down = nn.Linear(9, width)
        self.tied = self.head

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = x + self.down(torch.relu(self.up(x)))
        return self.tied(x) + self.head(x)


SURGERY = Surgery(
    {
        "first.weight": (torch.tensor([0, 2, 3, 9]), torch.tensor([1, 2, 5])),
        "first.bias": (torch.tensor([0, 2, 3, 9]),),
        **{
            f"norm.{name}": (torch.tensor([0, 2, 3, 9]),)
            for name in ("weight", "bias", "running_mean", "running_var")
        },
        "up.weight": (torch.tensor([4, 8]), torch.tensor([0, 2, 3, 9])),
        "up.bias": (torch.tensor([4, 8]),),
        "down.weight": (torch.tensor([0, 2, 3, 9]), torch.tensor([4, 8])),
        "down.bias": (torch.tensor([0, 2, 3, 9]),),
        "head.weight": (None, torch.tensor([0, 2, 3, 9])),
    },
    {"width": 4},
    ("up.bias",),
)
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def cut_net() -> nn.Module:
    net = SURGERY.apply(Residual())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_().mul_(torch.rand(parameter.shape) < 0.6)
    return net


def test_a_surgery_is_plain_data_and_few_marks() -> None:
    plain, marks = described(SURGERY)
    assert len(marks) == 3, "coupled dims share their places"
    back = read_surgery(json.loads(json.dumps(plain)), marks)
    assert back.attributes == SURGERY.attributes
    assert back.biases == SURGERY.biases
    assert back.kept.keys() == SURGERY.kept.keys()
    for name, dims in back.kept.items():
        for one, other in zip(dims, SURGERY.kept[name], strict=True):
            assert one is other is None or torch.equal(one, other)  # type: ignore[arg-type]


@pytest.mark.parametrize("coding", CODINGS)
def test_round_trip_through_another_instance(coding: str, tmp_path: Path) -> None:
    net, fresh = cut_net(), Residual()
    before = copy.deepcopy(fresh.state_dict())
    rounded, steps = quantised(net, {}, 0.5)
    scales = {"first.weight": torch.rand(4, 3) * (rounded.get_parameter("first.weight") != 0)}
    path = tmp_path / "net.ptv"
    size = save(rounded, path, coding=coding, steps=steps, scales=scales, surgery=SURGERY)
    assert size == path.stat().st_size
    loaded = load(path, net=fresh)
    assert type(loaded) is Residual
    assert not loaded.training
    assert loaded.width == 4
    assert loaded.tied is loaded.head
    assert torch.equal(loaded(X), rounded(X))
    assert load_posterior(path, net=fresh).predict(X, 3).shape == (3, 5, 3)
    assert all(torch.equal(t, before[n]) for n, t in fresh.state_dict().items())


@pytest.mark.parametrize("coding", CODINGS)
def test_shared_tensors_are_stored_once(coding: str) -> None:
    stored = read(serialise(cut_net(), coding=coding, surgery=SURGERY))
    assert stored.state.keys() == own_tensors(Residual()).keys() | {"up.bias"}
    assert not any(name.startswith("tied") for name in stored.state)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("other", [lambda: Residual(9), lambda: Residual(13), lambda: nn.ReLU()])
def test_another_network_is_refused(coding: str, other: Callable[[], nn.Module]) -> None:
    content = serialise(cut_net(), coding=coding, surgery=SURGERY)
    if type(net := other()) is Residual and net.width == 13:
        deserialise(content, net)  # the places exist there too: a larger instance can be cut
        return
    with pytest.raises((ShapeError, ArtifactError)):
        deserialise(content, net)


def test_a_net_is_given_exactly_where_it_is_needed() -> None:
    with pytest.raises(InvalidArgumentError, match=r"load\(path, net=MyNet\(\)\)"):
        deserialise(serialise(cut_net(), surgery=SURGERY))
    with pytest.raises(InvalidArgumentError, match="rebuilds it alone"):
        deserialise(serialise(nn.Sequential(nn.Linear(2, 2))), nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attributes", {"forward": 3}),
        ("attributes", {"first.weight": 3}),
        ("attributes", {"_version": 3}),
        ("attributes", {"nothing.width": 3}),
        ("attributes", {"width": -1}),
        ("attributes", {"width": "4"}),
        ("biases", ["forward"]),
        ("biases", [3]),
        ("biases", ["nothing.bias"]),
        ("kept", {"first.weight": [7, None]}),
        ("kept", {"first.weight": [-1, None]}),
        ("kept", {"first.weight": [0]}),
        ("kept", {"nothing": [0]}),
        ("kept", None),
    ],
)
def test_forged_surgeries_are_refused(key: str, value: object) -> None:
    manifest, coded, exact = unpack(serialise(cut_net(), coding="compact", surgery=SURGERY))
    forged = json.loads(json.dumps(manifest))
    forged["surgery"][key] = value
    content = pack(Sections(forged, coded, exact))
    with pytest.raises((ArtifactError, ShapeError)):
        deserialise(content, Residual())


@pytest.mark.parametrize("coding", CODINGS)
def test_damage_is_refused(coding: str) -> None:
    net = cut_net()
    content, rng = serialise(net, coding=coding, surgery=SURGERY), random.Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        with contextlib.suppress(ArtifactError):
            assert torch.equal(deserialise(bytes(damaged), Residual())(X), net(X))


def test_a_network_with_a_skip_connection_from_end_to_end(tmp_path: Path) -> None:
    net, x = Residual().eval(), torch.randn(40, 6)
    masks = {
        name: torch.ones_like(net.get_parameter(name)) for name in ("up.weight", "down.weight")
    }
    masks["up.weight"][3:] = 0
    scales = {name: torch.full_like(mask, 0.02) for name, mask in masks.items()}
    small = compress(net, masks, x, scales=scales, measure_latency=False)
    assert small.surgery is not None
    y = small.module(x).argmax(1)
    rough = small.quantise((x, y), tolerance=0.05)
    assert rough.save(tmp_path / "net.ptv", uncertainty=True) > rough.report.bytes
    assert torch.equal(load(tmp_path / "net.ptv", net=Residual())(x), rough.module(x))
    small.save(tmp_path / "exact.ptv")
    assert torch.equal(load(tmp_path / "exact.ptv", net=Residual())(x), small.module(x))
