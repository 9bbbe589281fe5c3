"""The benchmark of robustness: what counts as a failure, and a short version of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import robustness as benchmark


def start(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--out", str(out), *arguments])
    benchmark.main()
    result: dict[str, Any] = json.loads(out.read_text())
    assert {"case", "protocol", "device", "rows"} <= set(result)
    return result


def test_runs_are_kept_and_the_missing_ones_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    first = start(monkeypatch, out, "--only", "mlp", "--seeds", "1", "--epochs", "1")
    assert [row["seeds"] for row in first["rows"]] == [[0]]
    both = start(monkeypatch, out, "--only", "mlp", "--seeds", "2", "--epochs", "1")
    assert both["rows"][0]["seeds"] == [0, 1]
    assert both["runs"][0] == first["runs"][0]


def test_failures_are_counted_by_kind() -> None:
    numbers = dict.fromkeys(
        ("mean_error_percent", "pruned_error_percent", "renewed_error_percent",
         "test_error_percent", "weights_left_percent", "seconds"), 1.0,
    )  # fmt: skip
    failures = [["not finite: outputs"], ["empty: x", "pruning changes the error by +9 points"], []]
    runs = [numbers | {"seed": i, "failures": failed} for i, failed in enumerate(failures)]
    row = benchmark.row_of("mlp", runs)
    assert [row[name] for name in ("not_finite", "empty", "damaged")] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", benchmark.NETS)
def test_no_nan_and_no_empty_net(name: str, seed: int) -> None:
    """Damage by pruning is recorded by the full benchmark (docs: "What is known to fail")."""
    failures = benchmark.run(name, seed, epochs=30)["failures"]
    assert not [failure for failure in failures if not failure.startswith("pruning")]
