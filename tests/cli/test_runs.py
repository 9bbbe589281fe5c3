"""Directories of runs: what may be written where, and reading them again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyro_turbovbi import Recipe
from pyro_turbovbi.cli.runs import Run, default_run
from pyro_turbovbi.errors import InvalidArgumentError, StorageError
from tests.cli.helpers import write_recipe


@pytest.fixture
def recipe(here: Path) -> Recipe:
    return Recipe.load(write_recipe(here))


def test_runs_are_numbered(here: Path) -> None:
    assert default_run("x", resume=False).directory == Path("runs/x")
    for expected in ("x-2", "x-3"):
        default_run("x", resume=False).directory.mkdir(parents=True)
        assert default_run("x", resume=False).directory == Path("runs") / expected
    assert default_run("x", resume=True).directory == Path("runs/x-2")


def test_nothing_is_overwritten(recipe: Recipe, here: Path) -> None:
    run = Run(here / "a" / "run")
    run.begin(recipe)
    assert Recipe.load(run.recipe_file) == recipe
    with pytest.raises(InvalidArgumentError, match="the directory is not empty; given: "):
        run.begin(recipe)
    (here / "file").write_text("")
    with pytest.raises(StorageError, match="the directory cannot be made: "):
        Run(here / "file").begin(recipe)


def test_what_came_to_nothing_leaves_nothing(recipe: Recipe, here: Path) -> None:
    run = Run(here / "run")
    run.begin(recipe)
    run.checkpoints.mkdir()
    run.discard()
    assert not run.directory.exists()
    run.begin(recipe)
    run.checkpoints.mkdir()
    (run.checkpoints / "step-000000001.safetensors").write_text("")
    run.discard()
    assert run.recipe_file.exists(), "there is a checkpoint to go on from"
    assert run.can_resume


def test_what_cannot_be_resumed(here: Path) -> None:
    for summary in (None, '{"finished": false}', "no JSON"):
        if summary is not None:
            (here / "run.json").write_text(summary)
        with pytest.raises(InvalidArgumentError, match=r"there is nothing to resume; given: "):
            Run(here).find_checkpoints()
    (here / "run.json").write_text('{"finished": true}')
    with pytest.raises(InvalidArgumentError, match="the training is finished"):
        Run(here).find_checkpoints()


def test_checkpoints_elsewhere(recipe: Recipe, here: Path) -> None:
    elsewhere, moved = here / "fast disk", here / "moved"
    elsewhere.mkdir()
    (elsewhere / "notes.txt").write_text("of the user")
    run = Run(here / "run")
    run.begin(recipe, Path("fast disk"))
    assert run.checkpoints == elsewhere, "found from any working directory"
    (elsewhere / "step-000000001.safetensors").write_text("")
    run.find_checkpoints()
    elsewhere.rename(moved)
    with pytest.raises(InvalidArgumentError, match=r"nothing to resume; given: .*run; accepted"):
        run.find_checkpoints()
    with pytest.raises(InvalidArgumentError, match="nothing to resume; given: nowhere; accepted"):
        run.find_checkpoints(Path("nowhere"))
    run.find_checkpoints(moved)
    assert run.checkpoints == moved
    with pytest.raises(InvalidArgumentError, match="holds checkpoints of another training; given"):
        Run(here / "other").begin(recipe, moved)
    assert not (here / "other").exists()
    run.save(recipe.fit(progress=False), {"finished": True})
    assert [file.name for file in moved.iterdir()] == ["notes.txt"]
    assert run.checkpoints == run.directory / "checkpoints", "nothing is left to remember"


def test_a_fit_comes_back_with_what_it_was_made_of(recipe: Recipe, here: Path) -> None:
    fit = recipe.fit(progress=False)
    run = Run(here / "run")
    run.begin(recipe)
    run.checkpoints.mkdir()
    run.save(fit, {"finished": True, "loss": float("nan")})
    assert not run.checkpoints.exists()
    assert json.loads(run.summary_file.read_text()) == {"finished": True, "loss": None}
    assert json.loads(run.history_file.read_text())["epochs"][-1]["loss"] == fit.history[-1].loss
    name, declared, made, loaded = run.load()
    assert (name, declared) == ("run", recipe)
    assert len(made.train[0]) == 32
    assert loaded.posterior.mean()["weight"].equal(fit.posterior.mean()["weight"])
    with pytest.raises(InvalidArgumentError, match=r"this is no run; given: .*; accepted: a dir"):
        Run(here / "nothing").load()
