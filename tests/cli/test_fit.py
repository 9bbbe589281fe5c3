"""`ptv fit`: what is written, and what is left after Ctrl-C."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_turbovbi as ptv_package
from pyro_turbovbi import Fit, Recipe
from pyro_turbovbi.cli import fit as fitting
from pyro_turbovbi.cli.numbers import readable
from pyro_turbovbi.errors import TrainingWarning, UnsupportedError
from tests.cli.helpers import RECIPE, interrupt, ptv, write_recipe


def losses(run: Path) -> list[float]:
    return [epoch["loss"] for epoch in json.loads((run / "history.json").read_text())["epochs"]]


def test_a_run_holds_recipe_fit_history_and_summary(here: Path) -> None:
    write_recipe(here)
    done = ptv("fit", "recipe.yaml", "--seed", 3)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("turbo: 2 of 2 epochs in ")
    assert lines[1].startswith("validation: RMSE ")
    assert lines[-1] == "in runs/recipe; next: ptv compress runs/recipe"
    run = here / "runs" / "recipe"
    names = ["fit.safetensors", "history.json", "recipe.yaml", "run.json"]
    assert sorted(file.name for file in run.iterdir()) == names
    assert ptv_package.Recipe.load(run / "recipe.yaml").seed == 3
    assert len(losses(run)) == 2


def test_a_machine_reads_one_object(here: Path) -> None:
    write_recipe(here)
    done = ptv("fit", "recipe.yaml", "--engine", "MAP", "--out", "there", "--json")
    printed = json.loads(done.stdout)
    assert printed == json.loads((here / "there" / "run.json").read_text())
    assert (printed["engine"], printed["epochs"], printed["finished"]) == ("map", 2, True)
    assert printed["elbo"] is None
    assert printed["test"]["num_points"] == 4


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(here)
    assert ptv("fit", "recipe.yaml", "--epochs", 4, "--out", "whole").exit_code == 0
    with monkeypatch.context() as patch:
        interrupt(patch, epoch=3)
        done = ptv("fit", "recipe.yaml", "--epochs", 4, "--out", "my run")
    assert done.exit_code == 130
    assert done.stdout.startswith("turbo: 3 of 4 epochs in ")
    assert done.stdout.endswith("interrupted; go on with: ptv fit 'my run' --resume\n")
    run = here / "my run"
    assert losses(run) == losses(here / "whole")[:3]
    assert json.loads((run / "run.json").read_text())["finished"] is False
    assert ptv("inspect", run / "fit.safetensors").exit_code == 1, "a fit, no network"
    again = ptv("fit", "my run", "--resume")
    assert again.exit_code == 0, again.stderr
    assert losses(run) == losses(here / "whole")
    assert not (run / "checkpoints").exists()
    assert ptv("fit", "my run", "--resume").exit_code == 1, "there is nothing left to do"


def test_checkpoints_go_where_they_are_told_to(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(here)
    told = ("--epochs", 6, "--out", "run", "--checkpoint", "kept/here", "--checkpoint-every", 2)
    with monkeypatch.context() as patch:
        interrupt(patch, epoch=5)
        assert ptv("fit", "recipe.yaml", *told).exit_code == 130
    steps = sorted(int(file.stem[5:]) for file in (here / "kept" / "here").iterdir())
    assert steps[-1] == 4 * 4, "32 points make 4 batches; epoch 4 is the last even one"
    assert not (here / "run" / "checkpoints").exists()
    another = ptv("fit", "recipe.yaml", "--out", "second", "--checkpoint", "kept/here")
    assert another.stderr == (
        "error: the directory holds checkpoints of another training; given: kept/here; accepted: "
        "another --checkpoint; or `ptv fit RUN --resume`, to go on with it\n"
    )
    again = ptv("fit", "run", "--resume")
    assert again.exit_code == 0, again.stderr
    assert len(losses(here / "run")) == 6
    assert not (here / "kept" / "here").exists()
    assert not (here / "second").exists()


def killed(patch: pytest.MonkeyPatch) -> None:
    """Makes a training end after an epoch as if the process were gone."""

    def end(*_args: object) -> None:
        raise SystemExit(137)

    patch.setattr(fitting._Latest, "__call__", end)


def test_torchrun_goes_on_in_the_run_that_was_begun(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(here)
    assert ptv("fit", "recipe.yaml").exit_code == 0
    with monkeypatch.context() as patch:
        killed(patch)
        assert ptv("fit", "recipe.yaml").exit_code == 137
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert ptv("fit", "recipe.yaml").exit_code == 0
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["recipe", "recipe-2"]
    assert losses(here / "runs" / "recipe-2") == losses(here / "runs" / "recipe")
    assert ptv("fit", "recipe.yaml", "--out", "runs/recipe").exit_code == 1, "that is finished"
    with monkeypatch.context() as patch:
        killed(patch)
        ptv("fit", "recipe.yaml", "--out", "here")
    assert ptv("fit", "recipe.yaml", "--epochs", 3, "--out", "here").exit_code == 1, "another one"
    assert ptv("fit", "recipe.yaml", "--out", "here").exit_code == 0


def test_interrupted_before_an_epoch_was_done(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(here)
    interrupt(monkeypatch, epoch=1)
    done = ptv("fit", "recipe.yaml")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == (
        "interrupted before the end of an epoch; go on with: ptv fit runs/recipe --resume\n"
    )
    without = ptv("fit", "recipe.yaml", "--checkpoint-every", 0, "--out", "other")
    assert without.exit_code == 130
    assert without.stderr.endswith("end of an epoch; nothing is kept\n")
    assert not (here / "other").exists()


def test_what_cannot_be_resumed_says_which_option_helps(here: Path) -> None:
    exact = RECIPE.replace("kind: Turbo", "kind: Turbo, weights: exact").replace(
        "kind: Normal", "kind: ThreeLayer"
    )
    write_recipe(here, exact.replace("kind: Gaussian", "kind: Gaussian, scale: 0.1, learn: false"))
    done = ptv("fit", "recipe.yaml")
    assert done.exit_code == 1
    assert done.stderr.endswith("engines.MAP(), or --checkpoint-every 0\n")
    assert not (here / "runs" / "recipe").exists()
    assert ptv("fit", "recipe.yaml", "--checkpoint-every", 0).exit_code == 0
    assert "--checkpoint-every 0" in str(
        fitting._for_the_command_line(UnsupportedError("x", accepted="or checkpoint=None"))
    )


def test_a_training_that_fails_leaves_no_run(here: Path) -> None:
    write_recipe(here)
    done = ptv("fit", "recipe.yaml", "--set", "net.arguments=[3, 1]")
    assert done.exit_code == 1
    assert "the network cannot take a batch of inputs" in done.stderr
    assert not (here / "runs" / "recipe").exists()


def test_data_of_another_kind_have_no_test_set(here: Path) -> None:
    write_recipe(here)
    (here / "mine.py").write_text(
        "import torch\ndef data(): return torch.randn(16, 2), torch.randn(16)\n"
    )
    done = ptv("fit", "recipe.yaml", "--data", "mine.py:data", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["test"] is None


def test_an_rmse_of_a_standardised_target_has_both_units(here: Path) -> None:
    write_recipe(here)
    done = ptv("fit", "recipe.yaml", "--out", "run")
    shown = json.loads((here / "run" / "run.json").read_text())
    rmse, own = shown["test"]["rmse"], shown["rmse_own_unit"]["test"]
    assert own == pytest.approx(rmse * shown["data"]["target_scale"])
    lines = done.stdout.splitlines()
    assert lines[3] == f"test: RMSE {readable(rmse)} standard deviations of the target"
    assert lines[4].startswith(f"      ({readable(own)} in its own unit), NLL ")
    assert lines[4].endswith(" nats a point (4 points)")
    assert max(map(len, lines[1:])) <= 80
    assert shown["data"]["columns"] == ["size", "age"]
    assert shown["advice"] is None


def test_an_interrupted_run_knows_its_data_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(here)
    interrupt(monkeypatch, epoch=2)
    assert ptv("fit", "recipe.yaml", "--out", "run").exit_code == 130
    shown = json.loads((here / "run" / "run.json").read_text())
    assert shown["data"]["target"] == "price"
    assert (shown["test"], shown["rmse_own_unit"]["test"]) == (None, None)


@pytest.mark.filterwarnings("default::pyro_turbovbi.errors.TrainingWarning")
def test_a_layer_that_is_emptied_gets_an_advice(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_left(fit: Fit, *_: object) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(site.shape).bool() for name, site in fit.bnn.sites.items()}

    write_recipe(here)
    monkeypatch.setattr(Fit, "masks", nothing_left)
    quiet = ptv("fit", "recipe.yaml", "--out", "quiet")
    assert "a layer" not in quiet.stdout, "nothing was warned of"
    usual = Recipe.fit

    def warned(*arguments: Any, **options: Any) -> Fit:
        warnings.warn("no weight is left", TrainingWarning, stacklevel=2)
        return usual(*arguments, **options)

    monkeypatch.setattr(Recipe, "fit", warned)
    done = ptv("fit", "recipe.yaml", "--out", "a")
    assert done.stdout.splitlines()[-2:] == [
        "a layer has no weights left; more stay with: --set engine.compression=0.1",
        "in a; next: ptv compress a",
    ]
    assert "warning: no weight is left\n" in done.stderr
    again = ptv("fit", "recipe.yaml", "--set", "engine.compression=0.1", "--out", "b")
    assert "--set engine.compression=0.01\n" in again.stdout
    for number, other in enumerate(("engine={kind: MAP}", "engine.kl_weight=0.5")):
        done = ptv("fit", "recipe.yaml", "--set", other, "--out", f"c{number}")
        assert done.exit_code == 0, done.stderr
        assert "a layer" not in done.stdout


@pytest.mark.parametrize("engine", ["MAP", "SVI", "NUTS"])
def test_engines_that_cannot_take_a_prior_name_an_option(engine: str, here: Path) -> None:
    write_recipe(here, RECIPE.replace("kind: Normal", "kind: ThreeLayer"))
    done = ptv("fit", "recipe.yaml", "--engine", engine, "--checkpoint-every", 0)
    assert done.exit_code == 1
    assert done.stderr.endswith(", or --prior Normal\n")
    assert "with_prior" not in done.stderr
    assert "cannot handle the discrete supports of its priors; given: weights weight; acc" in (
        done.stderr
    )
