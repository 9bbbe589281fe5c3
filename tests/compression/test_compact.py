"""The compact form: how small it is, that regularity pays, and what it may stand for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pyro_turbovbi import supports
from pyro_turbovbi.compression import shrink
from pyro_turbovbi.compression.compact import read_compact, write_compact
from pyro_turbovbi.compression.container import Sections, pack, unpack
from pyro_turbovbi.compression.quantisation import Step, quantised
from pyro_turbovbi.compression.surgery import Surgery
from pyro_turbovbi.errors import ArtifactError, UnsupportedError
from tests.compression.nets import mlp

DENSITIES = {"0.weight": 0.02, "2.weight": 0.03, "4.weight": 0.15}


def lenet(law: type[supports.Chain] | type[supports.Independent]) -> nn.Sequential:
    """A LeNet-300-100 with under 2 % of its weights, heavy-tailed and away from zero."""
    net, masks = mlp(784, 300, 100, 10), {}
    for name, parameter in net.named_parameters():
        values = torch.distributions.StudentT(3.0).sample(parameter.shape)
        parameter.data = 0.15 * values + 0.1 * values.sign()
        if name in DENSITIES:
            masks[name] = law(DENSITIES[name]).distribution(parameter.shape).sample()
    return shrink(net, masks, torch.zeros(2, 784))


def written(net: nn.Sequential, scale: float = 0.03) -> bytes:
    scales = {n: torch.full_like(p, scale) for n, p in net.named_parameters() if p.ndim > 1}
    rounded, steps = quantised(net, scales, 1.0)
    assert isinstance(rounded, nn.Sequential)
    content = write_compact(rounded, steps, {})
    for name, tensor in read_compact(content).module.state_dict().items():
        assert torch.equal(tensor, rounded.state_dict()[name])
    return content


def test_a_lenet_takes_a_byte_a_weight() -> None:
    net = lenet(supports.Chain)
    kept = sum(int((p != 0).sum()) for p in net.parameters() if p.ndim > 1)
    assert 4000 < kept < 5500
    content = written(net)
    stored = read_compact(content)
    inside = sum(size.bytes for size in stored.sizes)
    assert len(content) < 9 * kept / 8 + 500
    assert len(content) - inside < 110
    assert sum(size.kept for size in stored.sizes if len(size.shape) > 1) == kept


def test_regular_supports_are_cheaper() -> None:
    regular, irregular = (written(lenet(law)) for law in (supports.Chain, supports.Independent))
    bits = []
    for content in (regular, irregular):
        size = next(s for s in read_compact(content).sizes if s.name == "0.weight")
        bits.append(size.support_bits / size.kept)
    assert bits[0] < 0.7 * bits[1]


@given(
    shape=st.sampled_from([(1, 1), (1, 7), (9, 1), (4, 6), (3, 2, 3, 3), (2, 5, 4)]),
    seed=st.integers(0, 2**16),
    fill=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    step=st.sampled_from([Step(8, -3), Step(15, -40), Step(11, 6)]),
)
@settings(max_examples=60)
def test_any_quantised_layer_comes_back(
    shape: tuple[int, ...], seed: int, fill: float, step: Step
) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d}
    layer = layers[len(shape)](shape[1], shape[0], *shape[2:3])
    multiples = torch.randint(-900, 900, shape, generator=generator).float()
    mask = torch.rand(shape, generator=generator) < fill
    layer.weight.data = multiples * mask * step.size + 0.0
    scale = torch.rand(shape, generator=generator) * mask
    content = write_compact(
        nn.Sequential(layer), {"0.weight": step}, {"0.weight": scale} if mask.any() else {}
    )
    stored = read_compact(content)
    assert torch.equal(stored.module[0].weight, layer.weight)
    assert torch.equal(stored.module[0].bias, layer.bias)
    if mask.any():
        assert torch.equal(stored.scales["0.weight"] > 0, scale > 0)


def test_sizes_add_up_to_the_file() -> None:
    content = written(lenet(supports.Chain))
    sections = unpack(content)
    sizes = read_compact(content).sizes
    assert sum(s.bytes for s in sizes) == pytest.approx(
        len(sections.coded) + len(sections.exact), abs=8
    )


def test_a_network_emptier_than_a_file_can_vouch_for_is_refused() -> None:
    net = nn.Sequential(nn.Linear(20_000, 400, bias=False))
    net[0].weight.data.zero_()
    with pytest.raises(UnsupportedError, match=r"size.*plain"):
        write_compact(net, {}, {})


def test_content_that_is_not_described_is_refused() -> None:
    manifest, coded, exact = unpack(write_compact(mlp(3, 2), {}, {}))
    for changed in (
        Sections(manifest, coded, exact + b"\0"),
        Sections(manifest, coded, exact[:-1]),
        Sections(manifest, coded + b"abcd" * 9, exact),
        Sections(manifest, b"abc", exact),
    ):
        with pytest.raises((ArtifactError, ValueError)):
            read_compact(pack(changed))


@pytest.mark.parametrize(
    "entry",
    [
        {"support": 4},
        {"support": -1},
        {"support": True},
        {"support": 0, "step": [7, 0]},
        {"support": 0, "step": [8, 10**6]},
        {"support": 0, "step": [8.0, 0]},
        {"scale": 0},
        {"scale": 256},
        {"dtype": "qint8"},
    ],
)
def test_entries_out_of_range_are_refused(entry: dict[str, object]) -> None:
    manifest, coded, exact = unpack(write_compact(mlp(3, 2), {}, {}))
    forged = json.loads(json.dumps(manifest))
    forged["layers"][0][3][0] = entry
    with pytest.raises((ArtifactError, KeyError)):
        read_compact(pack(Sections(forged, coded, exact)))


def test_scales_above_the_table_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    content = write_compact(net, {}, {"0.weight": torch.tensor([[0.5, 8.0, 1.0, 2.0]] * 3)})
    manifest, coded, exact = unpack(content)
    forged = json.loads(json.dumps(manifest))
    forged["layers"][0][3][0]["scale"] = 250
    with pytest.raises(ArtifactError, match="standard deviation"):
        read_compact(pack(Sections(forged, coded, exact)))
    assert np.isclose(float(read_compact(content).scales["0.weight"].max()), 8.0)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.complex64]
)
def test_buffers_of_any_type_come_back(dtype: torch.dtype) -> None:
    net = nn.Linear(3, 2)
    net.register_buffer("mask", torch.tensor([[1, 0, 1], [0, 0, 1]] * 20).to(dtype))
    net.register_buffer("number", torch.tensor(1).to(dtype))
    state = read_compact(write_compact(net, {}, {}, Surgery({}))).state
    assert state["mask"].dtype == state["number"].dtype == dtype
    assert torch.equal(state["mask"], net.get_buffer("mask"))
    assert torch.equal(state["number"], net.get_buffer("number"))
