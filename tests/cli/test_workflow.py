"""From data of one's own to a smaller network, by commands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pyro_turbovbi
from tests.cli.helpers import ptv, write_images, write_table

pytestmark = pytest.mark.filterwarnings("default::pyro_turbovbi.errors.TrainingWarning")


def run(*arguments: object) -> str:
    done = ptv(*arguments)
    assert done.exit_code == 0, done.stderr
    return str(done.stdout)


def test_a_table(here: Path) -> None:
    write_table(here / "houses.csv", rows=120)
    run("init", "houses", "--data", "houses.csv", "--target", "price")
    fitted = json.loads(run("fit", "houses/recipe.yaml", "--epochs", 15, "--json"))
    assert fitted["test"]["rmse"] < 0.7, "it predicts better than the mean, whose RMSE is 1"
    assert fitted["run"] == "runs/recipe"
    run("compress", "runs/recipe", "--out", "net.ptv")
    assert "layers: " in run("inspect", "net.ptv")
    assert pyro_turbovbi.load("net.ptv")(torch.zeros(5, 2)).shape == (5, 1)


def test_a_folder_of_images(here: Path) -> None:
    pytest.importorskip("PIL")
    write_images(here / "pictures")
    run("init", "--data", "pictures")
    fitted = json.loads(run("fit", "recipe.yaml", "--epochs", 10, "--json"))
    assert fitted["test"]["error"] <= 0.5
    run("compress", "runs/recipe", "--out", "net.ptv")
    assert "layers: " in run("inspect", "net.ptv")
    assert pyro_turbovbi.load("net.ptv")(torch.zeros(5, 3, 4, 4)).shape == (5, 2)
