"""The benchmark against NUTS: its figures on a short run, and its claim on a longer one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import against_nuts as benchmark
from pyro_turbovbi import engines


def shorten(monkeypatch: pytest.MonkeyPatch, samples: int, warmup: int, steps: int) -> None:
    nuts = engines.NUTS(num_samples=samples, warmup=warmup, num_chains=2)
    reference = dataclasses.replace(benchmark.REFERENCE, engine=nuts)
    monkeypatch.setattr(benchmark, "REFERENCE", reference)
    methods = {
        name: dataclasses.replace(method, epochs=min(method.epochs, steps))
        for name, method in benchmark.METHODS.items()
    }
    monkeypatch.setattr(benchmark, "METHODS", methods)


def test_writes_a_row_of_every_method_and_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shorten(monkeypatch, 4, 2, 3)
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(benchmark, "SEEDS", (0,))
    monkeypatch.setattr(benchmark, "DRAWS", 5)
    benchmark.main()
    result = json.loads((tmp_path / "against_nuts.json").read_text())
    assert {"case", "protocol", "device", "rows"} <= set(result)
    assert result["readme"] is False
    rows = {(row["problem"], row["method"]): row for row in result["rows"]}
    assert ("classification", "Turbo, exact q(w)") not in rows, "it is for Gaussian noise"
    assert len(rows) == 15
    for (_, method), row in rows.items():
        assert row["predictive_nll"]["median"] > 0
        assert ("nll_ratio_to_nuts" in row) == (method != "NUTS")


def test_differences_are_those_of_the_definition() -> None:
    true = {
        "probs": torch.tensor([0.0, 1.0]),
        "mean": torch.tensor([0.0, 2.0]),
        "nll": torch.tensor(2.0),
    }
    found = {
        "probs": torch.tensor([0.5, 0.75]),
        "mean": torch.tensor([3.0, -2.0]),
        "nll": torch.tensor(3.0),
    }
    assert benchmark.differences(found, true) == {
        "support_difference_max": 0.5,
        "support_difference_mean": 0.375,
        "mean_difference_rms": pytest.approx(12.5**0.5),
        "predictive_nll": 3.0,
        "nll_ratio_to_nuts": 1.5,
    }
