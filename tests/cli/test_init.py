"""`ptv init`: files that fit the data and overwrite nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyro_turbovbi import Recipe, engines
from pyro_turbovbi.cli.init import MODEL, init
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, StorageError
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
