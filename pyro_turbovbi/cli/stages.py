"""Supports that a training passed through, in a small file of its run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_turbovbi.errors import ArtifactError, CheckpointWarning, StorageError
from pyro_turbovbi.fit import Snapshot
from pyro_turbovbi.persistence.container import pack, unpack
from pyro_turbovbi.persistence.files import read, write_atomically
from pyro_turbovbi.result import EpochRecord

SHARES = (0.3, 0.4, 0.6)
"""When supports are kept, as shares of the planned epochs: while the annealing lets them emerge."""
_KIND = "stages"


class KeptStages:
    """A callback of `fit` that keeps, at a few epochs, which weights were in use.

    A weight takes a bit, and the file is written anew at each of those epochs, so that a training
    that is killed leaves what it had passed through. Priors without a support layer leave no file.

    Args:
        file: Where to keep them; what is there of the same training stays.
        epochs: Epochs that are planned.

    Attributes:
        epochs: Those after which supports are kept; never the last one, which is the fit's.
    """

    def __init__(self, file: Path, epochs: int) -> None:
        self.epochs = {max(1, round(share * epochs)) for share in SHARES} - {epochs}
        self._file = file
        self._packed: dict[str, Any] = _packed(file)

    def __call__(self, record: EpochRecord, snapshot: Snapshot) -> None:
        """Keeps the supports if it is time.

        Warns:
            CheckpointWarning: If they cannot be written; the training goes on.
        """
        if record.epoch not in self.epochs:
            return
        probs = snapshot().posterior.support_probs()
        if not probs:
            return
        self._packed[f"epoch {record.epoch}"] = {name: _bits(p) for name, p in probs.items()}
        try:
            write_atomically(self._file, pack(_KIND, self._packed))
        except StorageError as error:
            warnings.warn(
                f"a picture of the training could not be kept: {error}. Training goes on",
                CheckpointWarning,
                stacklevel=2,
            )


def read_stages(file: Path) -> dict[str, Mapping[str, Tensor]]:
    """The supports that were kept, as `ptv.Fit.report` takes them.

    Args:
        file: The file, which need not be there.

    Returns:
        Whether each weight was in use (P(s = 1) > 1/2), boolean, by name of the stage, such as
            `"epoch 5"`, and of the site.

    Raises:
        ArtifactError: If the file is damaged.
        StorageError: If it cannot be read.
    """
    if not file.exists():
        return {}
    tree = unpack(_KIND, read(file))
    return {
        stage: {name: _mask(bits) for name, bits in sites.items()} for stage, sites in tree.items()
    }


def _packed(file: Path) -> dict[str, Any]:
    """What is in the file, packed; a file that cannot be read is no reason not to train."""
    try:
        return dict(unpack(_KIND, read(file)))
    except (ArtifactError, StorageError):
        return {}


def _bits(probs: Tensor) -> dict[str, Any]:
    """P(s = 1) of a site, as a tree: its shape, and which weights are above one half."""
    kept = (probs.detach().cpu() > 0.5).numpy()
    return {"shape": list(kept.shape), "bits": torch.from_numpy(np.packbits(kept))}


def _mask(packed: Mapping[str, Any]) -> Tensor:
    """The inverse of `_bits`, boolean."""
    shape = packed["shape"]
    bits = np.unpackbits(packed["bits"].numpy(), count=prod(shape))
    return torch.from_numpy(bits.astype(bool)).reshape(shape)


__all__ = ["SHARES", "KeptStages", "read_stages"]
