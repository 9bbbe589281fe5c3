"""The projection multiplies what was recorded, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import scaling_page

ROWS: list[dict[str, Any]] = [
    {
        "method": "small", "parameters": 10, "batch": 8, "threads": 1, "load": 1.0,
        "adam_step_ms": 2.0, "turbo_step_ratio": 3.0, "lean_step_ratio": 4.0,
        "exchange_ns_per_weight": 10.0,
    },
    {"method": "large", "parameters": 1000, "batch": 8, "threads": 1, "lean_step_ratio": 2.0,
     "adam_step_ms": 5.0, "lean_peak_floats": 12.5},
]  # fmt: skip
TOGETHER = [
    {
        "method": "small", "batch": 8, "processes": processes, "load": 1.0, "step_wall_ms": wall,
        "step_cpu_ms": 2.0, "exchange_wall_ms": 3.0,
    }
    for processes, wall in ((1, 6.0), (2, 4.0))
]  # fmt: skip
GPU = {
    "checks": {
        "messages, speed": {
            "copy_GB_a_second": 1000.0,
            "ns_per_variable": {"row chains, full": 0.08},
        }
    }
}


def test_the_projection_by_hand() -> None:
    parts = scaling_page.projected(ROWS, GPU, 8)
    assert parts["GB a GPU, held"] == pytest.approx(44.0)
    assert parts["GB a GPU, within a step"] == pytest.approx(52.0)
    assert parts["elementwise work, ms"] == pytest.approx(28.0 * 2.0), "the larger net's ratio"
    assert parts["messages, ms a step"] == pytest.approx(0.08e3 / 8 / 100)
    assert parts["sum of the gradients, ms"] == pytest.approx(2 * 7 / 8 * 4 / 225 * 1e3)


def test_without_results_the_page_says_so(tmp_path: Path) -> None:
    assert scaling_page.render(tmp_path) == "Not measured yet."


def test_the_page_has_all_rows(tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "checks.json").write_text(json.dumps(GPU))
    (tmp_path / "scaling.json").write_text(
        json.dumps({"rows": ROWS, "measured": [*ROWS, *TOGETHER]})
    )
    text = scaling_page.render(tmp_path)
    assert "| small | 8 | 1 | 2 | 3 | 4 | 10 | 1 |" in text
    assert "| large | 8 | - | - | 12.5 |" in text
    assert "| small | 8 | 2 | 4 | 2 | 1.5 | 3 | 1 |" in text
    assert "| 1e+09 weights, lean mode | 8 GPUs | 64 GPUs |" in text
