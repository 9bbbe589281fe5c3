"""Supports during training: a few, a bit a weight; `test_workflow` sees them in a report."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from pathlib import Path

import pytest
import torch

import pyro_turbovbi
from pyro_turbovbi import callbacks
from pyro_turbovbi.cli.stages import KeptStages, read_stages
from pyro_turbovbi.errors import ArtifactError, CheckpointWarning, StorageError
from pyro_turbovbi.persistence.container import pack
from tests.cli.helpers import MLP, RECIPE, interrupt, ptv, write_recipe

SPARSE = MLP + RECIPE[RECIPE.index("data:") :].replace("kind: Normal", "kind: ThreeLayer")
EPOCHS = 8


@pytest.fixture
def recipe(here: Path) -> Path:
    return write_recipe(here, SPARSE.replace("epochs: 2", f"epochs: {EPOCHS}"))


def test_a_run_keeps_supports_as_the_callback_does(recipe: Path) -> None:
    assert ptv("fit", recipe, "--out", "run").exit_code == 0
    stages = read_stages(Path("run/stages.safetensors"))
    assert list(stages) == ["epoch 2", "epoch 3", "epoch 5"]
    declared = pyro_turbovbi.Recipe.load(recipe)
    expected = callbacks.Supports([2, 3, 5])
    declared.fit(declared.build(), callbacks=[expected], progress=False)
    for stage, sites in expected.stages.items():
        assert sites.keys() == stages[stage].keys()
        for name, probs in sites.items():
            assert torch.equal(stages[stage][name], probs > 0.5)


def test_an_interrupted_training_keeps_what_it_had(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ptv("fit", recipe, "--out", "whole").exit_code == 0
    with monkeypatch.context() as patch:
        interrupt(patch, epoch=4)
        assert ptv("fit", recipe, "--out", "run").exit_code == 130
    file = Path("run/stages.safetensors")
    assert list(read_stages(file)) == ["epoch 2", "epoch 3"]
    assert ptv("fit", "run", "--resume").exit_code == 0
    assert file.read_bytes() == Path("whole/stages.safetensors").read_bytes()


def test_a_training_that_comes_to_nothing_leaves_none(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, epoch=1)
    assert ptv("fit", recipe, "--out", "run", "--checkpoint-every", 0).exit_code == 130
    assert not Path("run").exists()


def test_a_prior_without_supports_leaves_no_file(here: Path) -> None:
    write_recipe(here)
    assert ptv("fit", "recipe.yaml", "--out", "run").exit_code == 0
    assert read_stages(Path("run/stages.safetensors")) == {}


class Fit:
    """As much of a fit as is needed."""

    def __init__(self, probs: torch.Tensor) -> None:
        self.posterior = self
        self._probs = probs

    def support_probs(self) -> dict[str, torch.Tensor]:
        return {"0.weight": self._probs}


def snapshot(probs: torch.Tensor) -> Callable[[], pyro_turbovbi.Fit]:
    return lambda: Fit(probs)  # type: ignore[return-value]


def record(epoch: int) -> pyro_turbovbi.EpochRecord:
    return pyro_turbovbi.EpochRecord(epoch, 1.0, 1.0, {})


@pytest.mark.parametrize("shape", [(), (0,), (1,), (8,), (3, 5), (2, 3, 3, 3)])
def test_shapes_come_back(shape: tuple[int, ...], tmp_path: Path) -> None:
    probs = torch.rand(shape)
    KeptStages(tmp_path / "file", 10)(record(4), snapshot(probs))
    assert torch.equal(read_stages(tmp_path / "file")["epoch 4"]["0.weight"], probs > 0.5)


def test_a_weight_takes_a_bit_and_the_number_of_stages_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "file"
    kept = KeptStages(file, 100)
    assert kept.epochs == {30, 40, 60}
    for epoch in range(1, 101):
        kept(record(epoch), snapshot(torch.rand(100, 101)))
    assert file.stat().st_size < 3 * ceil(100 * 101 / 8) + 1000
    assert KeptStages(file, 1).epochs == set(), "after the last epoch there is the fit itself"


def test_what_cannot_be_written_does_not_end_a_training(tmp_path: Path) -> None:
    with pytest.warns(CheckpointWarning, match=r"could not be kept: .*no/file.* Training goes on"):
        KeptStages(tmp_path / "no" / "file", 2)(record(1), snapshot(torch.ones(3)))


def test_a_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"no file of ours", pack("fit", {}), b""):
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match="holds no stages"):
            read_stages(file)
        KeptStages(file, 4)
    with pytest.raises(StorageError, match="cannot be read"):
        read_stages(tmp_path)
    KeptStages(file, 4)(record(1), snapshot(torch.ones(3)))
    assert list(read_stages(file)) == ["epoch 1"]
