"""CIFAR-10 and CIFAR-100 from their binary files, CIFAR-10 also from a zip of JPEG files."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_turbovbi.data._optional import optional
from pyro_turbovbi.data.location import cache_directory, complete, data_roots, locate
from pyro_turbovbi.data.splits import Splits, TensorPair, hold_out
from pyro_turbovbi.errors import DataNotFoundError, InvalidDataError

#: Names of the ten classes; the position is the label.
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
Channels: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Binary:
    """How the binary version of one of the data sets is laid out.

    Attributes:
        title: What people call it.
        directory: Its directory below a root.
        train: Names of the files with training images.
        test: Names of the files with test images.
        classes: How many classes each label byte of a record tells apart.
        mean: Mean of each channel over the training images, pixels scaled to [0, 1].
        scale: Standard deviation of each channel over the same.
    """

    title: str
    directory: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: tuple[int, ...]
    mean: Channels
    scale: Channels

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files."""
        return self.train + self.test


SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html, the binary version"
"""Where both data sets are."""
CIFAR10 = Binary(
    "CIFAR-10",
    "cifar-10-batches-bin",
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    ("test_batch.bin",),
    (len(CLASSES),),
    (0.4914, 0.4822, 0.4465),
    (0.2470, 0.2435, 0.2616),
)
"""Records of a label and an image."""
CIFAR100 = Binary(
    "CIFAR-100",
    "cifar-100-binary",
    ("train.bin",),
    ("test.bin",),
    (20, 100),
    (0.5071, 0.4865, 0.4409),
    (0.2673, 0.2564, 0.2762),
)
"""Records of a superclass, a class and an image."""
_COARSE, _FINE = 0, 1  # label bytes of CIFAR-100
_JPEG = PurePosixPath("cifar10_jpeg", "cifar10_jpeg.zip")
_IMAGE = (3, 32, 32)
_LARGEST_PIXEL = 255.0
_THREADS = 4  # half of the work holds the interpreter: more threads gain nothing

Bytes: TypeAlias = npt.NDArray[np.uint8]
#: Images [points, 3, 32, 32] and labels [points] of the training set, then of the test set.
Arrays: TypeAlias = dict[str, Bytes]
_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def cifar10(
    root: str | os.PathLike[str] | None = None, validation: int = 5000, seed: int = 0
) -> Splits:
    """Loads CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels, ten classes.

    Reads the binary version (`cifar-10-batches-bin/`) or, where that is absent, a zip of JPEG files
    named split/class/number.jpg (`cifar10_jpeg/cifar10_jpeg.zip`), whose pixels differ slightly
    from the original ones: `Splits.source` says which it was. Decoded JPEG files are kept in
    `~/.cache/pyro_turbovbi`.

    Args:
        root: Directory that contains either; else the usual places (`PYRO_TURBOVBI_DATA`,
            `~/.cache/pyro_turbovbi`, `../shared/data` beside the checkout).
        validation: How many training images to hold out for choosing settings.
        seed: Seed of that choice.

    Returns:
        Inputs `[points, 3, 32, 32]` (float32), with zero mean and unit variance in every channel
        over the training images, and labels `[points]` (int64), positions in `CLASSES`.

    Raises:
        DataNotFoundError: If there is neither; says where it looked and how to get the data.
        UnsupportedError: If only JPEG files are there, and no Pillow to decode them.
        InvalidDataError: If a file is damaged.
        InvalidArgumentError: If `validation` leaves no training image.
    """
    place = find_cifar10(root)
    binary = place.is_dir()
    arrays = _read_binary(place, CIFAR10) if binary else _read_jpeg(place)
    return _splits(arrays, CIFAR10, validation, seed, source="binary" if binary else "JPEG")


def cifar100(
    root: str | os.PathLike[str] | None = None,
    validation: int = 5000,
    seed: int = 0,
    *,
    coarse: bool = False,
) -> Splits:
    """Loads CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels, a hundred classes.

    Args:
        root: Directory that contains the binary version, `cifar-100-binary/`; else the usual places
            (see `cifar10`).
        validation: How many training images to hold out for choosing settings.
        seed: Seed of that choice.
        coarse: Whether the labels are the 20 superclasses in the place of the 100 classes.

    Returns:
        Inputs `[points, 3, 32, 32]` (float32), with zero mean and unit variance in every channel
        over the training images, and labels `[points]` (int64), in the order of the names in
        `fine_label_names.txt` and `coarse_label_names.txt`, which come with the data.

    Raises:
        DataNotFoundError: If the files are absent; says where it looked and how to get them.
        InvalidDataError: If a file is damaged.
        InvalidArgumentError: If `validation` leaves no training image.
    """
    label = _COARSE if coarse else _FINE
    arrays = _read_binary(find_cifar100(root), CIFAR100, label)
    return _splits(arrays, CIFAR100, validation, seed, label=label)


def find_cifar10(root: str | os.PathLike[str] | None = None) -> Path:
    """The directory of the binary version or, where that is absent, the zip of JPEG files.

    Raises:
        DataNotFoundError: If there is neither; says where it looked and how to get the data.
    """
    roots = data_roots(root)
    for directory in (base / CIFAR10.directory for base in roots):
        if complete(directory, CIFAR10.files):
            return directory
    for archive in (base / _JPEG for base in roots):
        if archive.is_file():
            return archive
    raise DataNotFoundError(
        "the data set 'cifar10' is not on this machine",
        given=f"looked in {', '.join(map(str, roots))}",
        accepted=f"`ptv data get cifar10`; or one of those with {CIFAR10.directory}/ (from "
        f"{SOURCE}) or with {_JPEG}",
    )


def find_cifar100(root: str | os.PathLike[str] | None = None) -> Path:
    """The directory of the binary version.

    Raises:
        DataNotFoundError: If the files are absent; says where it looked and how to get them.
    """
    directory = CIFAR100.directory
    return locate("cifar100", CIFAR100.files, directory=directory, root=root, source=SOURCE)


def _splits(
    arrays: Arrays, kind: Binary, validation: int, seed: int, *, label: int = 0, source: str = ""
) -> Splits:
    train, test = (
        _normalised(arrays[f"{part}_images"], arrays[f"{part}_labels"], kind, kind.classes[label])
        for part in ("train", "test")
    )
    train, held_out = hold_out(train, validation, seed)
    mean, scale = _channels(kind)
    return Splits(
        train,
        held_out,
        test,
        source=source,
        input_mean=mean,
        input_scale=scale,
        classes=CLASSES if kind is CIFAR10 else None,
        pixels=True,
    )


def _normalised(images: Bytes, labels: Bytes, kind: Binary, classes: int) -> TensorPair:
    if len(images) != len(labels) or not len(labels) or labels.max() >= classes:
        raise InvalidDataError(
            f"the images and labels of {kind.title} do not fit together",
            given=f"{len(images)} images, {len(labels)} labels up to {labels.max(initial=0)}",
            accepted=f"as many labels as images, each from 0 to {classes - 1}",
        )
    mean, scale = _channels(kind)
    pixels = torch.from_numpy(images).to(torch.float32).div_(_LARGEST_PIXEL)
    return TensorPair(pixels.sub_(mean).div_(scale), torch.from_numpy(labels).to(torch.int64))


def _channels(kind: Binary) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the channels `[3, 1, 1]`."""
    mean, scale = (torch.tensor(channel).view(3, 1, 1) for channel in (kind.mean, kind.scale))
    return mean, scale


def _read_binary(directory: Path, kind: Binary, label: int = 0) -> Arrays:
    """Records of labels and the pixels of one image, channel by channel, row by row."""
    parts, labels = [], len(kind.classes)
    for files in (kind.train, kind.test):
        raw = np.concatenate([_records(directory / file, labels) for file in files])
        parts += [raw[:, labels:].reshape(-1, *_IMAGE), raw[:, label]]
    return dict(zip(_KEYS, parts, strict=True))


def _records(path: Path, labels: int) -> Bytes:
    raw, size = np.fromfile(path, dtype=np.uint8), labels + int(np.prod(_IMAGE))
    if len(raw) % size:
        raise InvalidDataError(
            f"{path} is incomplete", given=f"{len(raw)} bytes", accepted=f"a multiple of {size}"
        )
    return raw.reshape(-1, size)


def _read_jpeg(archive: Path) -> Arrays:
    """The decoded files of a zip: those kept from last time, or decoded now and kept."""
    digest = hashlib.blake2b(archive.read_bytes(), digest_size=8).hexdigest()
    kept = cache_directory() / f"cifar10-{digest}.npz"
    # npz is a zip: reading it verifies the checksum of every array. One that is damaged, in
    # whatever way, is made again.
    with suppress(Exception), kept.open("rb") as stream, np.load(stream) as file:
        return {key: file[key] for key in _KEYS}
    arrays = _decode(archive)
    with suppress(OSError):  # a cache that cannot be written is no reason to fail
        _keep(kept, arrays)
    return arrays


def _keep(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    unfinished.replace(path)


def _decode(archive: Path) -> Arrays:
    open_image = optional(
        "PIL.Image",
        "JPEG files need Pillow, which is not installed",
        "data",
        given=str(archive),
        instead=f"`ptv data get cifar10`, which fetches {CIFAR10.directory}/",
    ).open

    def pixels(content: bytes) -> Bytes:
        with open_image(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1)

    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(archive) as files, ThreadPoolExecutor(_THREADS) as pool:
            for split in ("train", "test"):
                names = sorted(name for name in files.namelist() if name.startswith(f"{split}/"))
                images = pool.map(pixels, map(files.read, names), chunksize=64)
                labels = [CLASSES.index(PurePosixPath(name).parent.name) for name in names]
                arrays[f"{split}_images"] = np.stack(list(images))
                arrays[f"{split}_labels"] = np.array(labels, dtype=np.uint8)
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise InvalidDataError(
            f"{archive} cannot be read",
            given=str(error),
            accepted="a zip of JPEG files of one size, named split/class/number.jpg",
        ) from error
    return arrays


__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CLASSES",
    "SOURCE",
    "Binary",
    "cifar10",
    "cifar100",
    "find_cifar10",
    "find_cifar100",
]
