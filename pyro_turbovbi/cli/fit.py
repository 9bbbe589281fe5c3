"""`ptv fit`: train what a recipe declares, and keep what comes of it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_turbovbi import distributed
from pyro_turbovbi._random import seeded
from pyro_turbovbi.cli.interruption import on_interrupt
from pyro_turbovbi.cli.runs import Run, default_run
from pyro_turbovbi.cli.stages import KeptStages
from pyro_turbovbi.data import Splits
from pyro_turbovbi.diagnostics.evaluation import Metrics
from pyro_turbovbi.distributed import World
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.fit import Snapshot
from pyro_turbovbi.recipe import Ingredients, Recipe
from pyro_turbovbi.result import EpochRecord, Fit


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

    def to_dict(self) -> Mapping[str, Any]:
        """All fields."""
        return vars(self)

    def __str__(self) -> str:
        elbo = "" if self.elbo is None else f", ELBO {self.elbo:,.1f} nats ({self.elbo_kind})"
        run = shlex.quote(str(self.run))
        lines = [
            f"{self.engine}: {self.epochs} of {self.epochs_planned} epochs in {self.seconds:.1f} s"
            f"{elbo}, {self.weights_left:.2%} of the weights left"
        ]
        parts = {"validation": self.validation, "test": self.test}
        lines += [f"{part}: {_words(m)}" for part, m in parts.items() if m is not None]
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
        fitted = recipe.fit(
            made,
            callbacks=[*stages, latest],
            progress=progress,
            checkpoint=run.checkpoints if checkpoint_every else None,
            checkpoint_every=checkpoint_every or 1,
            resume=resume or "auto",
        )
        return world.first_one(lambda: _saved(run, recipe, fitted, made))
    except KeyboardInterrupt:
        return _kept(run, recipe, latest.fit) if world.first else None
    except Exception as error:
        if world.first:
            run.discard()
        if isinstance(error, UnsupportedError):
            raise _for_the_command_line(error) from error
        raise


def _saved(run: Run, recipe: Recipe, fitted: Fit, made: Ingredients | None) -> FitResult:
    """Writes a run; returns what was achieved."""
    result = _result(run, recipe, fitted, made)
    run.save(fitted, result.to_dict())
    return result


class _Latest:
    """Keeps the fit of the epoch that was done last."""

    fit: Fit | None = None

    def __call__(self, record: EpochRecord, snapshot: Snapshot) -> None:
        self.fit = snapshot()


def _kept(run: Run, recipe: Recipe, reached: Fit | None) -> FitResult | None:
    """What is left of a training after Ctrl-C."""
    if reached is not None:
        with on_interrupt(lambda: f"the run is not saved in full; {_how_to_go_on(run)}"):
            return _saved(run, recipe, reached, None)
    kept = _how_to_go_on(run) if run.can_resume else "nothing is kept"
    print(f"interrupted before the end of an epoch; {kept}", file=sys.stderr)
    run.discard()
    return None


def _how_to_go_on(run: Run) -> str:
    if run.can_resume:
        return f"go on with: ptv fit {shlex.quote(str(run.directory))} --resume"
    return "without a checkpoint it cannot go on"


def _result(run: Run, recipe: Recipe, fitted: Fit, made: Ingredients | None) -> FitResult:
    """What a fit is; an interrupted one, which comes without `made`, is not evaluated."""
    data = made.data if made is not None and isinstance(made.data, Splits) else None
    masks = fitted.masks().values()
    return FitResult(
        run=run.directory,
        finished=made is not None,
        engine=fitted.engine_name,
        epochs=len(fitted.history),
        epochs_planned=recipe.epochs,
        seconds=fitted.seconds,
        elbo=fitted.elbo,
        elbo_kind=fitted.elbo_kind,
        weights_left=sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks),
        validation=None if data is None else _metrics(fitted, data.validation),
        test=None if data is None else _metrics(fitted, data.test),
    )


def _metrics(fitted: Fit, part: Any) -> Metrics | None:
    with seeded(0):  # the draws that `compare` makes
        return fitted.evaluate(part) if len(part.x) else None


def _words(metrics: Metrics) -> str:
    name, value = metrics.primary
    quality = f"error {value:.2%}" if name == "error" else f"RMSE {value:.4g}"
    return f"{quality}, NLL {metrics.nll:.4g} nats a point ({metrics.num_points:,} points)"


def _for_the_command_line(error: UnsupportedError) -> UnsupportedError:
    """The same error, with the option in place of the argument that `ptv.fit` has."""
    accepted = error.accepted
    if isinstance(accepted, str):
        accepted = accepted.replace("checkpoint=None", "--checkpoint-every 0")
    return UnsupportedError(error.problem, given=error.given, accepted=accepted)


__all__ = ["FitResult", "fit_recipe"]
