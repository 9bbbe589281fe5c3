"""Tables of your own, in a CSV or a Parquet file: one column is predicted from the others."""

from __future__ import annotations

import csv
import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_turbovbi.data._optional import optional
from pyro_turbovbi.data.splits import Splits, TensorPair, divide
from pyro_turbovbi.errors import InvalidDataError, StorageError


def csv_file(
    path: str | os.PathLike[str],
    target: str,
    *,
    classes: bool | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Loads a table with a header, one column of which is to be predicted, and divides it.

    All other columns are inputs and must hold numbers; they are standardised with the mean and
    standard deviation of the training points. So are targets, unless they are classes.

    Args:
        path: A file of comma-separated values in UTF-8.
        target: Name of the column to predict.
        classes: Whether the target is a class; None: it is one where it holds text.
        validation: Fraction of the points to choose settings on.
        test: Fraction of the points to report on.
        seed: Seed of the division.

    Returns:
        Inputs `[points, columns]` (float32) and targets `[points]`: float32, or classes as int64 in
        the order of their names.

    Raises:
        StorageError: If the file cannot be read.
        InvalidDataError: If it has no such column, no rows, or a value that is no finite number.
        InvalidArgumentError: If the fractions leave no training point.
    """
    table = _read_csv(Path(path))
    return _splits(table, target, classes, validation=validation, test=test, seed=seed)


def parquet_file(
    path: str | os.PathLike[str],
    target: str,
    *,
    classes: bool | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Loads a table from a Parquet file; in everything else like `csv_file`.

    Args:
        path: The file.
        target: Name of the column to predict.
        classes: Whether the target is a class; None: it is one where it holds text or truth values.
        validation: Fraction of the points to choose settings on.
        test: Fraction of the points to report on.
        seed: Seed of the division.

    Returns:
        Inputs `[points, columns]` (float32; truth values are 0 and 1) and targets `[points]`:
        float32, or classes as int64 in the order of their names.

    Raises:
        StorageError: If the file cannot be read.
        InvalidDataError: If it has no such column, no rows, a missing value, or one that is no
            finite number.
        InvalidArgumentError: If the fractions leave no training point.
        UnsupportedError: If pyarrow is not installed.
    """
    table = _read_parquet(Path(path))
    return _splits(table, target, classes, validation=validation, test=test, seed=seed)


@dataclass(frozen=True)
class _Table:
    """Columns as they are in the file.

    Attributes:
        path: The file.
        names: Of the columns, in order.
        columns: In that order: numbers, truth values, or texts. What is missing is NaN, None or "".
        places: How messages call each row.
    """

    path: Path
    names: Sequence[str]
    columns: Sequence[Sequence[Any] | npt.NDArray[Any]]
    places: Sequence[str]

    def column(self, name: str) -> Sequence[Any] | npt.NDArray[Any]:
        return self.columns[self.names.index(name)]

    def cell(self, row: int, name: str) -> str:
        return f"{self.path}, {self.places[row]}, column {name!r}"


def _splits(
    table: _Table,
    target: str,
    classes: bool | None,
    *,
    validation: float,
    test: float,
    seed: int,
) -> Splits:
    names = list(table.names)
    if len(set(names)) < len(names):
        raise InvalidDataError(f"{table.path} names a column twice", given=names)
    if target not in names:
        raise InvalidDataError(f"{table.path} has no column {target!r}", accepted=names)
    if len(names) < 2:
        raise InvalidDataError(
            f"{table.path} has one column alone", accepted="inputs beside the target"
        )
    inputs = [_numbers(table, name) for name in names if name != target]
    labelled = _holds_classes(table.column(target)) if classes is None else classes
    y, labels = (
        _labels(table, target)
        if labelled
        else (torch.from_numpy(_numbers(table, target, text=_MIXED)), None)
    )
    everything = TensorPair(torch.from_numpy(np.stack(inputs, axis=1)), y)
    splits = divide(everything, validation=validation, test=test, seed=seed)
    named = replace(
        splits,
        columns=tuple(name for name in names if name != target),
        target=target,
        classes=labels,
    )
    return named.standardised(targets=not labelled)


def read_columns(path: Path, names: Sequence[str]) -> Tensor:
    """Some columns of a table, by name; others in it do not matter.

    Args:
        path: A Parquet file, by its suffix; else comma-separated values.
        names: The columns.

    Returns:
        Numbers `[rows, columns]`, float64.

    Raises:
        StorageError: If the file cannot be read.
        InvalidDataError: If a column is missing or there twice, or a value is no finite number.
        UnsupportedError: If it is a Parquet file and pyarrow is not installed.
    """
    parquet = path.suffix.lower() == ".parquet"
    table = _read_parquet(path, names) if parquet else _read_csv(path)
    _require(path, table.names, names)
    return torch.from_numpy(np.stack([_numbers(table, name) for name in names], axis=1))


def _require(path: Path, found: Sequence[str], names: Sequence[str]) -> None:
    """Refuses a table that lacks a column, or has it twice."""
    for name in names:
        if found.count(name) > 1:
            raise InvalidDataError(f"{path} names a column twice", given=list(found))
        if name not in found:
            close = difflib.get_close_matches(name, [each for each in found if each not in names])
            hint = f" (is it {close[0]!r}?)" if close else ""
            raise InvalidDataError(
                f"{path} has no column {name!r}{hint}",
                given=", ".join(found),
                accepted=f"a table with the columns {', '.join(names)}",
            )


# Values ----------------------------------------------------------------------------------------


_INPUT = "a number; classes as text are for the target alone"
_MIXED = "numbers alone, or text alone; classes=True (ptv init --classes) takes both for classes"


def _numbers(table: _Table, name: str, text: str = _INPUT) -> npt.NDArray[np.float64]:
    """A column as numbers; `text` is what to do about other text."""
    column = table.column(name)
    try:
        values = np.array(column, dtype=np.float64)  # a copy: Arrow's own may not be written
    except (TypeError, ValueError):
        values = np.array([float(x) if _is_number(x) else math.nan for x in column])
    if not np.isfinite(values).all():
        row = int(np.isfinite(values).argmin())
        given = _plain(column[row])
        raise InvalidDataError(
            f"{table.cell(row, name)} holds no finite number",
            given=repr(given),
            accepted=text if isinstance(given, str) and given.strip() else _INPUT,
        )
    return values


def _holds_classes(column: Sequence[Any] | npt.NDArray[Any]) -> bool:
    return not any(_is_number(value) and not isinstance(_plain(value), bool) for value in column)


def _labels(table: _Table, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Classes as numbers, and their names.

    They are in the order of their values if all are numbers, else by name.
    """
    values = [_plain(value) for value in table.column(name)]
    for row, value in enumerate(values):
        if value is None or value == "" or value != value:  # NaN alone differs from itself
            raise InvalidDataError(
                f"{table.cell(row, name)} is empty", given=repr(value), accepted="a class"
            )
    names = sorted(set(values), key=str)
    if all(map(_is_number, names)):
        names.sort(key=float)
    label = {value: number for number, value in enumerate(names)}
    return torch.tensor([label[value] for value in values]), tuple(map(str, names))


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _plain(value: Any) -> Any:
    """A value of an array as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


# Files -----------------------------------------------------------------------------------------


def _read_csv(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise StorageError.of("the file cannot be read", path, error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidDataError(
            f"{path} is no table", given=str(error), accepted="comma-separated values in UTF-8"
        ) from error
    if len(rows) < 2:
        raise _no_rows(path, f"{len(rows)} lines")
    names = [name.strip() for name in rows[0][1]]
    for line, row in rows[1:]:
        if len(row) != len(names):
            raise InvalidDataError(
                f"{path}, line {line} does not fit the header",
                given=f"{len(row)} values",
                accepted=f"{len(names)} values",
            )
    columns = list(zip(*(row for _, row in rows[1:]), strict=True))
    return _Table(path, names, columns, [f"line {line}" for line, _ in rows[1:]])


def _read_parquet(path: Path, wanted: Sequence[str] | None = None) -> _Table:
    """All columns, or those that are wanted."""
    problem = "Parquet files need pyarrow, which is not installed"
    arrow = optional("pyarrow", problem, "data", given=str(path))
    parquet = optional("pyarrow.parquet", problem, "data", given=str(path))
    try:
        with path.open("rb") as file:
            read = parquet.ParquetFile(file).read()
    except (OSError, arrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # Arrow's own have no number
            raise StorageError.of("the file cannot be read", path, error) from error
        raise InvalidDataError(f"{path} is no Parquet file that can be read") from error
    if not read.num_rows:
        raise _no_rows(path, "0 rows")
    if wanted is not None:
        _require(path, read.column_names, wanted)
        read = read.select(list(wanted))
    columns = [
        _values(arrow, path, *each) for each in zip(read.column_names, read.columns, strict=True)
    ]
    return _Table(path, read.column_names, columns, [f"row {n + 1}" for n in range(read.num_rows)])


def _values(arrow: Any, path: Path, name: str, column: Any) -> npt.NDArray[Any]:
    """A column of numbers, truth values or texts as an array."""
    types = arrow.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_decimal(column.type):
        column = column.cast(arrow.float64())
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    if not any(fits(column.type) for fits in kinds + texts):
        raise InvalidDataError(
            f"{path}, column {name!r} is of a type that is neither number nor text",
            given=str(column.type),
            accepted="integers, floats, decimals, truth values; text for the target",
        )
    values: npt.NDArray[Any] = column.to_numpy()
    return values


def _no_rows(path: Path, given: str) -> InvalidDataError:
    return InvalidDataError(f"{path} is no table", given=given, accepted="a header and rows")


__all__ = ["csv_file", "parquet_file", "read_columns"]
