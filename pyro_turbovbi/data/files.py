"""Data of your own: arrays in a .npz file, images in folders by class."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyro_turbovbi.data._optional import optional
from pyro_turbovbi.data.splits import Splits, TensorPair, divide
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    StorageError,
)

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
"""Endings of the files that are taken for images."""
_MODES = {1: "L", 3: "RGB"}
_LARGEST_PIXEL = 255.0


def npz_file(
    path: str | os.PathLike[str], *, validation: float = 0.1, test: float = 0.1, seed: int = 0
) -> Splits:
    """Loads the arrays `x` and `y` of a NumPy archive and divides them.

    Args:
        path: A file from `numpy.savez(path, x=..., y=...)`.
        validation: Fraction of the points to choose settings on.
        test: Fraction of the points to report on.
        seed: Seed of the division.

    Returns:
        Inputs `[points, ...]` (float32, as they are) and targets `[points, ...]`: int64 where the
        file has integers, else float32.

    Raises:
        StorageError: If the file cannot be read.
        InvalidDataError: If it is no archive of numbers, or lacks `x` or `y`.
        ShapeError: If these have different lengths.
        InvalidArgumentError: If the fractions leave no training point.
    """
    x, y = read_arrays(Path(path), ("x", "y"))
    if not x.ndim or not y.ndim or len(x) != len(y):
        raise ShapeError(
            f"x and y of {path} have different lengths",
            given=f"{x.shape} and {y.shape}",
            accepted="the same first dimension",
        )
    integers = np.issubdtype(y.dtype, np.integer)
    targets = torch.from_numpy(y.astype(np.int64 if integers else np.float32))
    pair = TensorPair(torch.from_numpy(x.astype(np.float32)), targets)
    return divide(pair, validation=validation, test=test, seed=seed)


def image_folder(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    *,
    channels: int = 3,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Loads images that lie in one folder a class.

    Either `path/<class>/<image>`, which is divided at random, or `path/train/<class>/<image>` and
    `path/test/<class>/<image>`, of which the training images are divided.

    Args:
        path: The folder.
        size: Height and width that images are scaled to; None: they must have one size.
        channels: 3 for colours, 1 for shades of grey.
        validation: Fraction of the (training) images to choose settings on.
        test: Fraction of the images to report on, where there is no folder `test`.
        seed: Seed of the division.

    Returns:
        Inputs `[points, channels, height, width]` (float32, pixels scaled to [0, 1]) and labels
        `[points]` (int64) in the order of the folders' names, which are `Splits.classes`.

    Raises:
        StorageError: If there is no such folder.
        InvalidDataError: If there are no images, fewer than two classes, images of several sizes,
            or a file that is no image.
        InvalidArgumentError: If the fractions leave no training image, or `channels` is unknown.
        UnsupportedError: If Pillow is not installed.
    """
    root = Path(path)
    if channels not in _MODES:
        raise InvalidArgumentError("channels is unknown", given=channels, accepted=_MODES)
    if not (root / "train").is_dir() or not (root / "test").is_dir():
        names = _class_names(root)
        everything = _images(root, names, channels, size)
        splits = divide(everything, validation=validation, test=test, seed=seed)
        return replace(splits, classes=tuple(names), pixels=True)
    names = _class_names(root / "train")
    train, held_out = (_images(root / part, names, channels, size) for part in ("train", "test"))
    if train.x.shape[1:] != held_out.x.shape[1:]:
        raise InvalidDataError(
            f"training and test images of {root} have different sizes",
            given=f"{_by(train.x.shape)} and {_by(held_out.x.shape)}",
            accepted="images of one size, or size=(height, width)",
        )
    parts = divide(train, validation=validation, test=0.0, seed=seed)
    return Splits(parts.train, parts.validation, held_out, classes=tuple(names), pixels=True)


# Arrays ----------------------------------------------------------------------------------------


def read_arrays(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Arrays of numbers from a NumPy archive, by name.

    Raises:
        StorageError: If the file cannot be read.
        InvalidDataError: If it is no archive of numbers, or lacks one of them.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if missing := [name for name in names if name not in file]:
                raise InvalidDataError(
                    f"{path} has no array {missing[0]!r}",
                    given=sorted(file),
                    accepted=" and ".join(names),
                )
            arrays = [file[name] for name in names]
    except OSError as error:
        raise StorageError.of("the file cannot be read", path, error) from error
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, InvalidDataError):
            raise
        raise _no_archive(path) from error
    if not all(_is_real(a.dtype) for a in arrays):
        raise InvalidDataError(
            f"{path} holds no real numbers",
            given=" and ".join(str(a.dtype) for a in arrays),
            accepted="real numbers",
        )
    return arrays


def _is_real(dtype: np.dtype[Any]) -> bool:
    return any(np.issubdtype(dtype, kind) for kind in (np.integer, np.floating, np.bool_))


def _no_archive(path: Path) -> InvalidDataError:
    accepted = "a file from numpy.savez(path, x=..., y=...)"
    return InvalidDataError(f"{path} is no NumPy archive", accepted=accepted)


# Images ----------------------------------------------------------------------------------------


def _class_names(root: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in root.iterdir() if _image_files(entry))
    except OSError as error:
        raise StorageError.of("the folder cannot be read", root, error) from error
    if len(names) < 2:
        raise InvalidDataError(
            f"{root} has no two classes of images",
            given=f"folders with images: {', '.join(names) or 'none'}",
            accepted=f"one folder a class, images ending in {', '.join(IMAGES)}",
        )
    return names


def _image_files(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file for file in files if file.suffix.lower() in IMAGES]


def _images(
    root: Path, names: Sequence[str], channels: int, size: tuple[int, int] | None
) -> TensorPair:
    """All images below the folders of the classes."""
    unknown = [e.name for e in root.iterdir() if _image_files(e) and e.name not in names]
    if unknown:
        raise InvalidDataError(
            f"{root} has a class without training images", given=unknown[0], accepted=names
        )
    found = [
        (file, label) for label, name in enumerate(names) for file in _image_files(root / name)
    ]
    pixels = list(read_images([file for file, _ in found], channels, size))
    shapes = {image.shape for image in pixels}
    if len(shapes) != 1:
        raise InvalidDataError(
            f"the images of {root} have several sizes",
            given=", ".join(sorted(map(_by, shapes))) or "no image",
            accepted="images of one size, or size=(height, width)",
        )
    labels = torch.tensor([label for _, label in found])
    return TensorPair(torch.from_numpy(np.stack(pixels)), labels)


def read_images(
    files: Sequence[Path], channels: int, size: tuple[int, int] | None
) -> Iterator[npt.NDArray[np.float32]]:
    """Images `[channels, height, width]`, one after the other, pixels scaled to [0, 1].

    Args:
        files: Their files.
        channels: 3 for colours, 1 for shades of grey.
        size: Height and width that they are scaled to; None: as they are.

    Raises:
        InvalidDataError: If a file is no image that can be read.
        UnsupportedError: If Pillow is not installed.
    """
    pillow = optional("PIL.Image", "image files need Pillow, which is not installed", "data")
    for file in files:
        try:
            with pillow.open(file) as image:
                plain = image.convert(_MODES[channels])
                if size is not None:
                    plain = plain.resize(size[::-1])  # width first
                pixels = np.asarray(plain, dtype=np.float32) / _LARGEST_PIXEL
        except OSError as error:  # Pillow's own errors are OSErrors
            raise InvalidDataError(
                f"{file} is no image that can be read", given=type(error).__name__
            ) from error
        yield pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _by(shape: Sequence[int]) -> str:
    """Height and width."""
    return f"{shape[-2]}x{shape[-1]}"


__all__ = ["IMAGES", "image_folder", "npz_file", "read_arrays", "read_images"]
