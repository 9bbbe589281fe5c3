"""Training a recipe from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import pyro_turbovbi as ptv
from pyro_turbovbi import cli
from pyro_turbovbi.cli import main
from pyro_turbovbi.cli.run import run_recipe
from pyro_turbovbi.errors import InvalidArgumentError

RECIPE = """\
net:
  call: torch.nn:Sequential
  arguments: [{call: torch.nn:Linear, arguments: [64, 10]}]
likelihood: {kind: Categorical}
prior: {kind: ThreeLayer}
data: {kind: digits}
epochs: 3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_trains_and_saves(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = recipe.parent / "net.ptv"
    assert main(["run", str(recipe), "--epochs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("recipe.yaml: turbo, 1 epochs")
    assert "test: Metrics(" in printed
    assert isinstance(ptv.load(out), object)


def test_data_without_a_test_set(
    recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\ndef data(): return torch.randn(8, 64), torch.arange(8)\n"
    )
    recipe.write_text(RECIPE.replace("kind: digits", "call: mine.py:data"))
    fitted = run_recipe(recipe)
    assert len(fitted.history) == 3
    assert "test:" not in capsys.readouterr().out


def test_errors_are_one_line_with_the_line_of_the_file(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(RECIPE.replace("ThreeLayer", "ThreeLayers"))
    assert main(["run", str(recipe)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "recipe.yaml, line 5, prior.kind: unknown kind (did you mean 'ThreeLayer'?)" in line


def test_out_is_checked_before_training(recipe: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="there is no such directory"):
        run_recipe(recipe, out=recipe.parent / "nowhere" / "net.ptv")


def test_arguments_reach_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(cli, "run_recipe", lambda path, **options: calls.append((path, options)))
    assert main(["run", "a.toml", "--epochs", "2"]) == 0
    assert main(["run", "a.toml", "--out", "b.ptv"]) == 0
    assert calls == [
        (Path("a.toml"), {"epochs": 2, "out": None}),
        (Path("a.toml"), {"epochs": None, "out": Path("b.ptv")}),
    ]
    assert isinstance(cli._parser().parse_args(["run", "x"]), argparse.Namespace)
