"""Rows of hand-made figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.take_home_cases import int8, speed, tables
from tests.benchmarks.frontier_cases import tiny


def figures(seed: int, *, dense: float, cut: float, size: int, integers: bool = False) -> Any:
    """A network with a tenth of the FLOPs; ONNX Runtime takes half of torch's time."""
    times = {"torch": cut, "onnxruntime": cut / 2, "torch, accelerated": cut / 4}
    dense_times = {"torch": dense, "onnxruntime": dense / 2, "torch, accelerated": dense / 2}
    seconds = {speed.DENSE + name: time for name, time in dense_times.items()} | times
    by_batch = {str(n): {k: n * s for k, s in seconds.items()} for n in speed.BATCHES}
    if integers:
        slow = {"dense, torch": dense, int8.DYNAMIC: 2 * dense, int8.WEIGHTS: dense}
        by_batch |= {f"{n}, integers": slow for n in speed.BATCHES}
    return {
        "method": "ours",
        "seed": seed,
        "structure": f"{seed}",
        "flops": 100 + seed,
        "dense": {"bytes": 4000, "parameters": 1000, "flops": 10 * (100 + seed)},
        "files": {"exact": {"bytes": size, "error_percent": float(seed)}},
        "speed": {"seconds": by_batch, "kernels": {}},
        "environment": {"device": "a CPU", "cores": 2, "load": float(seed)},
    }


FOUND = [
    figures(0, dense=8e-6, cut=1e-6, size=100),
    figures(2, dense=8e-6, cut=2e-6, size=400),
    figures(1, dense=8e-6, cut=4e-6, size=200),
]


def test_a_row_of_every_form() -> None:
    rows = list(tables.file_rows(FOUND))
    assert rows == [
        {
            "method": "ours",
            "seeds": [0, 1, 2],
            "structure": "1",
            "form": "exact",
            "test_error_percent": {"median": 1.0, "min": 0.0, "max": 2.0},
            "bytes": {"median": 200, "min": 100, "max": 400},
            "times_smaller": {"median": 20.0, "min": 10.0, "max": 40.0},
        }
    ]


def test_speed_ups_are_over_the_same_runtime_and_over_flops() -> None:
    rows = {row["runtime"]: row for row in tables.speed_rows(FOUND)}
    both = "torch, both accelerated"
    assert list(rows) == [speed.TORCH, speed.ACCELERATED, both, speed.ONNXRUNTIME]
    factors = {speed.TORCH: 1, speed.ONNXRUNTIME: 1, speed.ACCELERATED: 4, both: 2}
    for runtime, factor in factors.items():
        row = rows[runtime]
        assert row["speed_up_256"] == {"median": 4 * factor, "min": 2 * factor, "max": 8 * factor}
        assert row["speed_up_share"]["median"] == pytest.approx(0.4 * factor)
        assert row["flops_reduction"]["median"] == 10.0
    assert rows[speed.TORCH]["latency_1_us"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert rows[speed.ONNXRUNTIME]["latency_256_us"]["median"] == 256.0


def test_integers_have_rows_where_they_were_timed() -> None:
    timed = figures(3, dense=1e-6, cut=1e-6, size=1, integers=True)
    rows = {row["runtime"]: row for row in tables.speed_rows([*FOUND, timed])}
    assert rows[speed.TORCH]["seeds"] == [0, 1, 2, 3]
    assert rows[int8.DYNAMIC]["seeds"] == rows[int8.WEIGHTS]["seeds"] == [3]
    assert rows[int8.DYNAMIC]["speed_up_256"]["median"] == 0.5


def test_the_results_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny.install(monkeypatch, tmp_path)
    files, times = tables.write_tables(tiny.NAME, FOUND, "a protocol")
    assert files["case"] == "Taken home, files: tiny"
    assert times["device"] == "a CPU, load average 0 - 2"
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "take_home_tiny.json", "take_home_speed_tiny.json",
    }  # fmt: skip
