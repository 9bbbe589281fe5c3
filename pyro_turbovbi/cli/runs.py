"""Directories that `ptv fit` writes: a recipe, the fit that came of it, and what it achieved."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pyro_turbovbi.cli.commands import plain
from pyro_turbovbi.data.form import DataForm
from pyro_turbovbi.engines.protocol import AnyEngine
from pyro_turbovbi.errors import InvalidArgumentError, StorageError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.persistence.checkpoints import CheckpointStore, checkpoint_files
from pyro_turbovbi.persistence.files import write_atomically
from pyro_turbovbi.recipe import Ingredients, Recipe
from pyro_turbovbi.result import Fit

ROOT = Path("runs")
"""Where runs go unless told otherwise."""


class LoadedRun(NamedTuple):
    """A run that was read again.

    Attributes:
        name: Name of its directory.
        recipe: What was trained.
        made: Net, engine and data of the recipe, built anew.
        fit: The result.
    """

    name: str
    recipe: Recipe
    made: Ingredients
    fit: Fit


@dataclass(frozen=True)
class Run:
    """A directory of one training.

    Attributes:
        directory: The directory; it need not exist.
    """

    directory: Path

    @property
    def recipe_file(self) -> Path:
        """The recipe with all changes, `recipe.yaml`."""
        return self.directory / "recipe.yaml"

    @property
    def fit_file(self) -> Path:
        """The fit, as `Fit.save` writes it."""
        return self.directory / "fit.safetensors"

    @property
    def history_file(self) -> Path:
        """Loss, ELBO and density of every epoch, as JSON."""
        return self.directory / "history.json"

    @property
    def summary_file(self) -> Path:
        """What the run achieved, and the form of its data, as JSON."""
        return self.directory / "run.json"

    @property
    def stages_file(self) -> Path:
        """Supports that the training passed through; see `stages`."""
        return self.directory / "stages.safetensors"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of a training that is not finished: in the run, or where `begin` was told."""
        with contextlib.suppress(OSError):
            return Path(self._elsewhere.read_text(encoding="utf-8").rstrip("\n"))
        return self.directory / "checkpoints"

    @property
    def _elsewhere(self) -> Path:
        """A file that says where checkpoints are, if they are not in the run."""
        return self.directory / "checkpoints.txt"

    @property
    def _finished(self) -> bool:
        return bool(self._summary().get("finished"))

    def _summary(self) -> dict[str, Any]:
        """What is in `summary_file`; empty if it is not there or cannot be read."""
        try:
            summary = json.loads(self.summary_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return summary if isinstance(summary, dict) else {}

    @property
    def can_resume(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(checkpoint_files(self.checkpoints))

    def begin(self, recipe: Recipe, checkpoints: Path | None = None) -> None:
        """Makes the directory and writes the recipe, for a new training.

        Args:
            recipe: What will be trained.
            checkpoints: Where its checkpoints will be; None: in the run.

        Raises:
            InvalidArgumentError: If a directory is in use.
            StorageError: If it cannot be made.
            SpecError: If the recipe cannot be written.
        """
        if self.directory.is_dir() and any(self.directory.iterdir()):
            raise InvalidArgumentError(
                "the directory is not empty",
                given=str(self.directory),
                accepted="another --out; or --resume, if a training was interrupted there",
            )
        if checkpoints is not None and checkpoint_files(checkpoints):
            raise InvalidArgumentError(
                "the directory holds checkpoints of another training",
                given=str(checkpoints),
                accepted="another --checkpoint; or `ptv fit RUN --resume`, to go on with it",
            )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError.of("the directory cannot be made", self.directory, error) from error
        try:
            recipe.save(self.recipe_file)
            self._remember(checkpoints)
        except BaseException:  # Ctrl-C too
            self.discard()
            raise

    def goes_on(self, recipe: Recipe) -> bool:
        """Whether a training of this very recipe was begun here and has not been finished."""
        begun = self.recipe_file.is_file() and not self.fit_file.exists()
        return begun and Recipe.load(self.recipe_file) == recipe

    def find_checkpoints(self, checkpoints: Path | None = None) -> None:
        """Refuses a run that there is nothing to go on with.

        Args:
            checkpoints: Where its checkpoints are by now; None: where the run knows them to be.

        Raises:
            InvalidArgumentError: If there is no checkpoint.
            StorageError: If the run cannot be told where they are.
        """
        if not checkpoint_files(checkpoints or self.checkpoints):
            finished = self._finished
            place = self.directory if finished or checkpoints is None else checkpoints
            raise InvalidArgumentError(
                "the training is finished" if finished else "there is nothing to resume",
                given=str(place),
                accepted="the directory of an interrupted training; or no --resume, to start anew",
            )
        self._remember(checkpoints)

    def discard(self) -> None:
        """Removes what `begin` made, if no training came of it."""
        if self.can_resume or self.summary_file.exists():
            return
        with contextlib.suppress(OSError):
            self.recipe_file.unlink(missing_ok=True)
            self.stages_file.unlink(missing_ok=True)
            self._remove_checkpoints()
            self.directory.rmdir()
            if self.directory.parent == ROOT:
                ROOT.rmdir()

    def save(self, fit: Fit, summary: Mapping[str, Any]) -> None:
        """Writes a fit, its history and a summary; checkpoints go when the training is finished.

        Raises:
            StorageError: If a file cannot be written.
            UnsupportedError: If the fit cannot be stored; see `Fit.save`.
        """
        fit.save(self.fit_file)
        self._write(self.history_file, {"epochs": fit.history.plain()})
        self._write(self.summary_file, summary)
        if summary["finished"]:
            self._remove_checkpoints()

    def load(self) -> LoadedRun:
        """Reads a run: builds what its recipe names, which runs code, and loads the fit.

        Raises:
            InvalidArgumentError: If the directory holds no fit.
            TurboVBIError: If something is wrong with the recipe, its code, its data or the fit.
        """
        recipe = self._recipe()
        made = recipe.build()
        fit = self._fit(made.bnn, made.engine)
        return LoadedRun(self.directory.resolve().name, recipe, made, fit)

    def load_fit(self) -> tuple[Recipe, Fit]:
        """Reads a run without its data, which need not be there any more; runs code like `load`.

        Raises:
            TurboVBIError: See `load`.
        """
        recipe = self._recipe()
        return recipe, self._fit(*recipe.build_model())

    def data_form(self, recipe: Recipe) -> DataForm:
        """Names, units and classes of the data that were trained on.

        Args:
            recipe: That of the run. Its data are loaded if the run is of an older version and does
                not know their form.

        Raises:
            TurboVBIError: If what the run says is damaged, or data have to be loaded and cannot be.
        """
        known = self._summary().get("data")
        return DataForm.of(recipe.build_data()) if known is None else DataForm.from_dict(known)

    def _recipe(self) -> Recipe:
        if not self.fit_file.is_file():
            raise InvalidArgumentError(
                "this is no run",
                given=str(self.directory),
                accepted=f"a directory from `ptv fit`, with {self.fit_file.name}",
            )
        return Recipe.load(self.recipe_file)

    def _fit(self, bnn: BayesianNet, engine: AnyEngine) -> Fit:
        guide = getattr(engine, "guide", None)
        guide = guide if callable(guide) else None
        return Fit.load(self.fit_file, net=bnn.net, guide=guide)

    def _remember(self, checkpoints: Path | None) -> None:
        """Writes down where checkpoints are; None: nothing new."""
        if checkpoints is not None:
            write_atomically(self._elsewhere, f"{checkpoints.absolute()}\n".encode())

    def _remove_checkpoints(self) -> None:
        if self.checkpoints.is_dir():
            CheckpointStore(self.checkpoints, keep=1).clear()
        with contextlib.suppress(OSError):
            self._elsewhere.unlink(missing_ok=True)

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        text = json.dumps(plain(content), indent=2, allow_nan=False)
        write_atomically(path, f"{text}\n".encode())


def default_run(name: str, *, resume: bool) -> Run:
    """Where a training goes unless told otherwise: `runs/<name>`, `runs/<name>-2`, ...

    Args:
        name: Name of the recipe.
        resume: The last one that is there, instead of the first that is free.
    """
    number, last = 1, ROOT / name
    directory = last
    while directory.exists():
        number, last = number + 1, directory
        directory = ROOT / f"{name}-{number}"
    return Run(last if resume else directory)


__all__ = ["ROOT", "LoadedRun", "Run", "default_run"]
