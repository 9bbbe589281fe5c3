"""The benchmark of scaling on tiny nets: what is measured, and which rows are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import scaling as benchmark
from benchmarks.scaling import Case, Together


def test_times_of_all_parts() -> None:
    threads = torch.get_num_threads()
    found = benchmark.times(Case(200, batch=4, turns=2))
    torch.set_num_threads(threads)
    assert {mode: set(parts) for mode, parts in found.items()} == {
        "adam": {"step"},
        "turbo": {"step", "refresh", "exchange"},
        "lean": {"step", "exchange"},
    }
    assert all(seconds > 0 for parts in found.values() for seconds in parts.values())


def test_a_step_has_its_share_of_updates_and_exchanges() -> None:
    parts = {"step": 1.0, "refresh": 2.0, "exchange": 3.0}
    assert benchmark.step_seconds(parts) == pytest.approx(1.13)


@pytest.mark.slow
def test_peak_memory_grows_with_the_net() -> None:
    """At least by what Adam holds: weights, gradients and two moments. In a fresh process."""
    assert benchmark.in_process(Case(2_000_000, batch=2), "adam") > 0.9 * 4 * 4 * 2_000_000


def test_a_step_and_an_exchange_of_one_process() -> None:
    figures = benchmark.together(Together(200, batch=8, processes=1, turns=2))
    assert set(figures) == {"step_wall", "step_cpu", "exchange_wall", "exchange_cpu"}
    assert all(seconds > 0.0 for seconds in figures.values())


@pytest.mark.slow
def test_two_processes_report_once() -> None:
    case = Together(200, batch=8, processes=2, turns=2)
    assert benchmark.in_process(case, "together")["step_wall"] > 0.0


def test_rows_that_are_there_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (Case(200, batch=4, turns=1, peaks=("adam",)), Case(800, batch=4, turns=0))
    monkeypatch.setattr(benchmark, "CASES", cases)
    monkeypatch.setattr(benchmark, "TOGETHER", (Together(200, batch=4, processes=2),))
    answers: list[str] = []

    def answer(case: Case | Together, what: str) -> Any:
        answers.append(what)
        if isinstance(case, Together):
            return {"step_wall": 0.25, "step_cpu": 0.125}
        return benchmark.times(case) if what == "times" else 4000

    monkeypatch.setattr(benchmark, "in_process", answer)
    out = tmp_path / "out.json"
    for only in (["2e2"], [""]):
        monkeypatch.setattr(sys, "argv", ["benchmark", "--out", str(out), "--only", *only])
        benchmark.main()
    result = json.loads(out.read_text())
    assert {"case", "protocol", "device", "rows"} <= set(result)
    assert answers == ["times", "adam", "together"], "every row is measured once"
    (together,) = (row for row in result["measured"] if "processes" in row)
    assert (together["step_wall_ms"], together["step_cpu_ms"]) == (250.0, 125.0)
    first, second = result["rows"]
    assert first["parameters"] == 330
    assert first["adam_peak_floats"] == pytest.approx(1000 / 330, abs=0.01)
    assert first["turbo_step_ratio"] > 0
    assert "adam_step_ms" not in second
