"""The command: which runs it makes, in which order, and what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import frontier
from benchmarks.frontier_cases import tables
from benchmarks.frontier_cases.methods import CANDIDATES, DENSE
from tests.benchmarks.frontier_cases import tiny


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    tiny.install(monkeypatch, tmp_path)
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results" / "frontier")
    return tmp_path


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["frontier", "--case", tiny.NAME, *arguments])
    frontier.main()


def test_one_row_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(monkeypatch, "--method", DENSE, "--seed", "1")
    printed = capsys.readouterr().out
    assert printed.startswith("tiny")
    assert "10-8-6" in printed
    assert [path.name for path in (folder / "results").rglob("*.json")] == [
        "frontier_tiny.json", "dense_Adam-1.json",
    ]  # fmt: skip


def test_a_trial_of_fewer_epochs_writes_no_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(monkeypatch, "--method", DENSE, "--seed", "0", "--epochs", "1")
    files = [path.name for path in (folder / "results").rglob("*.json")]
    assert files == ["dense_Adam-1_epochs-0.json"]


def test_first_seeds_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["frontier", "--case", tiny.NAME, "--seed", "0", "1"])
    runs = list(frontier.final_runs(frontier.parse()))
    half = len(runs) // 2
    assert [run.seed for run in runs] == [0] * half + [1] * half
    assert runs[0].method == runs[half].method == DENSE


def test_tuning_says_what_it_chooses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(monkeypatch, "--tune", "--method", "magnitude", "--epochs", "1")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(CANDIDATES["magnitude"]) + 1
    assert printed[-1].startswith("tiny: magnitude: '")


def test_the_list_names_every_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(monkeypatch, "--list", "--ablation")
    assert "tiny  without gates" in capsys.readouterr().out.splitlines()


def test_supports_at_equal_density_get_a_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(monkeypatch, "--method", DENSE, "--seed", "0")
    main(monkeypatch, "--tables", "--equal-density", "30")
    table = json.loads((folder / "results" / "frontier_tiny_equal_density.json").read_text())
    assert [row["method"] for row in table["rows"]] == [DENSE]
