from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_turbovbi import data
from pyro_turbovbi.data.mnist import read_idx
from pyro_turbovbi.errors import DataNotFoundError, InvalidDataError
from tests.data_required import needs_data


def _idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def _write(path: Path, array: np.ndarray) -> None:
    path.write_bytes(gzip.compress(_idx(array)))


@pytest.fixture(params=["mnist", "fashion_mnist"])
def name(request: pytest.FixtureRequest) -> str:
    """Both sets, which have one format."""
    return str(request.param)


@pytest.fixture
def tiny(name: str, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    directory = tmp_path / name
    directory.mkdir()
    for prefix, points in (("train", 12), ("t10k", 5)):
        images = rng.integers(0, 256, (points, 4, 3))
        images[:, 0, 0], images[:, 0, 1] = np.arange(points), 255
        _write(directory / f"{prefix}-images-idx3-ubyte.gz", images)
        _write(directory / f"{prefix}-labels-idx1-ubyte.gz", np.arange(points) % 10)
    return tmp_path


def test_tiny_files_are_read_and_divided(name: str, tiny: Path) -> None:
    splits = getattr(data, name)(tiny, validation=4)
    assert [tuple(part.x.shape) for part in splits] == [(8, 12), (4, 12), (5, 12)]
    for part in splits:
        assert (part.x.dtype, part.y.dtype) == (torch.float32, torch.int64)
        # The first pixel numbers the image, its label is that modulo ten; the second is white.
        assert torch.equal((part.x[:, 0] * 255).round().long() % 10, part.y)
        assert torch.equal(part.x[:, 1], torch.ones(len(part.x)))
    assert torch.equal(splits.test.y, torch.arange(5))


def test_images_keep_their_axes_when_not_flat(name: str, tiny: Path) -> None:
    load = getattr(data, name)
    flat, square = load(tiny, validation=4), load(tiny, validation=4, flat=False)
    assert square.train.x.shape == (8, 1, 4, 3)
    assert torch.equal(square.train.x.flatten(1), flat.train.x)


@pytest.mark.parametrize("shape", [(3,), (0,), (2, 3), (2, 3, 4)])
def test_read_idx_returns_what_was_written(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape)
    _write(tmp_path / "file.gz", array)
    tensor = read_idx(tmp_path / "file.gz")
    assert tensor.dtype == torch.uint8
    assert np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip at all", "cannot be decompressed"),
        (gzip.compress(_idx(np.zeros(9)))[:-6], "cannot be decompressed"),
        (gzip.compress(b"\x00\x00"), "is no idx file"),
        (gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00"), "is no idx file"),
        (gzip.compress(_idx(np.zeros((2, 3)))[:-1]), "incomplete; given: 17 bytes; accepted: 18"),
        (gzip.compress(_idx(np.zeros((2, 3)))[:7]), "is incomplete"),
    ],
    # by themselves the names would hold the time, and differ among processes that test together
    ids=["no gzip", "cut off", "too short", "wrong type", "a byte lacks", "sizes lack"],
)
def test_damaged_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(InvalidDataError, match=message):
        read_idx(tmp_path / "file.gz")


def test_images_without_their_labels_are_refused(name: str, tiny: Path) -> None:
    _write(tiny / name / "t10k-labels-idx1-ubyte.gz", np.arange(4))
    with pytest.raises(InvalidDataError, match="do not fit together"):
        getattr(data, name)(tiny, validation=2)


def test_an_absent_set_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        getattr(data, name)(tmp_path)
    started = f"the data set {name!r} is not on this machine; given: looked in {tmp_path}/{name}; "
    assert str(caught.value).startswith(f"{started}accepted: `ptv data get {name}`; or a directory")
    assert str(caught.value).endswith(f" as {name}/")


def test_one_is_not_taken_for_the_other(name: str, tiny: Path) -> None:
    other = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}[name]
    with pytest.raises(DataNotFoundError, match=f"the data set {other!r} is not on this machine"):
        getattr(data, other)(tiny)


def test_the_real_set() -> None:
    needs_data("mnist")
    splits = data.mnist()
    assert [tuple(part.x.shape) for part in splits] == [(55000, 784), (5000, 784), (10000, 784)]
    assert splits.test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    pixels = torch.cat([splits.train.x, splits.validation.x])
    assert [pixels.min().item(), pixels.max().item()] == [0.0, 1.0]
    assert pixels.mean().item() == pytest.approx(0.1307, abs=1e-4)
