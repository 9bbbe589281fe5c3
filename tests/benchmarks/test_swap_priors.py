"""The benchmark of swapped priors at tiny size: its rows, its stored runs, its candidates."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import lenet_300_100 as lenet
from benchmarks import swap_priors as benchmark
from pyro_turbovbi import data, priors
from pyro_turbovbi.data import Splits
from pyro_turbovbi.data.splits import TensorPair


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One seed, two steps, a few random images; results go to a folder of the test's own."""
    part = TensorPair(torch.rand(64, 784), torch.arange(64) % 10)
    monkeypatch.setattr(data, "mnist", lambda validation: Splits(part, part, part))
    monkeypatch.setattr(lenet, "PRETRAINING_EPOCHS", 1)
    monkeypatch.setattr(lenet, "BATCH", 32)
    settings = {"RESULTS": tmp_path, "RUNS": tmp_path / "runs", "SEEDS": (0,)}
    settings |= {"ENGINE_EPOCHS": 1, "TUNING_EPOCHS": 1, "BLOCK": 1, "ROUNDS": 2}
    for name, value in settings.items():
        monkeypatch.setattr(benchmark, name, value)
    return tmp_path


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["swap_priors", *arguments])
    benchmark.main()


def test_a_row_of_every_method(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch)
    result = json.loads((tiny / "swap_priors.json").read_text())
    assert result["readme"] is False
    assert [row["method"] for row in result["rows"]] == list(benchmark.METHODS)
    for row in result["rows"]:
        assert row["seeds"] == [0]
        assert row["nll_of_thousand"]["median"] > 0
        assert 0 <= row["cut_error_percent"]["median"] <= 100
        assert row["step_cost_ratio"] > 0
    by_name = {row["method"]: row for row in result["rows"]}
    for prior in ("Normal", "Laplace", "StudentT"):
        assert by_name[prior]["weights_left_percent"]["median"] == 100
        assert by_name[prior]["structure"] == "784-300-100"


def test_an_interrupted_benchmark_has_a_table_and_goes_on(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SEEDS", (0, 1))
    trained: list[tuple[str, int]] = []

    def train(method: benchmark.Method, seed: int, *_: object) -> dict[str, object]:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((type(method.prior).__name__, seed))
        figures = dict.fromkeys(("cut_error_percent", "predictive_error_percent"), float(seed))
        names = ("nll_of_thousand", "weights_left_percent", "error_percent_at_equal_size")
        return figures | dict.fromkeys(names, 1.0) | {"structure": f"{seed}", "seconds": 1.0}

    monkeypatch.setattr(benchmark, "run", train)
    names = ["Normal", "Laplace"]
    with pytest.raises(KeyboardInterrupt):
        benchmark.final(names)
    assert trained == [("Normal", 0), ("Laplace", 0), ("Normal", 1)], "first seeds first"
    rows = {row["method"]: row for row in benchmark.write()["rows"]}
    assert rows["Normal"]["seeds"] == [0, 1]
    assert rows["Laplace"]["seeds"] == [0]
    assert [rows[name]["num_seeds"] for name in names] == [2, 1]
    assert rows["Normal"]["cut_error_percent"] == {"median": 0.5, "min": 0.0, "max": 1.0}
    trained.clear()
    benchmark.final(names)
    assert trained == [("Laplace", 1)]


def test_runs_of_another_recipe_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"recipe": benchmark.METHODS["Normal"].described(1), "cut_error_percent": 1.0}
    path = benchmark.path_of("Normal", 0)
    path.parent.mkdir()
    path.write_text(json.dumps(run))
    assert benchmark.stored("Normal") == {0: run}
    other = dataclasses.replace(benchmark.METHODS["Normal"], lr=0.5)
    monkeypatch.setitem(benchmark.METHODS, "Normal", other)
    assert benchmark.stored("Normal") == {}


def test_every_choice_is_a_candidate() -> None:
    for method in benchmark.METHODS.values():
        tried = list(benchmark.candidates(method))
        assert (method in tried) == (method.engine != "turbo")
    tried = list(benchmark.candidates(benchmark.METHODS["GroupLasso, MAP"]))
    assert {m.prior for m in tried} == {priors.GroupLasso(s) for s in benchmark.STRENGTHS}


def test_tuning_never_sees_a_test_image(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = TensorPair(torch.rand(64, 784), torch.arange(64) % 10)
    absent = TensorPair(torch.full((1, 784), float("nan")), torch.zeros(1, dtype=torch.long))
    monkeypatch.setattr(data, "mnist", lambda validation: Splits(part, part, absent))
    main(monkeypatch, "--tune", "--only", "Normal")
    runs = [json.loads(path.read_text()) for path in (tiny / "runs" / "tuning").glob("*.json")]
    assert {run["recipe"]["lr"] for run in runs} == set(benchmark.LEARNING_RATES)
    assert all(run["nll_of_thousand"] > 0 for run in runs)
