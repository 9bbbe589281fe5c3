"""The benchmark of Module B's share on a tiny net: what is counted, and which rows are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import module_b_share as benchmark
from pyro_turbovbi.engines.turbo.module_b import ModuleB


def tiny_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def tiny_data() -> tuple[Tensor, Tensor]:
    return torch.randn(20, 4), torch.arange(20) % 2


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> list[dict[str, object]]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["benchmark", "--out", str(out), *arguments])
    try:
        benchmark.main()
    finally:
        torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    assert {"case", "protocol", "device", "rows"} <= set(result)
    rows: list[dict[str, object]] = result["rows"]
    return rows


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    case = benchmark.Case(tiny_net, tiny_data, 20, warm_up=2)
    monkeypatch.setattr(benchmark, "CASES", {"first": case, "second": case})
    monkeypatch.setattr(benchmark, "BATCH", 10)  # two steps an epoch: an exchange at every step


@pytest.mark.usefixtures("tiny")
def test_a_share_per_net_and_support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = ModuleB.exchange
    rows = run(monkeypatch, tmp_path / "made" / "out.json")
    assert [(row["method"], row["support"]) for row in rows] == [
        (net, support) for net in ("first", "second") for support in ("chain", "grid")
    ]
    assert all(0 < float(str(row["module_b_percent"])) < 100 for row in rows)
    assert {row["weights"] for row in rows} == {4 * 3 + 3 * 2}
    assert {row["message_interval"] for row in rows} == {1}
    assert ModuleB.exchange is exchange, "the package is left as it was"


@pytest.mark.usefixtures("tiny")
def test_one_net_alone_keeps_the_others_and_resuming_keeps_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    both = run(monkeypatch, out)
    again = run(monkeypatch, out, "--only", "second")
    assert again[:2] == both[:2]
    assert len(again) == 4
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("there is nothing to do"))
    assert run(monkeypatch, out, "--resume") == again


def test_nets_have_the_published_numbers_of_weights() -> None:
    counts = {
        name: sum(p.numel() for p in case.build().parameters() if p.ndim > 1)
        for name, case in benchmark.CASES.items()
    }
    assert counts == {"LeNet-300-100": 266_200, "LeNet-5-Caffe": 430_500, "VGG-16": 14_977_728}
    assert benchmark.vgg_16()(torch.randn(2, 3, 32, 32)).shape == (2, 10)
