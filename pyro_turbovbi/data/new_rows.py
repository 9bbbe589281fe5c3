"""Rows that come after the training: read as its data were, without targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_turbovbi.data.files import IMAGES, read_arrays, read_images
from pyro_turbovbi.data.form import DataForm
from pyro_turbovbi.data.tables import read_columns
from pyro_turbovbi.errors import InvalidDataError, StorageError

TABLES = (".csv", ".parquet")
"""Endings of the files that are taken for tables."""
_ARRAYS = ".npz"


class NewRows(NamedTuple):
    """Inputs without targets.

    Attributes:
        names: How each row is called: its number from 1 on, or the file of an image.
        x: Inputs `[rows, ...]` as the net takes them.
    """

    names: Sequence[int | str]
    x: Tensor


def read_rows(path: Path, form: DataForm, *, resize: bool = False) -> NewRows:
    """Reads rows of the form of a training's data.

    Args:
        path: A table with the columns of the inputs (others do not matter), a .npz file with the
            array `x`, an image, or a folder with images in it or in folders below it.
        form: Names and units of the data that were trained on.
        resize: Whether images are scaled to the size that was trained on; else they must have it.

    Raises:
        StorageError: If the file cannot be read.
        InvalidDataError: If it is of another kind than the data that were trained on, lacks a
            column, or has a value that is no finite number or an image of another size.
        ShapeError: If arrays have another shape.
        UnsupportedError: If a package that reads the file is not installed.
    """
    names: Sequence[int | str]
    kind = path.suffix.lower()
    if path.is_dir() or kind in IMAGES:
        names, x = _images(path, form, resize=resize)
    elif kind in TABLES:
        names, x = _table(path, form)
    elif kind == _ARRAYS:
        names, x = _array(path)
    else:
        raise InvalidDataError(
            "rows are not read from such a file",
            given=str(path),
            accepted=f"a file ending in {', '.join((*TABLES, _ARRAYS, *IMAGES))}, or a folder",
        )
    return NewRows(names, form.inputs(x))


def _table(path: Path, form: DataForm) -> tuple[Sequence[int], Tensor]:
    if form.columns is None:
        raise InvalidDataError(
            "the data that were trained on have no names of columns",
            given=str(path),
            accepted=_instead(form),
        )
    x = read_columns(path, form.columns)
    return _numbered(x), x


def _array(path: Path) -> tuple[Sequence[int], Tensor]:
    values = read_arrays(path, ("x",))[0]
    if not values.ndim or not len(values):
        raise InvalidDataError(f"x of {path} has no rows", given=str(values.shape))
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise InvalidDataError(
            f"{path}, row {int(finite.argmin()) + 1} of x holds a value that is not finite",
            accepted="finite numbers",
        )
    x = torch.from_numpy(values)
    return _numbered(x), x


def _images(path: Path, form: DataForm, *, resize: bool) -> tuple[Sequence[str], Tensor]:
    if not form.pixels or form.shape is None:
        raise InvalidDataError(
            "the data that were trained on are no images",
            given=str(path),
            accepted=_instead(form),
        )
    files, root = _files(path)
    channels, *size = form.shape
    found = []
    scaled = (size[0], size[1]) if resize else None
    for file, image in zip(files, read_images(files, channels, scaled), strict=True):
        if list(image.shape[1:]) != size:
            raise InvalidDataError(
                f"{file} has another size than the images that were trained on",
                given=f"{image.shape[1]}x{image.shape[2]}",
                accepted=f"{size[0]}x{size[1]}, height and width",
            )
        found.append(image)
    return [file.relative_to(root).as_posix() for file in files], torch.from_numpy(np.stack(found))


def _files(path: Path) -> tuple[list[Path], Path]:
    """Files of images, and the folder that they are named by."""
    if not path.is_dir():
        return [path], path.parent
    try:
        near = sorted([*path.iterdir(), *path.glob("*/*")])
    except OSError as error:
        raise StorageError.of("the folder cannot be read", path, error) from error
    files = [file for file in near if file.suffix.lower() in IMAGES and file.is_file()]
    if not files:
        raise InvalidDataError(
            f"{path} has no images", accepted=f"files ending in {', '.join(IMAGES)}"
        )
    return files, path


def _numbered(x: Tensor) -> range:
    return range(1, len(x) + 1)


def _instead(form: DataForm) -> str:
    """What is read for data of this form, in words."""
    if form.pixels:
        return f"an image, a folder of images, or a {_ARRAYS} file with the array x"
    tables = "" if form.columns is None else f"a table ({' or '.join(TABLES)}), or "
    return f"{tables}a {_ARRAYS} file with the array x"


__all__ = ["TABLES", "NewRows", "read_rows"]
