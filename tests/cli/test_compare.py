"""`ptv compare`: a table of runs, and runs that cannot stand in one."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from pyro_turbovbi.cli import main
from pyro_turbovbi.cli.compare import compare_runs
from pyro_turbovbi.errors import InvalidArgumentError
from tests.cli.helpers import ptv, write_recipe


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def test_runs_stand_side_by_side(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(here)
    for out in ("a/first", "b/first", "second"):
        engine = "MAP" if out == "second" else "Turbo"
        assert ptv("fit", "recipe.yaml", "--out", out, "--engine", engine).exit_code == 0
    table = ptv("compare", "a/first", "second")
    assert table.exit_code == 0, table.stderr
    assert [line.split()[0] for line in table.stdout.splitlines()[3:5]] == ["first", "second"]
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setenv("COLUMNS", "80")
        assert main(["compare", "a/first", "second"]) == 0
    shown = terminal.getvalue().splitlines()
    assert max(map(len, shown)) <= 80 < max(map(len, table.stdout.splitlines()))
    assert [line for line in shown if line.startswith("second")][1:], "columns go on below"
    rows = json.loads(ptv("compare", "a/first", "second", "b/first", "--json").stdout)["rows"]
    assert [row["name"] for row in rows] == ["a/first", "second", "b/first"]
    assert (
        rows[0]["rmse"]
        == rows[2]["rmse"]
        == json.loads((here / "a" / "first" / "run.json").read_text())["test"]["rmse"]
    )


def test_runs_of_different_data(here: Path) -> None:
    write_recipe(here)
    assert ptv("fit", "recipe.yaml", "--out", "one").exit_code == 0
    assert ptv("fit", "recipe.yaml", "--out", "two", "--set", "data.seed=1").exit_code == 0
    with pytest.raises(
        InvalidArgumentError, match=r"two and one are of different data; given: .*s"
    ):
        compare_runs([Path("one"), Path("two")])


def test_data_without_a_test_part(here: Path) -> None:
    write_recipe(here)
    assert ptv("fit", "recipe.yaml", "--out", "one", "--set", "data.test=0.0").exit_code == 0
    with pytest.raises(InvalidArgumentError, match="the data of the runs have no test part"):
        compare_runs([Path("one")])
