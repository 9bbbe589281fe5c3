"""The UCI benchmark at tiny size: the choice on validation points, the verdict, the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import uci as benchmark
from benchmarks.uci import Score
from pyro_turbovbi import data
from tests.data_required import needs_data


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["uci", "--out", str(out), *arguments])
    benchmark.main()
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


def test_it_writes_both_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_data("uci")
    for name, value in {"STEPS": 5, "SPLITS": 2, "HOLD_OUTS": 1}.items():
        monkeypatch.setattr(benchmark, name, value)
    result = run(monkeypatch, tmp_path / "uci.json", "--only", "yacht")
    ours, untuned, theirs = result["rows"]
    assert [row["method"] for row in result["rows"]] == [
        "Turbo-VBI", "Turbo-VBI, not tuned", "SVI, AutoNormal",
    ]  # fmt: skip
    assert {ours["not_worse"], untuned["not_worse"]} <= {"yes", "no"}
    # Both methods choose from equally many settings, and take the best.
    for row in (ours, theirs):
        tried = result["tuning"][0][row["method"]]
        assert len(tried) == 4
        assert tried[row["setting"]] == max(tried.values())


def test_the_choice_sees_no_test_point(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_data("uci")
    parts = data.uci("yacht", 0)
    seen = []

    def score(splits: Any, *_: object) -> Score:
        seen.append(len(splits.test.x))
        return Score(0.0, 1.0, 1.0)

    monkeypatch.setattr(benchmark, "score", score)
    benchmark.validated("yacht", benchmark.SVI_PRIOR, benchmark.SVI_SETTINGS)
    assert set(seen) == {len(parts.validation.x)} != {len(parts.test.x)}


def test_missing_sets_alone_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(name: str) -> tuple[list[benchmark.Row], benchmark.Row]:
        measured.append(name)
        return [{"set": name}], {"set": name}

    monkeypatch.setattr(benchmark, "measure", measure)
    run(monkeypatch, tmp_path / "uci.json", "--only", "yacht")
    result = run(monkeypatch, tmp_path / "uci.json", "--only", "concrete", "yacht", "--missing")
    assert measured == ["yacht", "concrete"]
    assert [row["set"] for row in result["rows"]] == measured


def test_rows_of_another_protocol_are_not_kept(tmp_path: Path) -> None:
    out = tmp_path / "uci.json"
    out.write_text(json.dumps({"protocol": "another", "rows": [{"set": "yacht"}]}))
    benchmark.write(out, [{"set": "concrete"}], {"set": "concrete"})
    assert [row["set"] for row in json.loads(out.read_text())["rows"]] == ["concrete"]


def scores(*pairs: tuple[float, float]) -> list[Score]:
    return [Score(likelihood, rmse, 1.0) for likelihood, rmse in pairs]


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (scores((-1.0, 2.0), (-1.0, 2.0)), "yes"),  # equal on average
        (scores((-1.3, 2.0), (-1.0, 2.0)), "no"),  # lower by 0.15, standard error 0.05
        (scores((-1.2, 2.0), (-0.85, 2.0)), "yes"),  # lower by 0.025, standard error 0.075
        (scores((-1.0, 2.2), (-1.0, 2.1)), "no"),  # a good likelihood does not excuse the RMSE
    ],
)
def test_not_worse_means_within_a_standard_error_in_both(ours: list[Score], verdict: str) -> None:
    theirs = scores((-1.1, 2.0), (-0.9, 2.0))
    row = benchmark.against(ours, theirs)
    assert row["not_worse"] == verdict


def test_gains_are_means_with_standard_errors() -> None:
    row = benchmark.against(scores((1.0, 3.0), (3.0, 4.0)), scores((0.0, 5.0), (0.0, 5.0)))
    assert row["gain"] == "+2.000 ± 1.000"  # differences 1 and 3
    assert row["rmse_gain"] == "+1.500 ± 0.500"  # positive: a lower RMSE
