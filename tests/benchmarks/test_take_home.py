"""The command: what it measures, what it says of networks that are not there, what it writes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import take_home
from benchmarks.frontier_cases import runs
from benchmarks.frontier_cases.methods import DENSE
from benchmarks.frontier_cases.recipes import FULL
from benchmarks.frontier_cases.runs import trained
from benchmarks.take_home_cases import int8, speed
from benchmarks.take_home_cases.files import PLAIN, TOLERANCES, rounded_within
from tests.benchmarks.frontier_cases import tiny

MAGNITUDE = "magnitude, 20 %"


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    tiny.install(monkeypatch, tmp_path)
    monkeypatch.setattr(speed, "MOST_ROUNDS", 3)
    monkeypatch.setattr(speed, "OnnxNetwork", lambda net, example: net)
    monkeypatch.setattr(int8, "available", lambda: False)
    take_home.dense_of.cache_clear()
    return tmp_path


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["take_home", "--case", tiny.NAME, *arguments])
    take_home.main()


def written(folder: Path, name: str) -> Any:
    return json.loads((folder / "results" / f"{name}_tiny.json").read_text())


def test_networks_that_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (DENSE, MAGNITUDE):
        trained(tiny.NAME, method, 0)
    main(monkeypatch, "--method", DENSE, MAGNITUDE, "--seed", "0")
    files, times = (written(folder, name) for name in ("take_home", "take_home_speed"))
    forms = [PLAIN, rounded_within(TOLERANCES[0])]
    assert [(row["method"], row["form"]) for row in files["rows"]] == [
        (method, form) for method in (DENSE, MAGNITUDE) for form in forms
    ]
    dense, sparse = files["rows"][0], files["rows"][len(forms)]
    parameters = 10 * 8 + 8 + 8 * 6 + 6 + 6 * 3 + 3
    assert dense["bytes"]["median"] > max(4 * parameters, sparse["bytes"]["median"])
    assert dense["times_smaller"]["median"] == pytest.approx(
        4 * parameters / dense["bytes"]["median"], abs=1e-4
    )
    flops = {row["method"]: row["flops"]["median"] for row in times["rows"]}
    assert flops[DENSE] == 2 * (10 * 8 + 8 * 6 + 6 * 3) > flops[MAGNITUDE]
    assert {row["runtime"] for row in times["rows"]} == {
        speed.TORCH, speed.ACCELERATED, "torch, both accelerated", speed.ONNXRUNTIME,
    }  # fmt: skip
    assert files["readme"] is times["readme"] is False
    assert files["protocol"].startswith("networks of the frontier")


def test_absent_networks_are_named_and_not_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "_train", lambda _: pytest.fail("trained"))
    main(monkeypatch, "--seed", "1", "--epochs", "2")
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("no network: ") for line in lines)
    assert f'--method "{FULL}" --seed 1 --epochs 2' in "".join(lines)
    assert lines[-1].endswith("with the extra bench-peers installed")


def test_figures_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tiny.NAME, DENSE, 1)
    main(monkeypatch, "--method", DENSE, "--seed", "1")
    before = written(folder, "take_home")
    shutil.rmtree(folder / "cache")
    monkeypatch.setattr(take_home, "files_of", lambda *_: pytest.fail("measured again"))
    main(monkeypatch, "--method", DENSE, "--seed", "1")
    main(monkeypatch, "--tables")
    assert written(folder, "take_home") == before
    monkeypatch.setattr(take_home, "TOLERANCES", (0.5,))
    assert take_home.measured(tiny.NAME) == [], "figures of another protocol"
