"""Supports that are cut to equally many weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.frontier_cases import equal_density
from benchmarks.frontier_cases.equal_density import strongest
from benchmarks.frontier_cases.runs import Run, result_of
from benchmarks.frontier_cases.training import Trained, weights_of
from tests.benchmarks.frontier_cases import tiny


def network(scales: bool) -> Trained:
    net = tiny.build()
    masks = {name: w.detach() > 0 for name, w in weights_of(net).items()}
    deviations = {name: torch.rand(m.shape) + 0.1 for name, m in masks.items()} if scales else {}
    return Trained.of(net, masks, deviations)


@pytest.mark.parametrize("scales", [True, False])
def test_the_strongest_of_the_support_stay(scales: bool) -> None:
    trained = network(scales)
    reduced = strongest(trained, 20)
    assert reduced is not None
    assert sum(int(mask.sum()) for mask in reduced.masks.values()) == 20
    stay, go = [], []
    for name, mask in reduced.masks.items():
        assert not (mask & ~trained.masks[name]).any(), "outside its own support"
        score = trained.net.get_parameter(name).detach().abs()
        score = score / trained.scales[name] if scales else score
        stay.append(score[mask])
        go.append(score[trained.masks[name] & ~mask])
    assert torch.cat(stay).min() >= torch.cat(go).max()


def test_a_smaller_support_has_no_row() -> None:
    trained = network(scales=False)
    count = sum(int(mask.sum()) for mask in trained.masks.values())
    assert strongest(trained, count) is not None
    assert strongest(trained, count + 1) is None


def test_a_row_for_every_network_that_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny.install(monkeypatch, tmp_path)
    for method in ("magnitude, 20 %", "magnitude, 50 %", "dense Adam"):
        result_of(Run(tiny.NAME, method))
    result = equal_density.table(tiny.NAME, (0, 1), 0.4)
    assert [row["method"] for row in result["rows"]] == ["dense Adam", "magnitude, 50 %"]
    for row in result["rows"]:
        assert row["seeds"] == [0]
        assert row["weights_left_percent"]["median"] <= 40.0 + 1.0
        assert row["mean_cluster_length"]["median"] >= 1
    assert "40 %" in result["protocol"]
