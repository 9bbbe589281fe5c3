"""Fetching data sets: verified before they get their names, complete or not there."""

from __future__ import annotations

import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from pyro_turbovbi.data.location import complete, data_roots
from pyro_turbovbi.data.sources import Source, find_sources
from pyro_turbovbi.errors import (
    DownloadError,
    InvalidDataError,
    StorageError,
    TurboVBIError,
)
from pyro_turbovbi.persistence.files import DRAFT

TIMEOUT = 30.0
"""Seconds without an answer after which a server is given up."""
_CHUNK = 1 << 16


def download(
    name: str, to: str | os.PathLike[str] | None = None, *, progress: bool = False
) -> Path:
    """Fetches a data set. No loader does so by itself.

    A file gets its name after its SHA-256 checksum has been compared with the published one, and an
    archive is unpacked after that: whatever happens, no half of a file is left. Files that are
    there and good are not fetched again.

    Args:
        name: `mnist`, `fashion_mnist`, `cifar10`, `cifar100`, `uci` (all of them) or one such as
            `uci/yacht`.
        to: Directory below which the data set's own goes. Files there that differ from the
            published ones are replaced; of an archive, those that are missing. None: the first
            place where loaders look (see `location.data_roots`), and nothing is fetched where a
            loader finds all files.
        progress: Whether to show a progress bar.

    Returns:
        The directory of the data set.

    Raises:
        InvalidArgumentError: If there is no data set of that name that can be fetched.
        DownloadError: If it cannot be fetched; says from where, and how to do it by hand.
        InvalidDataError: If what was fetched is not what was published.
        StorageError: If it cannot be written.
    """
    directories = [_provide(source, to, progress=progress) for source in find_sources(name)]
    return directories[0] if len(directories) == 1 else directories[0].parent


def _provide(source: Source, to: str | os.PathLike[str] | None, *, progress: bool) -> Path:
    places = [root / source.directory for root in data_roots(to)]
    if to is None and (found := [place for place in places if complete(place, source.files)]):
        return found[0]
    directory = places[0]
    if source.archive is not None:
        if not complete(directory, source.files):
            _fetch_archive(source, source.archive, directory, progress=progress)
        return directory
    for file in source.files:
        if not _is_good(directory / file, source.sha256[file]):
            with _workshop(directory) as workshop:
                _move(_fetch(source, file, directory, workshop, progress=progress), directory)
    return directory


def _fetch_archive(source: Source, archive: str, directory: Path, *, progress: bool) -> None:
    with _workshop(directory) as workshop:
        packed = _fetch(source, archive, directory, workshop, progress=progress)
        try:
            with tarfile.open(packed, "r:gz") as file:
                file.extractall(workshop, filter="data")
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise InvalidDataError(f"{archive} cannot be unpacked", given=str(error)) from error
        unpacked = workshop / source.directory
        if not complete(unpacked, source.files):
            raise InvalidDataError(
                f"{archive} lacks files of {source.directory}/", accepted=source.files
            )
        for path in sorted(unpacked.iterdir()):
            _move(path, directory)


@contextmanager
def _workshop(directory: Path) -> Iterator[Path]:
    """A hidden place in a directory for what is not finished, gone afterwards.

    Raises:
        StorageError: If the disk refuses something, here or in the body. What the network does must
            not come out of the body as an `OSError`.
    """
    new = [place for place in (directory, *directory.parents) if not place.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".", suffix=DRAFT) as workshop:
            yield Path(workshop)
    except BaseException as error:
        for place in new:  # only those that are empty go
            with suppress(OSError):
                place.rmdir()
        if isinstance(error, OSError) and not isinstance(error, TurboVBIError):
            raise StorageError.of("the data set cannot be written", directory, error) from error
        raise


def _fetch(source: Source, file: str, directory: Path, workshop: Path, *, progress: bool) -> Path:
    """Fetches a file from the first address that has it as it was published."""
    by_hand = f"unpacked into {directory.parent}" if source.archive else f"in {directory}"
    errors: list[TurboVBIError] = []
    for url in (base + file for base in source.urls):
        draft = workshop / file
        try:
            digest = _receive(url, draft, progress=progress)
        except _BrokenError as error:
            errors.append(
                DownloadError(
                    f"{url} cannot be fetched: {error}",
                    accepted=f"a connection to it; or that file by hand, {by_hand}",
                )
            )
            continue
        if digest == source.sha256[file]:
            return draft
        errors.append(
            InvalidDataError(
                f"{url} is not the published file",
                given=f"SHA-256 {digest}",
                accepted=source.sha256[file],
            )
        )
    raise errors[0]  # that of the publisher's own address


def _receive(url: str, draft: Path, *, progress: bool) -> str:
    """Writes what an address has to a file; its SHA-256 checksum."""
    digest = hashlib.sha256()
    with draft.open("wb") as file:
        for chunk in _chunks(url, draft.name, progress=progress):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


class _BrokenError(Exception):
    """The network did not give what was asked for; says why."""


def _chunks(url: str, title: str, *, progress: bool) -> Iterator[bytes]:
    request = urllib.request.Request(url, headers={"User-Agent": "pyro-turbovbi"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
            total = None if length is None else int(length)
            received = 0
            with _bar(title, total, progress=progress) as bar:
                while chunk := answer.read(_CHUNK):
                    received += len(chunk)
                    bar.update(len(chunk))
                    yield chunk
    except urllib.error.HTTPError as error:
        error.close()
        raise _BrokenError(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise _BrokenError(words) from error
    if total is not None and received != total:
        raise _BrokenError(f"the connection ended after {received:,} of {total:,} bytes")


def _bar(title: str, total: int | None, *, progress: bool) -> tqdm[NoReturn]:
    disable = not progress
    return tqdm(total=total, desc=title, disable=disable, unit="B", unit_scale=True, leave=False)


def _is_good(path: Path, checksum: str) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == checksum
    except OSError as error:
        raise StorageError.of("the file cannot be read", path, error) from error


def _move(path: Path, directory: Path) -> None:
    path.replace(directory / path.name)


__all__ = ["TIMEOUT", "download"]
