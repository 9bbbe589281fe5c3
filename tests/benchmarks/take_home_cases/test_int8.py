"""Integers by torchao, where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("torchao")

from benchmarks.take_home_cases import int8


@pytest.fixture
def net() -> nn.Sequential:
    layers = (nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 200), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(200, 5)).eval().requires_grad_(False)


@pytest.mark.parametrize("kind", int8.KINDS)
def test_weights_are_within_half_a_step(net: nn.Sequential, kind: str) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    integers = int8.quantised(net, kind)
    for name, exact in before.items():
        rounded = integers.state_dict()[name]
        if name in ("3.weight", "5.weight"):
            assert rounded.qdata.dtype == torch.int8
            step = exact.abs().amax(1, keepdim=True) / 127
            assert ((rounded.dequantize() - exact).abs() <= 0.501 * step).all()
        else:
            assert torch.equal(rounded, exact)
        assert torch.equal(net.state_dict()[name], exact), "the network was touched"


@pytest.mark.parametrize("kind", int8.KINDS)
def test_the_file_gives_the_same_network(net: nn.Sequential, kind: str, tmp_path: Path) -> None:
    x, path = torch.randn(8, 1, 8, 8), tmp_path / "net.safetensors"
    integers = int8.quantised(net, kind)
    int8.save(integers, path)
    weights = 200 * 72 + 5 * 200
    assert weights < path.stat().st_size < 1.5 * weights
    torch.testing.assert_close(int8.load(path, net)(x), integers(x), rtol=0, atol=0)
    scale = float(net(x).abs().max())
    assert float((integers(x) - net(x)).abs().max()) < 0.05 * scale
