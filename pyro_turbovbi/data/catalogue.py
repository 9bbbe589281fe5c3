"""Which data sets there are, and where they were found on this machine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyro_turbovbi.data.cifar import find_cifar10, find_cifar100
from pyro_turbovbi.data.mnist import find_fashion_mnist, find_mnist
from pyro_turbovbi.data.uci import SOURCE, find_uci
from pyro_turbovbi.errors import DataNotFoundError, InvalidArgumentError


@dataclass(frozen=True)
class DataSet:
    """A data set that a recipe can name.

    Attributes:
        name: Its `kind` in a recipe.
        content: What it is.
        found: Where it is on this machine; None if it is not.
        get: How to get it, or what to do with it.
    """

    name: str
    content: str
    found: str | None
    get: str


def catalogue(root: str | os.PathLike[str] | None = None) -> list[DataSet]:
    """All data sets.

    Args:
        root: Where to look; else the usual places, see `location.data_roots`.
    """
    return [
        _bundled("digits", "8x8 images of digits, 1,797"),
        _bundled("diabetes", "regression, 10 inputs, 442 points"),
        _on_disk("mnist", "28x28 images of digits, 60,000 and 10,000", find_mnist, root),
        _on_disk(
            "fashion_mnist", "28x28 images of clothes, 60,000 and 10,000", find_fashion_mnist, root
        ),
        _on_disk("cifar10", "32x32 colour images, 50,000 and 10,000", find_cifar10, root),
        _on_disk("cifar100", "32x32 colour images, 100 classes", find_cifar100, root),
        _uci(root),
        DataSet("recovery", "sparse regression with known truth", "made by a seed", ""),
        DataSet("gated_recovery", "the same, with whole inputs unused", "made by a seed", ""),
        DataSet("csv_file", "your table", "your file", "ptv fit ... --data FILE.csv --target NAME"),
        DataSet(
            "parquet_file",
            "your table",
            "your file",
            "ptv fit ... --data FILE.parquet --target NAME",
        ),
        DataSet("npz_file", "your arrays x and y", "your file", "ptv fit ... --data FILE.npz"),
        DataSet("image_folder", "your images, a folder a class", "your folder", "--data FOLDER"),
    ]


def find(name: str, root: str | os.PathLike[str] | None = None) -> DataSet:
    """One of the data sets.

    Raises:
        InvalidArgumentError: If there is none of that name.
        DataNotFoundError: If it is not on this machine; says how to get it.
    """
    known = {each.name: each for each in catalogue(root)}
    if name not in known:
        raise InvalidArgumentError("unknown data set", given=name, accepted=known)
    if known[name].found is None:
        raise DataNotFoundError(
            f"the data set {name!r} is not on this machine", accepted=known[name].get
        )
    return known[name]


def _bundled(name: str, content: str) -> DataSet:
    there = importlib.util.find_spec("sklearn") is not None
    found = "comes with scikit-learn" if there else None
    return DataSet(name, content, found, 'pip install "pyro-turbovbi[demo]"')


def _on_disk(
    name: str,
    content: str,
    finder: Callable[[str | os.PathLike[str] | None], Path],
    root: str | os.PathLike[str] | None,
) -> DataSet:
    try:
        return DataSet(name, content, str(finder(root)), "")
    except DataNotFoundError as error:
        return DataSet(name, content, None, f"{error.accepted}; {error.given}")


def _uci(root: str | os.PathLike[str] | None) -> DataSet:
    sets = find_uci(root)
    directories = ", ".join(dict.fromkeys(str(place.parent) for place in sets.values()))
    found = f"{directories}: {', '.join(sets)}" if sets else None
    get = f"`ptv data get uci`; or a directory uci/ from {SOURCE}"
    return DataSet("uci", "regression sets, by `name`", found, get)


__all__ = ["DataSet", "catalogue", "find"]
