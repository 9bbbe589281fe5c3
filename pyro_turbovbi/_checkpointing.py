"""What `fit` does with checkpoints: when one is due, what it holds, and what a failure means.

A checkpoint that cannot be written is no reason to lose a training: before the first step that is
an error, later a warning, once, and the training goes on with the checkpoints that there are.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

from pyro_turbovbi.batches import as_batches
from pyro_turbovbi.distributed import World
from pyro_turbovbi.engines.protocol import Resumable
from pyro_turbovbi.errors import (
    CheckpointError,
    CheckpointWarning,
    InvalidArgumentError,
    TurboVBIError,
    UnsupportedError,
)
from pyro_turbovbi.persistence.checkpoints import Checkpoint, Checkpoints, CheckpointStore
from pyro_turbovbi.persistence.identity import Identity, differences
from pyro_turbovbi.persistence.trees import Tree

if TYPE_CHECKING:
    from pyro_turbovbi._run import Run

#: How `fit` deals with checkpoints that are there.
Resume = bool | Literal["auto", "best"]
_RESUME = (True, False, "auto", "best")


class Keeper:
    """Keeps the checkpoints of one run.

    Args:
        settings: Where, and which.
        every: Epochs between two.
        world: The processes that train together; the first one has the files.

    Raises:
        InvalidArgumentError: If `every` is not positive.
        StorageError: If there can be no such directory.
    """

    def __init__(self, settings: Checkpoints, every: int, world: World) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InvalidArgumentError(
                "checkpoint_every is out of range", given=every, accepted="1, 2, ... epochs"
            )
        self._settings, self._every, self._world = settings, every, world
        self._store = world.first_one(lambda: CheckpointStore(settings.directory, settings.keep))
        self._identity: Identity = {}
        self._failed = False

    def begin(self, run: Run, resume: Resume) -> None:
        """Before the first step: go on from a checkpoint, or write the first one.

        Args:
            run: The run, at its start.
            resume: See `ptv.fit`.

        Raises:
            CheckpointError: If `resume` does not fit what is in the directory.
            InvalidArgumentError: If `resume` is something else.
            StorageError: If the first checkpoint cannot be written.
            UnsupportedError: If this kind of training cannot be stored.
        """
        self._check(run, resume)
        self._identity = run.identity()
        state = self._world.first_one(lambda: self._found(run, resume))
        if state is not None:
            run.load(state)

    def after_epoch(self, run: Run) -> None:
        """Write a checkpoint if one is due; the last epoch's is always."""
        done = len(run.history)
        if done % self._every == 0 or done == run.epochs:
            self._try_to_write(run, self._score(run))

    def after_step(self, run: Run) -> None:
        """Write a checkpoint within an epoch if one is due."""
        every = self._settings.every_steps
        if every is not None and run.steps_done % every == 0:
            self._try_to_write(run, None)

    def _found(self, run: Run, resume: Resume) -> Tree:
        """The state to go on from; None where there was none: then the first is written."""
        if resume is not True and resume != "best" and not self._store.steps:
            self._write(run, None)
            return None
        if resume is False:
            raise CheckpointError(
                "the directory holds checkpoints already",
                given=str(self._settings.directory),
                accepted='resume="auto" or True to go on from them, another directory, or an empty '
                "one",
            )
        best = resume == "best"
        found: Checkpoint = self._store.best() if best else self._store.newest()
        differing = differences(self._identity, found.state["identity"])
        if differing:
            raise CheckpointError(
                "the checkpoints are of another training",
                given=differing,
                accepted="the same net, prior, data and settings, or another directory",
            )
        return found.state["run"]

    def _try_to_write(self, run: Run, score: float | None) -> None:
        try:
            self._write(run, score)
        except TurboVBIError as error:
            if not self._failed:
                warnings.warn(
                    f"a checkpoint could not be written: {error}. Training goes on; earlier "
                    "checkpoints are intact, and later ones will be tried",
                    CheckpointWarning,
                    stacklevel=5,
                )
            self._failed = True

    def _write(self, run: Run, score: float | None) -> None:
        saved: Tree = run.saved()
        run.mark_good(saved)  # in all processes: they go back together
        if not self._world.first:
            return
        state = {"identity": self._identity, "run": saved}
        self._store.write(run.steps_done, score, state)

    def _score(self, run: Run) -> float:
        if self._settings.validation is None:
            return run.history[-1].elbo
        size = run.training.batch_size
        return run.elbo_of(as_batches(self._settings.validation, batch_size=size, shuffle=False))

    def _check(self, run: Run, resume: object) -> None:
        if resume not in _RESUME:
            raise InvalidArgumentError("resume is unknown", given=resume, accepted=_RESUME)
        if not isinstance(run.state, Resumable):
            raise UnsupportedError(
                f"a training with engine {run.engine.name!r} cannot be interrupted and resumed",
                given=f"{type(run.state).__name__} without state_dict and load_state_dict",
                accepted='engines.Turbo() with weights="diagonal", engines.SVI(), engines.MAP(), '
                "or checkpoint=None",
            )
        if not run.random.repeats(run.batches):
            raise UnsupportedError(
                "the data come in another way when they are read again under the same random "
                "state, so that a training cannot be resumed",
                accepted="an order and transforms that draw from torch's generators, or "
                "checkpoint=None",
            )
