"""The directory in which `test_wrong_input` makes mistakes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.cli.helpers import RECIPE, ptv, write_recipe

MODEL = """\
from torch import nn

def build(): return nn.Linear(2, 1)
def sized(inputs, outputs, hidden): return nn.Linear(inputs, outputs)
def nothing(): return 3
"""


def furnish(folder: Path) -> None:
    """Everything that the mistakes are about, a finished run among it.

    Args:
        folder: The working directory.
    """
    write_recipe(folder)
    (folder / "model.py").write_text(MODEL)
    lines = (folder / "table.csv").read_text().splitlines()
    (folder / "text.csv").write_text("\n".join([*lines[:3], "large,1,2"]))
    (folder / "gap.csv").write_text("\n".join([*lines[:3], ",1,2"]))
    (folder / "empty.csv").write_text(lines[0])
    np.savez(folder / "x.npz", x=np.zeros((3, 2)))
    for name in ("no.npz", "no.parquet"):
        (folder / name).write_text("no archive")
    assert ptv("fit", "recipe.yaml", "--out", "run").exit_code == 0
    (folder / "damaged").mkdir()
    for name in ("recipe.yaml", "fit.safetensors"):
        content = (folder / "run" / name).read_bytes()
        (folder / "damaged" / name).write_bytes(content)
    (folder / "damaged" / "fit.safetensors").write_bytes(content[:-1])
    shutil.copytree(folder / "run", folder / "damaged_stages")
    (folder / "damaged_stages" / "stages.safetensors").write_text("no file of ours")
    (folder / "kept").mkdir()
    (folder / "kept" / "step-000000001.safetensors").write_text("of another training")


def wrong_recipe(old: str, new: str) -> str:
    """The recipe with a mistake; `*` stands for all of it."""
    if old == "*":
        return new
    assert old in RECIPE
    return RECIPE.replace(old, new)
