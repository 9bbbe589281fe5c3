"""Where data sets lie on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pyro_turbovbi.errors import DataNotFoundError

ENVIRONMENT_VARIABLE = "PYRO_TURBOVBI_DATA"


def cache_directory() -> Path:
    """The user's cache directory, `~/.cache/pyro_turbovbi`; it need not exist."""
    return Path.home() / ".cache" / "pyro_turbovbi"


def data_roots(root: str | os.PathLike[str] | None = None) -> tuple[Path, ...]:
    """Lists the directories that are searched, in order.

    Args:
        root: An explicit choice; nothing else is searched then.

    Returns:
        `root` alone; else the directory named by `PYRO_TURBOVBI_DATA` alone; else
        `~/.cache/pyro_turbovbi` and `../shared/data` beside the checkout. An explicit choice is
        never overruled by a default, so that a typing error in it cannot load other data.
    """
    if root is not None:
        return (Path(root).expanduser(),)
    if chosen := os.environ.get(ENVIRONMENT_VARIABLE):
        return (Path(chosen).expanduser(),)
    beside_checkout = Path(__file__).resolve().parents[3] / "shared" / "data"
    return (cache_directory(), beside_checkout)


def locate(
    name: str,
    files: Sequence[str],
    *,
    directory: str | None = None,
    root: str | os.PathLike[str] | None = None,
    source: str,
) -> Path:
    """Finds the directory of a data set.

    Args:
        name: The data set, as `ptv data get` takes it, for example `"mnist"`.
        files: Names of the files that must be in its directory.
        directory: That directory below a root; None: it has the data set's name.
        root: An explicit root directory; see `data_roots`.
        source: Where the files can be had, for the error message.

    Returns:
        The first `<root>/<directory>` that has all the files.

    Raises:
        DataNotFoundError: If there is none; says where it looked and how to get the files.
    """
    directory = directory or name
    looked = [base / directory for base in data_roots(root)]
    for place in looked:
        if complete(place, files):
            return place
    raise DataNotFoundError(
        f"the data set {name!r} is not on this machine",
        given=f"looked in {', '.join(map(str, looked))}",
        accepted=f"`ptv data get {name}`; or a directory with {', '.join(files)} (from {source}), "
        f"placed in one of those or below the directory named by {ENVIRONMENT_VARIABLE} as "
        f"{directory}/",
    )


def complete(directory: Path, files: Sequence[str]) -> bool:
    """Whether a directory has all the files."""
    return all((directory / file).is_file() for file in files)
