"""MNIST and Fashion-MNIST from their original idx files, read with numpy alone."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_turbovbi.data.location import locate
from pyro_turbovbi.data.splits import Splits, TensorPair, hold_out
from pyro_turbovbi.errors import InvalidDataError

MNIST_SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
"""Where the files of MNIST are."""
FASHION_MNIST_SOURCE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
"""Where the files of Fashion-MNIST are."""
_TRAIN = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
_TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
FILES = _TRAIN + _TEST
"""Names of the files, the same ones for both."""
DIGITS = tuple(map(str, range(10)))
"""Names of the classes of MNIST; the position is the label."""
CLOTHES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""Names of the classes of Fashion-MNIST; the position is the label."""
_LARGEST_PIXEL = 255.0
_UNSIGNED_BYTE = 0x08


def mnist(
    root: str | os.PathLike[str] | None = None,
    validation: int = 5000,
    seed: int = 0,
    *,
    flat: bool = True,
) -> Splits:
    """Loads MNIST: 60,000 training and 10,000 test images of 28x28 pixels, ten classes.

    Pixels are scaled to [0, 1] and not centred: a pixel that is always black stays exactly 0, so
    that weights on it have no effect at all and the net can lose that input.

    Args:
        root: Directory that contains `mnist/`; else the usual places (`PYRO_TURBOVBI_DATA`,
            `~/.cache/pyro_turbovbi`, `../shared/data` beside the checkout).
        validation: How many training images to hold out for choosing settings.
        seed: Seed of that choice.
        flat: Images as vectors `[points, 784]`, else as `[points, 1, 28, 28]`.

    Returns:
        Inputs (float32) and labels `[points]` (int64).

    Raises:
        DataNotFoundError: If the files are absent; says where it looked and how to get them.
        InvalidDataError: If a file is damaged.
        InvalidArgumentError: If `validation` leaves no training image.
    """
    return _load(find_mnist(root), validation, seed, DIGITS, flat=flat)


def fashion_mnist(
    root: str | os.PathLike[str] | None = None,
    validation: int = 5000,
    seed: int = 0,
    *,
    flat: bool = True,
) -> Splits:
    """Loads Fashion-MNIST: images of clothes in ten classes, in everything else like `mnist`.

    Args:
        root: Directory that contains `fashion_mnist/`; else the usual places (see `mnist`).
        validation: How many training images to hold out for choosing settings.
        seed: Seed of that choice.
        flat: Images as vectors `[points, 784]`, else as `[points, 1, 28, 28]`.

    Returns:
        Inputs (float32) and labels `[points]` (int64), positions in `CLOTHES`.

    Raises:
        DataNotFoundError: If the files are absent; says where it looked and how to get them.
        InvalidDataError: If a file is damaged.
        InvalidArgumentError: If `validation` leaves no training image.
    """
    return _load(find_fashion_mnist(root), validation, seed, CLOTHES, flat=flat)


def find_mnist(root: str | os.PathLike[str] | None = None) -> Path:
    """The directory that holds MNIST.

    Raises:
        DataNotFoundError: If the files are absent; says where it looked and how to get them.
    """
    return locate("mnist", FILES, root=root, source=MNIST_SOURCE)


def find_fashion_mnist(root: str | os.PathLike[str] | None = None) -> Path:
    """The directory that holds Fashion-MNIST.

    Raises:
        DataNotFoundError: If the files are absent; says where it looked and how to get them.
    """
    return locate("fashion_mnist", FILES, root=root, source=FASHION_MNIST_SOURCE)


def read_idx(path: Path) -> Tensor:
    """Reads a gzip-compressed idx file of unsigned bytes.

    The format: two zero bytes, the type (0x08), the number of axes, each axis as a big-endian
    32-bit count, then the bytes in row-major order.

    Args:
        path: The file.

    Returns:
        A uint8 tensor with the shape that the file states.

    Raises:
        InvalidDataError: If the file is no such file or is incomplete.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidDataError(
            f"{path} cannot be decompressed", given=str(error), accepted="an idx.gz file"
        ) from error
    if len(raw) < 4 or raw[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        raise InvalidDataError(
            f"{path} is no idx file of unsigned bytes",
            given=f"first bytes {raw[:4].hex()}",
            accepted="first bytes 000008 and the number of axes",
        )
    header = 4 + 4 * raw[3]
    shape = np.frombuffer(raw[4:header].ljust(header - 4, b"\0"), dtype=">u4").tolist()
    if len(raw) != header + math.prod(shape):
        raise InvalidDataError(
            f"{path} is incomplete",
            given=f"{len(raw)} bytes",
            accepted=f"{header + math.prod(shape)} bytes for the shape {shape}",
        )
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape).copy())


def _load(
    directory: Path, validation: int, seed: int, classes: tuple[str, ...], *, flat: bool
) -> Splits:
    train, held_out = hold_out(_load_pair(directory, _TRAIN, flat=flat), validation, seed)
    test = _load_pair(directory, _TEST, flat=flat)
    return Splits(train, held_out, test, classes=classes, pixels=not flat)


def _load_pair(directory: Path, names: tuple[str, str], *, flat: bool) -> TensorPair:
    images, labels = (read_idx(directory / name) for name in names)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise InvalidDataError(
            f"images and labels in {directory} do not fit together",
            given=f"shapes {tuple(images.shape)} and {tuple(labels.shape)}",
            accepted="[points, height, width] and [points]",
        )
    pixels = images.to(torch.float32) / _LARGEST_PIXEL
    return TensorPair(pixels.flatten(1) if flat else pixels.unsqueeze(1), labels.to(torch.int64))
