"""Callbacks of `fit`: what is told while a training runs.

A callback is anything that can be called with the record of an epoch and a function that gives a
`Fit` of the present state.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.fit import Snapshot
from pyro_turbovbi.result import EpochRecord


@runtime_checkable
class Writer(Protocol):
    """The part of TensorBoard's `SummaryWriter` that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Writes one number."""

    def flush(self) -> None:
        """Has all that was written appear."""

    def close(self) -> None:
        """Ends the writing."""


class TensorBoard:
    """Writes ELBO and sparsity of every epoch for TensorBoard, while the training runs.

    Scalars, by epoch: `elbo` in nats; `left/all`, the share of all weights with P(kept) > 1/2;
    `left/<site>`, that of every site; `seconds` since the start. A training that is resumed goes on
    in the same curves: what an interrupted one wrote of later epochs is dropped.

    ::

        with ptv.callbacks.TensorBoard("logs/first") as board:
            fit = ptv.fit(bnn, train, callbacks=[board])

    Args:
        directory: Where the files go; `tensorboard --logdir` shows it.
        writer: What to write with in place of a new `torch.utils.tensorboard.SummaryWriter`; the
            directory is then not looked at.

    Raises:
        UnsupportedError: If the package `tensorboard` is not installed, and no writer is given.
    """

    def __init__(
        self, directory: str | os.PathLike[str] = "logs", *, writer: Writer | None = None
    ) -> None:
        self.directory = os.fspath(directory)
        self._writer = writer
        self._sizes: dict[str, int] = {}
        if writer is None:
            _summary_writer()  # before the training, not after its first epoch

    def __call__(self, record: EpochRecord, snapshot: Snapshot) -> None:
        """Writes what an epoch showed."""
        if self._writer is None:
            make = _summary_writer()
            self._writer = make(log_dir=self.directory, purge_step=record.epoch)
        if not self._sizes:
            sites = snapshot().bnn.sites
            self._sizes = {name: site.shape.numel() for name, site in sites.items()}
        for tag, value in _scalars(record, self._sizes).items():
            self._writer.add_scalar(tag, value, record.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Ends the writing; calling it again does nothing."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> TensorBoard:
        """The callback itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the files."""
        self.close()


class Supports:
    """Keeps P(s = 1) of every weight at chosen epochs, for pictures of supports that emerge.

    ::

        supports = ptv.callbacks.Supports([1, 5, 20])
        fit = ptv.fit(bnn, train, callbacks=[supports])
        fit.report(test, stages=supports.stages).save("report.html")

    Args:
        epochs: The epochs, 1, 2, ...; those that the training does not reach are left out.

    Attributes:
        stages: Probabilities by name of the stage, such as `"epoch 5"`, and of the site; on the
            CPU.

    Raises:
        InvalidArgumentError: If there is no epoch, or one is not positive.
    """

    def __init__(self, epochs: Sequence[int]) -> None:
        if not epochs or min(epochs) < 1:
            raise InvalidArgumentError(
                "the epochs are out of range", given=list(epochs), accepted="some of 1, 2, ..."
            )
        self.epochs = frozenset(epochs)
        self.stages: dict[str, Mapping[str, Tensor]] = {}

    def __call__(self, record: EpochRecord, snapshot: Snapshot) -> None:
        """Keeps the supports if the epoch is one of those."""
        if record.epoch in self.epochs:
            probs = snapshot().support_probs()
            self.stages[f"epoch {record.epoch}"] = {
                name: values.detach().cpu().clone() for name, values in probs.items()
            }


def _summary_writer() -> Callable[..., Any]:
    """TensorBoard's writer."""
    try:
        module = importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise UnsupportedError(
            "files for TensorBoard need a package that is not installed",
            given=f"{error}",
            accepted="pip install tensorboard; or a writer of your own, TensorBoard(writer=...)",
        ) from error
    found: Callable[..., Any] = module.SummaryWriter
    return found


def _scalars(record: EpochRecord, sizes: Mapping[str, int]) -> dict[str, float]:
    """What an epoch showed, by TensorBoard's tag."""
    left = {f"left/{name}": share for name, share in record.density.items()}
    total = sum(sizes[name] for name in record.density)
    kept = sum(share * sizes[name] for name, share in record.density.items())
    every = {"left/all": kept / total} if total else {}
    return {"elbo": record.elbo, "seconds": record.seconds, **every, **left}


__all__ = ["Supports", "TensorBoard", "Writer"]
