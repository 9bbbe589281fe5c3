"""Files that are complete or not there."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from uuid import uuid4

from pyro_turbovbi.errors import StorageError

#: Ends the name of a file that is still being written.
DRAFT = ".draft"


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, all or nothing.

    The content goes to a draft in the same directory, which takes the file's name when the disk has
    it. Whatever happens in between, under that name there is the old file or the new one.

    Args:
        path: Where to write.
        content: What to write.

    Raises:
        StorageError: If it cannot be written (no space, no permission, no directory); an older file
            of that name is intact then.
    """
    target = Path(path)
    draft = target.parent / f".{target.name}.{uuid4().hex}{DRAFT}"
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _write(draft, content)
        draft.replace(target)
        _synchronise(target.parent)
    except OSError as error:
        raise StorageError.of("the file cannot be written", target, error) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def read(path: str | os.PathLike[str]) -> bytes:
    """The content of a file.

    Raises:
        StorageError: If it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StorageError.of("the file cannot be read", path, error) from error


def remove_drafts(directory: Path) -> None:
    """Remove what an interrupted `write_atomically` left in a directory."""
    for draft in directory.glob(f".*{DRAFT}"):
        with contextlib.suppress(OSError):
            draft.unlink()


def _write(draft: Path, content: bytes) -> None:
    with draft.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _synchronise(directory: Path) -> None:
    """Have the disk keep the names of a directory too; Windows has no way to ask for it."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
