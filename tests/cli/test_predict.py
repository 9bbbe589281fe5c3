"""`ptv predict`: rows that come later, in the units of the data."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_turbovbi import Fit, Recipe
from pyro_turbovbi._random import seeded
from pyro_turbovbi.cli import predict as predicting
from pyro_turbovbi.cli.predict import predict_rows
from tests.cli.helpers import MLP, RECIPE, fitted, ptv, write_images, write_recipe
from tests.pages import DOCS, blocks

pytestmark = pytest.mark.filterwarnings("default::pyro_turbovbi.errors.TrainingWarning")

NEW = "age,size\n0.5,1.0\n-0.5,-1.0\n0,0\n"


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run of a regression and three new rows; the table is gone."""
    folder = tmp_path_factory.mktemp("regression")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fitted(folder)
    (folder / "table.csv").unlink()
    (folder / "new.csv").write_text(NEW)
    return folder


def test_the_predictions_are_the_fits_own_in_units_of_the_target(
    regression: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(regression)
    done = ptv("predict", "run", "new.csv", "--draws", 8, "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    data = json.loads((regression / "run/run.json").read_text())["data"]
    raw = torch.tensor([[1.0, 0.5], [-1.0, -0.5], [0.0, 0.0]]).double()
    x = (raw - torch.tensor(data["input_mean"])) / torch.tensor(data["input_scale"])
    bnn, _ = Recipe.load("run/recipe.yaml").build_model()
    fit = Fit.load("run/fit.safetensors", net=bnn.net)
    with seeded(0):
        outputs = fit.predict(x.float(), 8).outputs[..., 0].double()
    # An independent oracle of the mixture's moments: many draws of the targets themselves.
    noise = fit.bnn.likelihood.scale
    targets = outputs[:, None] + noise * torch.randn(8, 20_000, 3, dtype=torch.float64)
    scale, mean = data["target_scale"], data["target_mean"]
    found = torch.tensor([[row["mean"], row["sd"]] for row in printed["rows"]])
    expected = targets.flatten(0, 1) * scale + mean
    torch.testing.assert_close(found[:, 0].double(), outputs.mean(0) * scale + mean)
    torch.testing.assert_close(found[:, 1].double(), expected.std(0), rtol=0.02, atol=0.0)
    assert [row["row"] for row in printed["rows"]] == [1, 2, 3]
    assert (printed["target"], printed["classes"], printed["draws"]) == ("price", None, 8)


def test_what_is_printed_and_written(regression: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(regression)
    np.savez("many.npz", x=np.random.default_rng(0).normal(size=(25, 2)))
    done = ptv("predict", "run", "many.npz")
    lines = done.stdout.splitlines()
    assert lines[0] == "price: mean and standard deviation, noise included, from 32 posterior draws"
    assert lines[2].split() == ["row", "mean", "sd"]
    assert lines[4].split()[0] == "1"
    assert lines[13].split()[0] == "10"
    assert lines[14:] == ["and 15 more rows; --out FILE.csv writes all"]
    assert max(map(len, lines)) < 80
    again = ptv("predict", "run", "many.npz", "--out", "out.csv")
    assert again.stdout.splitlines()[:14] == lines[:14], "the same draws"
    assert again.stdout.endswith("and 15 more rows\nwrote out.csv: 25 rows\n")
    with (regression / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 25
    assert list(rows[0]) == ["row", "mean", "sd"]
    mean = ptv("predict", "run", "new.csv", "--draws", 0)
    assert mean.stdout.startswith("price: mean and standard deviation, noise included, from the po")


def test_a_run_of_an_older_version_asks_its_data(regression: Path, here: Path) -> None:
    shutil.copytree(regression / "run", "run")
    (here / "new.csv").write_text(NEW)
    wanted = predict_rows(Path("run"), Path("new.csv")).rows
    summary = json.loads(Path("run/run.json").read_text())
    del summary["data"]
    Path("run/run.json").write_text(json.dumps(summary))
    done = ptv("predict", "run", "new.csv")
    assert done.stderr.startswith("error: the file cannot be read: No such file or directory; giv")
    write_recipe(here)
    found = predict_rows(Path("run"), Path("new.csv")).rows
    assert found == wanted


def test_mistakes_are_one_line_and_nothing_is_written(
    regression: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(regression)
    Path("bad.csv").write_text("size,years\n1,2\n")
    Path("gap.csv").write_text("size,age\n1,nan\n")
    before = sorted(regression.iterdir())
    for arguments, message in {
        ("run", "bad.csv"): "bad.csv has no column 'age'; given: size, years; accepted: a table "
        "with the columns size, age",
        ("run", "gap.csv"): "gap.csv, line 2, column 'age' holds no finite number; given: 'nan'; "
        "accepted: a number; classes as text are for the target alone",
        ("run", "gone.csv"): "the file cannot be read: No such file or directory; given: gone.csv",
        ("nothing", "new.csv"): "this is no run; given: nothing; accepted: a directory from `ptv "
        "fit`, with fit.safetensors",
        ("run", "new.csv", "--out", "no/where.csv"): "there is no such directory; given: "
        "no/where.csv; accepted: a file in one that exists",
    }.items():
        done = ptv("predict", *arguments)
        assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"error: {message}\n")
    assert ptv("predict", "run").exit_code == 2
    assert ptv("predict", "run", "new.csv", "--draws", -1).exit_code == 2
    assert sorted(regression.iterdir()) == before


def test_ctrl_c(regression: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(regression)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predicting, "read_rows", interrupt)
    done = ptv("predict", "run", "new.csv", "--out", "never.csv")
    assert done.exit_code == 130
    assert done.stderr == (
        "interrupted; nothing was written; to start anew, give the same command again\n"
    )
    assert not Path("never.csv").exists()


def classification(folder: Path, outputs: int, likelihood: str) -> str:
    lines = [f"{n % 3},{n % 2},{'yes' if n % 2 else 'no'}" for n in range(40)]
    (folder / "answers.csv").write_text("\n".join(["size,age,answer", *lines]))
    return (
        RECIPE.replace("table.csv, target: price", "answers.csv, target: answer")
        .replace("[2, 1]", f"[2, {outputs}]")
        .replace("Gaussian", likelihood)
        .replace("kind: Normal", "kind: Normal, scale: 3")
        .replace("kind: Turbo", "kind: MAP, lr: 0.1")
        .replace("epochs: 2", "epochs: 20")
    )


@pytest.mark.parametrize(("outputs", "likelihood"), [(2, "Categorical"), (1, "Bernoulli")])
def test_classes_have_their_names(outputs: int, likelihood: str, here: Path) -> None:
    fitted(here, classification(here, outputs, likelihood))
    (here / "new.csv").write_text("size,age\n1,0\n1,1\n")
    done = ptv("predict", "run", "new.csv", "--out", "out.csv")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == ("answer: most probable class and its probability, from 32 posterior draws")
    assert [line.split()[:2] for line in lines[2:3] + lines[4:6]] == [
        ["row", "class"],
        ["1", "no"],
        ["2", "yes"],
    ]
    rows = list(csv.DictReader((here / "out.csv").read_text().splitlines()))
    assert list(rows[0]) == ["row", "class", "probability", "p(no)", "p(yes)"]
    for row in rows:
        assert float(row["p(no)"]) + float(row["p(yes)"]) == pytest.approx(1.0)
        assert row["probability"] == row[f"p({row['class']})"]


def test_images_by_their_files(here: Path) -> None:
    pytest.importorskip("PIL")
    write_images(here / "pictures")
    assert ptv("init", "--data", "pictures").exit_code == 0
    assert ptv("fit", "recipe.yaml", "--epochs", 1, "--prior", "Normal").exit_code == 0
    done = ptv("predict", "runs/recipe", "pictures/dark", "--json")
    rows = json.loads(done.stdout)["rows"]
    assert [row["row"] for row in rows[:2]] == ["0.png", "1.png"]
    assert rows[0]["probabilities"].keys() == {"dark", "light"}
    one = json.loads(ptv("predict", "runs/recipe", "pictures/dark/0.png", "--json").stdout)
    assert one["rows"][0]["class"] == rows[0]["class"]


def test_several_classes_a_row_are_not_for_this_command(here: Path) -> None:
    (here / "mine.py").write_text(
        "import torch\ndef data(): return torch.randn(16, 2), torch.ones(16, 2)\n"
    )
    text = RECIPE.replace("[2, 1]", "[2, 2]").replace("Gaussian", "Bernoulli")
    write_recipe(here, text)
    assert ptv("fit", "recipe.yaml", "--data", "mine.py:data", "--out", "run").exit_code == 0
    np.savez("new.npz", x=np.zeros((3, 2)))
    assert ptv("predict", "run", "new.npz").stderr == (
        "error: the network predicts more than one class a row; given: probabilities (3, 2); "
        "accepted: Fit.predict in Python\n"
    )
    np.savez("new.npz", x=np.zeros((3, 5)))
    assert ptv("predict", "run", "new.npz").stderr.startswith(
        "error: the network cannot take a batch of inputs (mat1 and mat2 shapes cannot be mul"
    )


def test_several_targets_have_numbers(here: Path) -> None:
    (here / "mine.py").write_text(
        "import torch\ndef data(): return torch.randn(16, 2), torch.randn(16, 2)\n"
    )
    write_recipe(here, RECIPE.replace("[2, 1]", "[2, 2]"))
    assert ptv("fit", "recipe.yaml", "--data", "mine.py:data", "--out", "run").exit_code == 0
    np.savez("new.npz", x=np.zeros((3, 2)))
    done = ptv("predict", "run", "new.npz")
    assert done.stdout.splitlines()[2].split() == ["row", "mean_1", "sd_1", "mean_2", "sd_2"]


def test_the_page_says_how_it_is_done_in_python(here: Path) -> None:
    """With the posterior mean, the module of `net.ptv` gives what the command gives."""
    text = RECIPE[RECIPE.index("data:") :]
    write_recipe(here, MLP + text)
    assert ptv("fit", "recipe.yaml").exit_code == 0
    Path("new_houses.csv").write_text("size,age\n1.0,0.5\n-1.0,-0.5\n")
    assert ptv("compress", "runs/recipe").exit_code == 0
    wanted = predict_rows(Path("runs/recipe"), Path("new_houses.csv"), draws=0).rows
    names: dict[str, object] = {}
    (source,) = blocks(DOCS / "command-line.md", "python")
    exec(source.replace("120.0, 35.0", "1.0, 0.5"), names)
    price = names["price"]
    assert isinstance(price, torch.Tensor)
    assert float(price.detach().flatten()[0]) == pytest.approx(wanted[0]["mean"], rel=1e-4)
