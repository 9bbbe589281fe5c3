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
    root: str | os.PathLike[str] | None = None,
    source: str,
) -> Path:
    """Finds the directory of a data set.

    Args:
        name: Directory of the data set below a root, for example `"mnist"`.
        files: Names of the files that must be in it.
        root: An explicit root directory; see `data_roots`.
        source: Where the files can be had, for the error message.

    Returns:
        The first directory `<root>/<name>` that has all the files.

    Raises:
        DataNotFoundError: If there is none; says where it looked and how to get the files.
    """
    looked = [base / name for base in data_roots(root)]
    for directory in looked:
        if all((directory / file).is_file() for file in files):
            return directory
    raise DataNotFoundError(
        f"the data set {name!r} is not on this machine",
        given=f"looked in {', '.join(map(str, looked))}",
        accepted=f"a directory with {', '.join(files)} (get them from {source}), placed in one of "
        f"those or below the directory named by {ENVIRONMENT_VARIABLE} as {name}/",
    )
