"""From options to a recipe: each option is a change of one value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyro_turbovbi import Recipe, priors
from pyro_turbovbi.cli.declaration import data_spec, declare
from pyro_turbovbi.errors import InvalidArgumentError, SpecError
from tests.cli.helpers import write_recipe


def test_without_options_the_recipe_is_as_it_was(here: Path) -> None:
    path = write_recipe(here)
    assert declare(path) == Recipe.load(path)


def test_options_change_single_values(here: Path) -> None:
    path = write_recipe(here)
    (here / "prior.yaml").write_text("{kind: Laplace, scale: 0.3}")
    changed = declare(
        path,
        data="other.csv",
        target="age",
        prior="prior.yaml",
        engine="{kind: SVI, lr: 0.1}",
        epochs=7,
        seed=3,
        settings=["batch_size=4", "net.arguments[0]=5", "engine.lr=0.2", "data.seed=1"],
    )
    assert changed.data == {
        "kind": "csv_file",
        "path": str(here / "other.csv"),
        "target": "age",
        "seed": 1,
    }
    assert changed.prior == priors.Laplace(scale=0.3)
    assert changed.engine == {"kind": "SVI", "lr": 0.2}
    assert (changed.epochs, changed.seed, changed.batch_size) == (7, 3, 4)
    assert changed.net == {"call": "torch.nn:Linear", "arguments": [5, 1]}
    assert changed.likelihood == {"kind": "Gaussian"}


def test_a_model_file_and_data_are_a_recipe(here: Path) -> None:
    declared = declare(Path("models/net.py"), data="digits", prior="Normal")
    assert declared.net == {"call": f"{here}/models/net.py:build"}
    assert declared == Recipe(
        net={"call": "models/net.py:build"}, data={"kind": "digits"}, prior=priors.Normal()
    )
    with pytest.raises(
        InvalidArgumentError, match=r"a model file comes without data; given: net.py"
    ):
        declare(Path("net.py"))


def test_a_run_is_its_recipe(here: Path) -> None:
    path = write_recipe(here)
    assert declare(here, epochs=9).epochs == 9
    assert declare(here) == Recipe.load(path)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("digits", {"kind": "digits"}),
        ("a.CSV", {"kind": "csv_file", "path": "{here}/a.CSV"}),
        ("a.parquet", {"kind": "parquet_file", "path": "{here}/a.parquet"}),
        ("fashion_mnist", {"kind": "fashion_mnist"}),
        ("cifar100", {"kind": "cifar100"}),
        ("a.npz", {"kind": "npz_file", "path": "{here}/a.npz"}),
        ("pictures", {"kind": "image_folder", "path": "{here}/pictures"}),
        ("not/here", {"kind": "image_folder", "path": "{here}/not/here"}),
        ("my.module:data", {"call": "my.module:data"}),
        ("mine.py:data", {"call": "{here}/mine.py:data"}),
        ("nothing", {"kind": "nothing"}),
    ],
)
def test_data_by_name_file_folder_or_address(text: str, spec: dict[str, str], here: Path) -> None:
    (here / "pictures").mkdir()
    (here / "digits").mkdir()  # a name that the package knows comes first
    assert data_spec(text) == {key: value.format(here=here) for key, value in spec.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"engine": "Turb"},
            r"engine.kind: unknown kind \(did you mean 'Turbo'\?\); given: 'Turb'",
        ),
        ({"prior": "{kind: Normal"}, "--prior, line 1 is not valid YAML"),
        ({"settings": ["lr"]}, "this is no change of a setting; given: lr"),
        ({"epochs": 0}, "epochs is out of range; given: 0"),
        ({"data": "digits", "target": "x"}, "data.target: digits has no such setting"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, here: Path) -> None:
    with pytest.raises(SpecError, match=message):
        declare(write_recipe(here), **options)


@pytest.mark.parametrize("folder", ["", "tables/"])
def test_files_of_other_kinds_are_named_as_such(folder: str, here: Path) -> None:
    path = here / folder / "table.tsv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("a\tb\n")
    with pytest.raises(InvalidArgumentError, match=r"given: .*table.tsv; accepted: .*\.csv, "):
        data_spec(f"{folder}table.tsv")
