"""`ptv init`: files that fit the data and overwrite nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_turbovbi import Recipe, engines, priors
from pyro_turbovbi.cli.init import MODEL, init
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    SpecError,
    StorageError,
)
from tests.cli.helpers import ptv, write_table


def test_the_recipe_builds(here: Path) -> None:
    done = ptv("init", "start")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == (
        "wrote start/recipe.yaml\nwrote start/model.py\nnext: ptv fit start/recipe.yaml\n"
    )
    recipe = Recipe.load("start/recipe.yaml")
    assert recipe.data == {"kind": "digits"}
    made = recipe.build()
    assert isinstance(made.engine, engines.Turbo)
    assert {name: tuple(s.shape) for name, s in made.bnn.sites.items()} == {
        "1.weight": (100, 64),
        "3.weight": (10, 100),
    }


def test_sizes_come_from_the_data(here: Path) -> None:
    write_table(here / "table.csv")
    init(here / "a", data="table.csv", target="price")
    recipe = Recipe.load("a/recipe.yaml")
    assert recipe.net["arguments"] == {"inputs": 2, "outputs": 1}
    assert recipe.likelihood == {"kind": "Gaussian"}
    assert recipe.data["path"] == str(here / "table.csv")
    assert "../table.csv" in (here / "a" / "recipe.yaml").read_text(), "both can be moved"
    np.savez("x.npz", x=np.zeros((30, 3, 4)), y=np.arange(30) % 7)
    init(here / "b", data="x.npz")
    recipe = Recipe.load("b/recipe.yaml")
    assert recipe.net["arguments"] == {"inputs": 12, "outputs": 7}
    assert recipe.likelihood == {"kind": "Categorical"}


@pytest.mark.parametrize(
    "y", [np.arange(30) % 2 * 2 - 1, np.arange(30) + 10**12, np.zeros((30, 1), int)]
)
def test_whole_numbers_that_are_no_labels_are_refused(y: Any, here: Path) -> None:
    np.savez("x.npz", x=np.zeros((30, 4)), y=y)
    with pytest.raises(InvalidDataError, match=r"no labels; given: .*amounts as floating-point"):
        init(here / "a", data="x.npz")
    assert not (here / "a").exists()


def test_names_may_have_any_letters(here: Path) -> None:
    write_table(here / "table.csv")
    path = here / "größe \N{GRINNING FACE}.csv"
    path.write_text((here / "table.csv").read_text().replace("price", "\N{GRINNING FACE}"), "utf-8")
    init(here / "a", data=str(path), target="\N{GRINNING FACE}")
    data = Recipe.load("a/recipe.yaml").data
    assert (data["path"], data["target"]) == (str(path), "\N{GRINNING FACE}")


def test_nothing_is_overwritten(here: Path) -> None:
    (here / "model.py").write_text("mine")
    with pytest.raises(InvalidArgumentError, match=r"there is such a file already; given: .*model"):
        init(here)
    assert [file.name for file in here.iterdir()] == ["model.py"]
    with pytest.raises(StorageError, match="the directory cannot be made: "):
        init(here / "model.py" / "below")


def test_data_that_cannot_be_loaded_leave_nothing(here: Path) -> None:
    write_table(here / "table.csv")
    with pytest.raises(InvalidDataError, match="has no column 'cost'; accepted: size, age, price"):
        init(here / "start", data="table.csv", target="cost")
    assert not (here / "start").exists()


def test_the_model_file_is_plain_pytorch() -> None:
    assert "pyro" not in MODEL


def write_levels(path: Path) -> None:
    """A table whose target is 0, 1 or 2."""
    path.write_text("\n".join(["a,b,level", *(f"{n},{n % 5},{n % 3}" for n in range(40))]))


def test_a_target_that_may_be_a_class_gets_a_hint(here: Path) -> None:
    write_levels(here / "levels.csv")
    done = ptv("init", "a", "--data", "levels.csv", "--target", "level")
    assert done.stdout == (
        "wrote a/recipe.yaml\nwrote a/model.py\n"
        "hint: 'level' has 3 different values, all of them whole numbers.\n"
        "      If they are classes, start anew elsewhere with --classes\n"
        "next: ptv fit a/recipe.yaml\n"
    )
    assert Recipe.load("a/recipe.yaml").likelihood == {"kind": "Gaussian"}
    sure = ptv("init", "b", "--data", "levels.csv", "--target", "level", "--classes")
    assert "hint" not in sure.stdout
    recipe = Recipe.load("b/recipe.yaml")
    assert recipe.data["classes"] is True
    assert recipe.likelihood == {"kind": "Categorical"}
    assert recipe.net["arguments"] == {"inputs": 2, "outputs": 3}
    write_table(here / "table.csv")
    assert init(here / "c", data="table.csv", target="price").hint is None


def test_classes_are_for_tables(here: Path) -> None:
    done = ptv("init", "start", "--classes")
    assert done.exit_code == 1
    assert done.stderr == (
        "error: --classes is for the target column of a table; given: digits; accepted: a .csv or "
        ".parquet file; in a .npz file, whole numbers y are classes\n"
    )
    assert not (here / "start").exists()


def test_supports_fit_the_inputs(here: Path) -> None:
    write_table(here / "table.csv")
    np.savez("columns.npz", x=np.zeros((30, 4)), y=np.zeros(30))
    np.savez("images.npz", x=np.zeros((30, 4, 4)), y=np.arange(30) % 2)
    for name, kind, target in (
        ("table.csv", "Independent", "price"),
        ("columns.npz", "Independent", None),
        ("images.npz", "Chain", None),
        ("digits", "Chain", None),
    ):
        file = init(here / f"of {name}", data=name, target=target).recipe
        prior = Recipe.load(file).prior
        assert isinstance(prior, priors.ThreeLayer)
        assert type(prior.support).__name__ == kind


def test_what_is_commented_out_works(here: Path) -> None:
    """And `mean_run` is for `Chain` and `Grid`, as its comment says."""
    write_table(here / "table.csv")
    file = init(here / "start", data="table.csv", target="price").recipe
    text = (
        file.read_text().replace("  # lr:", "  lr:").replace("  # compression:", "  compression:")
    )
    file.write_text(text)
    assert Recipe.load(file).engine == {"kind": "Turbo", "lr": 0.002, "compression": 1.0}
    Recipe.load(file, {("engine", "compression"): 0.1}).build()
    file.write_text(text.replace("    # mean_run", "    mean_run"))
    with pytest.raises(SpecError, match=r"support.mean_run: Independent has no such setting"):
        Recipe.load(file)
    for kind in ("Chain", "Grid"):
        Recipe.load(file, {("prior", "support", "kind"): kind}).build()
