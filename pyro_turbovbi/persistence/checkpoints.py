"""The checkpoints of one training in a directory: the latest ones and the best.

Every checkpoint is a file of its own with the whole state, called after the steps that were done. A
new one is complete on the disk before an old one goes, and each has a checksum, so that whatever
happens to the process or to a file, the one before it is there.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pyro_turbovbi.batches import Data
from pyro_turbovbi.errors import ArtifactError, CheckpointError, InvalidArgumentError, StorageError
from pyro_turbovbi.persistence.container import pack, unpack
from pyro_turbovbi.persistence.files import read, remove_drafts, write_atomically
from pyro_turbovbi.persistence.trees import Tree

#: What the file of a checkpoint says that it is.
KIND = "checkpoint"

_LOGGER = logging.getLogger("pyro_turbovbi")
_NAME = re.compile(r"step-(\d{9})\.safetensors")


@dataclass(frozen=True)
class Checkpoints:
    """Where checkpoints of a training are kept, and which.

    Args:
        directory: The directory, of this training alone; it is made if need be.
        keep: How many of the latest ones to keep; the best one stays beside them.
        every_steps: Write one also within an epoch, after so many steps; None: at ends of epochs
            alone.
        validation: Data whose ELBO says which checkpoint is the best; None: that of the training
            data, as the epoch's mean. Early in a training the ELBO refers to a prior that is still
            being annealed.

    Raises:
        InvalidArgumentError: If a number is out of range.
    """

    directory: str | os.PathLike[str]
    keep: int = 2
    every_steps: int | None = None
    validation: Data | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("keep", "every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgumentError(
                    f"{name} of checkpoints is out of range", given=value, accepted="1, 2, ..."
                )


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One checkpoint on the disk.

    Attributes:
        step: Steps of the training that were done.
        score: ELBO in nats by which the best is chosen; None where there is none, as within an
            epoch.
        state: The state of the training.
    """

    step: int
    score: float | None
    state: Tree


class CheckpointStore:
    """A directory of checkpoints.

    Args:
        directory: The directory; it is made if need be.
        keep: How many of the latest ones to keep, besides the best.

    Raises:
        StorageError: If there can be no such directory.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int) -> None:
        self.directory, self._keep = Path(directory), keep
        self._scores: dict[int, float | None] = {}  # of the intact ones, by step
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError.of("the directory cannot be made", directory, error) from error
        remove_drafts(self.directory)

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints on the disk, damaged ones too, in order."""
        return [int(path.stem.removeprefix("step-")) for path in checkpoint_files(self.directory)]

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint of the highest score, the latest of equal ones; None: no score."""
        scored = [(score, step) for step, score in self._scores.items() if score is not None]
        return max(scored)[1] if scored else None

    def write(self, step: int, score: float | None, state: Tree) -> None:
        """Write a checkpoint; then remove what needs no longer be kept.

        Args:
            step: Steps that are done.
            score: See `Checkpoint`.
            state: The state.

        Raises:
            StorageError: If it cannot be written; all earlier ones are there.
            UnsupportedError: If something in the state cannot be stored.
        """
        tree = {"step": step, "score": score, "state": state}
        write_atomically(self._path(step), pack(KIND, tree))
        self._scores[step] = score
        kept = {*sorted(self._scores)[-self._keep :], self.best_step}
        for old in [s for s in self._scores if s not in kept]:
            self._remove(old)

    def newest(self) -> Checkpoint:
        """The newest checkpoint that is intact. Damaged ones are reported to the log.

        Raises:
            CheckpointError: If none is.
        """
        found: Checkpoint | None = None
        for checkpoint in self._intact():
            self._scores[checkpoint.step] = checkpoint.score
            found = found or checkpoint
        return self._existing(found)

    def best(self) -> Checkpoint:
        """The intact checkpoint of the highest score.

        Raises:
            CheckpointError: If there is none with a score.
        """
        scored = (c for c in self._intact() if c.score is not None)
        return self._existing(max(scored, key=lambda c: (c.score, c.step), default=None))

    def clear(self) -> None:
        """Remove all checkpoints, and the directory unless it holds something else."""
        with suppress(OSError):
            for file in checkpoint_files(self.directory):
                file.unlink()
            self.directory.rmdir()
        self._scores.clear()

    def _intact(self) -> Iterator[Checkpoint]:
        """From the newest to the oldest."""
        for step in reversed(self.steps):
            path = self._path(step)
            try:
                yield Checkpoint(**unpack(KIND, read(path)))
            except (ArtifactError, StorageError) as error:
                _LOGGER.warning("checkpoint %s is left out: %s", path, error)

    def _existing(self, found: Checkpoint | None) -> Checkpoint:
        if found is None:
            raise CheckpointError(
                "there is no intact checkpoint to go on from",
                given=f"{len(self.steps)} damaged or unfit ones in {self.directory}",
                accepted="the directory of an interrupted training, or another one to start anew",
            )
        return found

    def _remove(self, step: int) -> None:
        try:
            self._path(step).unlink(missing_ok=True)
        except OSError as error:
            path = self._path(step)
            raise StorageError.of("an old checkpoint cannot be removed", path, error) from error
        del self._scores[step]

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:09d}.safetensors"


def checkpoint_files(directory: Path) -> list[Path]:
    """Files of all checkpoints in a directory, in the order of their steps.

    Args:
        directory: The directory; none are in one that does not exist.
    """
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
