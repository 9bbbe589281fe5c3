"""Typed errors with one root, and typed warnings.

Every message has three parts: what was wrong, what was given, what would be accepted. Each error is
also the standard exception that a caller unaware of this package would expect to catch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable


class TurboVBIError(Exception):
    """Root of all errors that this package raises on purpose.

    Args:
        problem: What is wrong, in one clause.
        given: What was received; shown with `repr` unless it is a string.
        accepted: What would have been accepted; an iterable is shown as a comma-separated list.
    """

    def __init__(
        self,
        problem: str,
        *,
        given: object = None,
        accepted: str | Iterable[object] | None = None,
    ) -> None:
        self.problem = problem
        self.given = given
        self.accepted = accepted
        super().__init__(_message(problem, given, accepted))


class InvalidArgumentError(TurboVBIError, ValueError):
    """An argument has a value outside its range or an unknown name."""


class InvalidDataError(TurboVBIError, ValueError):
    """Data is empty, not finite, of the wrong type or outside the likelihood's domain."""


class ShapeError(TurboVBIError, ValueError):
    """Tensors do not fit together."""


class SiteError(TurboVBIError, ValueError):
    """A pattern or name matches no weight site of the model."""


class SpecError(InvalidArgumentError):
    """A declarative description cannot be read."""


class UnsupportedError(TurboVBIError, RuntimeError):
    """A combination of model, prior and engine that cannot be handled; names alternatives."""


class NumericalError(TurboVBIError, RuntimeError):
    """Training produced a value that is not finite."""


class VerificationError(TurboVBIError, RuntimeError):
    """A compressed network does not compute what the masked network computes."""


class ArtifactError(TurboVBIError, ValueError):
    """A saved network is damaged, of an unknown version, or not one of ours."""


class StorageError(TurboVBIError, OSError):
    """A file cannot be written or read: no space, no permission, no directory."""

    @classmethod
    def of(cls, problem: str, path: str | os.PathLike[str], cause: OSError) -> StorageError:
        """The error that the operating system's own stands for.

        Args:
            problem: What is wrong, in one clause.
            path: The file.
            cause: The operating system's error; its number is taken over.
        """
        kind = MissingFileError if isinstance(cause, FileNotFoundError) else cls
        error = kind(f"{problem}: {cause.strerror or cause}", given=os.fspath(path))
        error.errno = cause.errno
        return error


class MissingFileError(StorageError, FileNotFoundError):
    """A file, or the directory of one that is to be written, is not there."""


class CheckpointError(TurboVBIError, RuntimeError):
    """There is no intact checkpoint, or those there are belong to another training."""


class DistributedError(TurboVBIError, RuntimeError):
    """Processes that train together cannot reach each other, or are not doing the same."""


class DataNotFoundError(TurboVBIError, FileNotFoundError, RuntimeError):
    """A data set is not on this machine; the message says how to get it."""


class DownloadError(TurboVBIError, ConnectionError):
    """A data set cannot be fetched; the message says how to do it by hand."""


class TurboVBIWarning(UserWarning):
    """Root of all warnings that this package gives on purpose."""


class TrainingWarning(TurboVBIWarning):
    """Something about a training or its data needs a look; the training goes on, or is done."""


class CheckpointWarning(TurboVBIWarning):
    """A checkpoint could not be written; the training goes on without it."""


def _message(problem: str, given: object, accepted: str | Iterable[object] | None) -> str:
    parts = [problem]
    if given is not None:
        parts.append(f"given: {given if isinstance(given, str) else repr(given)}")
    if accepted is not None:
        listed = accepted if isinstance(accepted, str) else ", ".join(str(a) for a in accepted)
        parts.append(f"accepted: {listed}")
    return "; ".join(parts)
