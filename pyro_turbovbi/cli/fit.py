"""`ptv fit`: train what a recipe declares, and keep what comes of it."""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_turbovbi import distributed
from pyro_turbovbi._random import seeded
from pyro_turbovbi.cli.interruption import on_interrupt
from pyro_turbovbi.cli.numbers import readable
from pyro_turbovbi.cli.runs import Run, default_run
from pyro_turbovbi.cli.stages import KeptStages
from pyro_turbovbi.data import DataForm, Splits
from pyro_turbovbi.diagnostics.evaluation import Metrics
from pyro_turbovbi.distributed import World
from pyro_turbovbi.errors import TrainingWarning, UnsupportedError
from pyro_turbovbi.fit import Snapshot
from pyro_turbovbi.recipe import Ingredients, Recipe
from pyro_turbovbi.result import EpochRecord, Fit

_ANOTHER_PRIOR = "another prior by bnn.with_prior(priors.Normal())"  # in errors of the engines


@dataclass(frozen=True)
class FitResult:
    """What a training achieved.

    Attributes:
        run: Directory that it is in.
        finished: Whether all epochs were done.
        engine: Short name of the engine.
        epochs: Epochs that were done.
        epochs_planned: Epochs that were to be done.
        seconds: Wall seconds of training.
        elbo: Final ELBO in nats; None for point estimates and interrupted trainings.
        elbo_kind: See `Fit.elbo_kind`.
        weights_left: Share of the weights under a prior that survive.
        validation: Quality on the validation data; None without such data.
        test: Quality on the test data; None without such data.
        data: Names, units and classes of the data, for rows that come later.
        advice: A setting to try; None if nothing asks for one.
    """

    run: Path
    finished: bool
    engine: str
    epochs: int
    epochs_planned: int
    seconds: float
    elbo: float | None
    elbo_kind: str
    weights_left: float
    validation: Metrics | None
    test: Metrics | None
    data: DataForm = field(default_factory=DataForm)
    advice: str | None = None

    @property
    def rmse_own_unit(self) -> dict[str, float | None]:
        """RMSE on each part of the data in the target's own unit; None where there is none."""
        parts = {"validation": self.validation, "test": self.test}
        return {
            name: None if m is None or m.rmse is None else m.rmse * self.data.target_scale
            for name, m in parts.items()
        }

    def to_dict(self) -> Mapping[str, Any]:
        """All fields, and `rmse_own_unit`."""
        own = {"data": self.data.to_dict(), "rmse_own_unit": self.rmse_own_unit}
        return {**vars(self), **own}

    def __str__(self) -> str:
        elbo = "" if self.elbo is None else f", ELBO {self.elbo:,.1f} nats ({self.elbo_kind})"
        run = shlex.quote(str(self.run))
        lines = [
            f"{self.engine}: {self.epochs} of {self.epochs_planned} epochs in {self.seconds:.1f} s"
            f"{elbo}, {self.weights_left:.2%} of the weights left"
        ]
        parts = {"validation": self.validation, "test": self.test}
        lines += [
            f"{part}: {_words(m, self.data, indent=len(part) + 2)}"
            for part, m in parts.items()
            if m is not None
        ]
        if self.advice:
            lines.append(self.advice)
        lines.append(f"in {run}; next: ptv compress {run}")
        if not self.finished:
            lines.append(f"interrupted; {_how_to_go_on(Run(self.run))}")
        return "\n".join(lines)


def fit_recipe(
    recipe: Recipe,
    source: Path,
    out: Path | None = None,
    *,
    resume: bool = False,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1,
    progress: bool = True,
) -> FitResult | None:
    """Trains a recipe and writes a run.

    Processes that `torchrun` has started train together; the first one writes the run. Those that
    it has started anew, after one had died, go on with what is in the run.

    Args:
        recipe: What to train. The code that it names is run.
        source: The file that it came from, which names the run; or a run to go on with.
        out: Directory of the run; None: see `runs.default_run`.
        resume: Go on with an interrupted training.
        checkpoint: Directory of the checkpoints, of this training alone; the run remembers it.
            None: in the run, or where an interrupted one has them.
        checkpoint_every: Epochs between two checkpoints; 0: none, and no way to resume.
        progress: Whether to show a progress bar.

    Returns:
        What was achieved; after Ctrl-C, what was reached by then, or None before the first epoch's
        end.

    Raises:
        TurboVBIError: If something is wrong with the recipe, with what it names, or with `out`.
    """
    with distributed.session() as world:
        run = world.first_one(lambda: _run(recipe, source, out, checkpoint, resume=resume))
        made = recipe.build()
        if not resume:
            world.first_one(lambda: _begin(run, recipe, checkpoint))
        return _fit(world, recipe, run, made, resume, checkpoint_every, progress)


def _run(
    recipe: Recipe, source: Path, out: Path | None, checkpoint: Path | None, *, resume: bool
) -> Run:
    """Where the run is, or will be."""
    run = Run(out or source) if out or source.is_dir() else default_run(source.stem, resume=resume)
    if resume:
        run.find_checkpoints(checkpoint)
    elif distributed.restarted() and not out:
        last = default_run(source.stem, resume=True)
        return last if last.goes_on(recipe) else run
    return run


def _begin(run: Run, recipe: Recipe, checkpoint: Path | None) -> None:
    if not (distributed.restarted() and run.goes_on(recipe)):
        run.begin(recipe, checkpoint)


def _fit(
    world: World,
    recipe: Recipe,
    run: Run,
    made: Ingredients,
    resume: bool,
    checkpoint_every: int,
    progress: bool,
) -> FitResult | None:
    """The training itself; all processes get the result of the first one."""
    latest = _Latest()
    stages = [KeptStages(run.stages_file, recipe.epochs)] if world.first else []
    try:
        with _noticing_warnings() as warned:
            fitted = recipe.fit(
                made,
                callbacks=[*stages, latest],
                progress=progress,
                checkpoint=run.checkpoints if checkpoint_every else None,
                checkpoint_every=checkpoint_every or 1,
                resume=resume or "auto",
            )
        advice = _advice(recipe, fitted) if warned else None
        return world.first_one(lambda: _saved(run, recipe, fitted, made, advice=advice))
    except KeyboardInterrupt:
        return _kept(run, recipe, made, latest.fit) if world.first else None
    except Exception as error:
        if world.first:
            run.discard()
        if isinstance(error, UnsupportedError):
            raise _for_the_command_line(error) from error
        raise


@contextmanager
def _noticing_warnings() -> Iterator[list[str]]:
    """Gathers what `TrainingWarning`s say, which are shown all the same."""
    said: list[str] = []
    usual = warnings.showwarning

    def notice(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, TrainingWarning):
            said.append(str(message))
        usual(message, category, *where, **more)

    warnings.showwarning = notice
    try:
        yield said
    finally:
        warnings.showwarning = usual


def _advice(recipe: Recipe, fitted: Fit) -> str | None:
    """What to try after a warning, if a layer has lost all its weights under Turbo."""
    emptied = any(not bool(mask.any()) for mask in fitted.masks().values())
    if not emptied or recipe.engine.get("kind") != "Turbo" or "kl_weight" in recipe.engine:
        return None
    less = 0.1 * float(recipe.engine.get("compression", 1.0))
    return f"a layer has no weights left; more stay with: --set engine.compression={less:g}"


def _saved(
    run: Run,
    recipe: Recipe,
    fitted: Fit,
    made: Ingredients,
    *,
    finished: bool = True,
    advice: str | None = None,
) -> FitResult:
    """Writes a run; returns what was achieved."""
    result = _result(run, recipe, fitted, made, finished=finished, advice=advice)
    run.save(fitted, result.to_dict())
    return result


class _Latest:
    """Keeps the fit of the epoch that was done last."""

    fit: Fit | None = None

    def __call__(self, record: EpochRecord, snapshot: Snapshot) -> None:
        self.fit = snapshot()


def _kept(run: Run, recipe: Recipe, made: Ingredients, reached: Fit | None) -> FitResult | None:
    """What is left of a training after Ctrl-C."""
    if reached is not None:
        with on_interrupt(lambda: f"the run is not saved in full; {_how_to_go_on(run)}"):
            return _saved(run, recipe, reached, made, finished=False)
    kept = _how_to_go_on(run) if run.can_resume else "nothing is kept"
    print(f"interrupted before the end of an epoch; {kept}", file=sys.stderr)
    run.discard()
    return None


def _how_to_go_on(run: Run) -> str:
    if run.can_resume:
        return f"go on with: ptv fit {shlex.quote(str(run.directory))} --resume"
    return "without a checkpoint it cannot go on"


def _result(
    run: Run,
    recipe: Recipe,
    fitted: Fit,
    made: Ingredients,
    *,
    finished: bool,
    advice: str | None,
) -> FitResult:
    """What a fit is; an interrupted one is not evaluated."""
    data = made.data if finished and isinstance(made.data, Splits) else None
    masks = fitted.masks().values()
    return FitResult(
        run=run.directory,
        finished=finished,
        engine=fitted.engine_name,
        epochs=len(fitted.history),
        epochs_planned=recipe.epochs,
        seconds=fitted.seconds,
        elbo=fitted.elbo,
        elbo_kind=fitted.elbo_kind,
        weights_left=sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks),
        validation=None if data is None else _metrics(fitted, data.validation),
        test=None if data is None else _metrics(fitted, data.test),
        data=DataForm.of(made.data),
        advice=advice,
    )


def _metrics(fitted: Fit, part: Any) -> Metrics | None:
    with seeded(0):  # the draws that `compare` makes
        return fitted.evaluate(part) if len(part.x) else None


def _words(metrics: Metrics, data: DataForm, indent: int) -> str:
    name, value = metrics.primary
    quality = f"error {value:.2%}" if name == "error" else _rmse(value, data.target_scale, indent)
    return f"{quality}, NLL {metrics.nll:.4g} nats a point ({metrics.num_points:,} points)"


def _rmse(value: float, scale: float, indent: int) -> str:
    """An RMSE, in both units where the target was standardised, which takes a second line."""
    if scale == 1.0:
        return f"RMSE {value:.4g}"
    own = readable(value * scale)
    first = f"RMSE {readable(value)} standard deviations of the target"
    return f"{first}\n{' ' * indent}({own} in its own unit)"


def _for_the_command_line(error: UnsupportedError) -> UnsupportedError:
    """The same error, with options in place of what there is in Python alone."""
    if error.accepted is None:
        return error
    listed = isinstance(error.accepted, str)
    accepted = str(error.accepted) if listed else ", ".join(map(str, error.accepted))
    accepted = accepted.replace("checkpoint=None", "--checkpoint-every 0")
    if _ANOTHER_PRIOR in accepted:
        others = re.sub(f"(, (or )?)?{re.escape(_ANOTHER_PRIOR)}", "", accepted)
        accepted = f"{others}, or --prior Normal".removeprefix(", or ")
    return UnsupportedError(error.problem, given=error.given, accepted=accepted)


__all__ = ["FitResult", "fit_recipe"]
