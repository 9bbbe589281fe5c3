"""The UCI benchmark at tiny size: the rows it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import uci as benchmark
from tests.data_required import needs_data


def test_it_writes_both_methods_and_keeps_other_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_data("uci")
    out = tmp_path / "uci.json"
    monkeypatch.setattr(benchmark, "STEPS", 5)
    monkeypatch.setattr(benchmark, "SPLITS", 2)
    for name in ("yacht", "concrete"):
        monkeypatch.setattr(sys, "argv", ["uci", "--only", name, "--out", str(out)])
        benchmark.main()
    rows = json.loads(out.read_text())["rows"]
    assert [row["set"] for row in rows] == ["yacht", "yacht", "concrete", "concrete"]
    assert {row["method"] for row in rows} == {"Turbo-VBI", "SVI, AutoNormal"}
    assert rows[0]["not_worse"] in ("yes", "no")
    assert float(rows[1]["lr"]) in benchmark.LEARNING_RATES
