"""What the tests of the command line share: tiny data, a tiny recipe, and a way to run commands."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyro_turbovbi.cli import fit as fitting
from pyro_turbovbi.cli.app import app

RECIPE = """\
net:
  call: torch.nn:Linear
  arguments: [2, 1]
data: {kind: csv_file, path: table.csv, target: price}
likelihood: {kind: Gaussian}
prior: {kind: Normal}
engine: {kind: Turbo}
epochs: 2
batch_size: 8
"""


#: The `net` of a recipe: one hidden layer.
MLP = """\
net:
  call: torch.nn:Sequential
  arguments:
    - {call: torch.nn:Linear, arguments: [2, 8]}
    - {call: torch.nn:ReLU}
    - {call: torch.nn:Linear, arguments: [8, 1]}
"""


def ptv(*arguments: object) -> Any:
    """Runs a command; the result has `exit_code`, `stdout` and `stderr`."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write_table(path: Path, rows: int = 40) -> None:
    """Two inputs, and a price that is mostly the first."""
    draw = random.Random(0)
    lines = ["size,age,price"]
    for _ in range(rows):
        size, age = draw.gauss(0, 1), draw.gauss(0, 1)
        lines.append(f"{size:.4f},{age:.4f},{2 * size - 0.1 * age + draw.gauss(0, 0.1):.4f}")
    path.write_text("\n".join(lines) + "\n")


def write_images(folder: Path, each: int = 12) -> None:
    """Two classes of 4x4 images: dark and light ones."""
    from PIL import Image

    draw = random.Random(0)
    for name, shade in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = bytes(shade + draw.randrange(40) for _ in range(16))
            Image.frombytes("L", (4, 4), pixels).save(folder / name / f"{number}.png")


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """A recipe, and the table that it names."""
    write_table(folder / "table.csv")
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def interrupt(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Ctrl-C at the end of an epoch, before its checkpoint."""
    usual = fitting._Latest.__call__

    def interrupted(self: Any, record: Any, snapshot: Any) -> None:
        if epoch == 1:
            raise KeyboardInterrupt
        usual(self, record, snapshot)
        if record.epoch == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting._Latest, "__call__", interrupted)


def fitted(folder: Path, text: str = RECIPE) -> Path:
    """Fits a recipe; the run, relative to the folder, which is the working directory."""
    write_recipe(folder, text)
    done = ptv("fit", "recipe.yaml", "--out", "run")
    assert done.exit_code == 0, done.stderr
    return Path("run")
