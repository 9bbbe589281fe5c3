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


def check_report(page: Path, *, data: str, points: int) -> None:
    """What a reader finds on the page of the run, beside `net.ptv`."""
    text = page.read_text()
    assert f"kind: {data}" in text, "the recipe is on it"
    assert f"on {points} test points" in text
    for stage in ("before training", "epoch 6", "after training", "after cutting"):
        assert f"<b>{stage}</b>" in text
    assert "://" not in text.replace("http://www.w3.org", ""), "nothing comes from elsewhere"


def test_a_table(here: Path) -> None:
    write_table(here / "houses.csv", rows=120)
    assert "next: ptv fit houses/recipe.yaml" in run(
        "init", "houses", "--data", "houses.csv", "--target", "price"
    )
    fitted = json.loads(run("fit", "houses/recipe.yaml", "--epochs", 15, "--json"))
    assert fitted["test"]["rmse"] < 0.7, "it predicts better than the mean, whose RMSE is 1"
    assert fitted["run"] == "runs/recipe"
    assert "runs/recipe/net.ptv: " in run("compress", "runs/recipe")
    assert "layers: " in run("inspect", "runs/recipe/net.ptv")
    assert "wrote runs/recipe/report.html" in run("report", "runs/recipe")
    check_report(here / "runs/recipe/report.html", data="csv_file", points=12)
    assert pyro_turbovbi.load("runs/recipe/net.ptv")(torch.zeros(5, 2)).shape == (5, 1)


def test_a_folder_of_images(here: Path) -> None:
    pytest.importorskip("PIL")
    write_images(here / "pictures")
    run("init", "--data", "pictures")
    fitted = json.loads(run("fit", "recipe.yaml", "--epochs", 15, "--json"))
    assert fitted["test"]["error"] <= 0.5
    run("compress", "runs/recipe")
    assert "layers: " in run("inspect", "runs/recipe/net.ptv")
    run("report", "runs/recipe")
    check_report(here / "runs/recipe/report.html", data="image_folder", points=2)
    assert pyro_turbovbi.load("runs/recipe/net.ptv")(torch.zeros(5, 3, 4, 4)).shape == (5, 2)
